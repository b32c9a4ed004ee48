"""The orchestrator's own memory in PostgreSQL: pipelines, runs, and what happened to them.

`connection` opens it and turns its failures into LedgerUnavailable; `tables` is its shape; `acceptance`, `handover`,
`following` and `reading` are the four uses of it, `leadership` decides which replica follows Prefect.
"""
