"""What is told of a run's changes: the rows of `run_events`, and the same for metrics and logs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.ledger.tables import run_events
from orchestrator.runs import State

Event = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A change that was recorded: what metrics and logs are made of."""

    run_id: UUID
    pipeline: str
    correlation_id: str
    before: State | None
    state: State
    state_name: str
    message: str | None
    accepted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    first_start: bool
    traceparent: str | None = None

    @property
    def told(self) -> dict[str, Any]:
        """The change as a line of the log has it."""
        return {
            "run_id": str(self.run_id),
            "pipeline": self.pipeline,
            "correlation_id": self.correlation_id,
            "state": str(self.state),
            "state_name": self.state_name,
            "message": self.message,
        }


def submission(run_id: UUID, pipeline: str, at: datetime) -> Event:
    """The first event of a run."""
    return {
        "run_id": run_id,
        "pipeline": pipeline,
        "kind": "submitted",
        "at": at,
        "state": State.SCHEDULED,
        "state_name": State.SCHEDULED,
        "message": None,
        "duration_ms": None,
    }


async def append(connection: AsyncConnection, events: Sequence[Event]) -> None:
    """Write events down, in this order: the last thing a transaction does, after every lock on a run."""
    if events:
        await connection.execute(insert(run_events), [{"reason": None} | one for one in events])
