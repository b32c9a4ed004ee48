"""A typed client of the orchestrator's HTTP API, and the command `pipelines`."""
