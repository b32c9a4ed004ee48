"""The orchestrator's tags on a flow run. Imported before Prefect is, so it imports nothing of it."""

import re
from collections.abc import Iterable
from uuid import UUID

RUN_ID_TAG = "run-id:"
CORRELATION_TAG = "correlation-id:"

# What the orchestrator takes for a correlation id: a tag is anybody's text.
_CORRELATION_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def correlation_id(flow_run_id: UUID, tags: Iterable[str]) -> str:
    """The first that the tags carry, else the flow run's own id: the orchestrator comes to the same."""
    given = (tag.removeprefix(CORRELATION_TAG) for tag in tags if tag.startswith(CORRELATION_TAG))
    return next((one for one in given if _CORRELATION_ID.fullmatch(one)), str(flow_run_id))
