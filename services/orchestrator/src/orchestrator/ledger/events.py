"""What is told of a run's changes: the rows of `run_events`, and the same for metrics and logs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Insert, bindparam, column, func, insert, select
from sqlalchemy.dialects.postgresql import JSONB
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
    """Write events down, in this order: the last thing a transaction does, after every lock on a run.

    In one statement, because the lock that keeps all events in order is held until the commit.
    """
    if events:
        told = [{"reason": None} | one | {"run_id": str(one["run_id"]), "at": one["at"].isoformat()} for one in events]
        await connection.execute(_INSERT, {"events": told})


def _inserting() -> Insert:
    told = (
        func.jsonb_to_recordset(bindparam("events", type_=JSONB))
        .table_valued(*(column(name, run_events.c[name].type) for name in _TOLD))
        .render_derived(with_types=True)
    )
    return insert(run_events).from_select([*_TOLD], select(*(told.c[name] for name in _TOLD)))


_TOLD = ("run_id", "pipeline", "kind", "at", "state", "state_name", "message", "duration_ms", "reason")
_INSERT = _inserting()
