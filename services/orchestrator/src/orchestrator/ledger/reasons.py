"""Why runs do not go on, or ended: one row a run, written by whoever finds out.

A row of its own, because the run's row may be locked by a dispatcher that waits for Prefect.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, delete, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.ledger.connection import transaction
from orchestrator.ledger.events import Event, append
from orchestrator.ledger.tables import reasons, runs, unfinished
from orchestrator.reasons import Reason

FIRST_END = "PL101"  # ids sort: those below hold a run, the others ended one


@dataclass(frozen=True, kw_only=True)
class Noted:
    """Another reason than before was written down; `after` is None where nothing holds the run any more."""

    run_id: UUID
    pipeline: str
    correlation_id: str
    before: Reason | None
    after: Reason | None


async def read(db: AsyncEngine, run_ids: Collection[UUID]) -> dict[UUID, Reason]:
    """The reasons of those of the runs that have one."""
    if not run_ids:
        return {}
    async with transaction(db) as connection:
        found = await connection.execute(select(reasons).where(reasons.c.run_id.in_(run_ids)))
        return {row.run_id: _of(row) for row in found}


async def hold(db: AsyncEngine, found: Mapping[UUID, Reason | None]) -> list[Noted]:
    """Write down what holds each of these runs now, None for nothing; return where that is another reason than before.

    The same reason keeps its `since`, whatever its evidence is now. Runs that are over are left as they are.
    """
    async with transaction(db) as connection:
        query = select(runs).where(runs.c.run_id.in_(found), unfinished).order_by(runs.c.run_id)
        rows = list(await connection.execute(query))
        known = await connection.execute(select(reasons).where(reasons.c.run_id.in_([row.run_id for row in rows])))
        earlier = {row.run_id: _of(row) for row in known}
        noted, events = [], []
        for row in rows:
            before, after = earlier.get(row.run_id), found[row.run_id]
            if before is not None and after is not None and before.id == after.id:
                after = replace(after, since=before.since)
            if before == after:
                continue
            if after is None:
                await forget(connection, [row.run_id])
            else:
                await _put(connection, row.run_id, after, over_an_end=before is not None and before.id >= FIRST_END)
            if before is None or after is None or before.id != after.id:
                events.append(_event(row, after))
                noted.append(
                    Noted(
                        run_id=row.run_id,
                        pipeline=row.pipeline,
                        correlation_id=row.correlation_id,
                        before=before,
                        after=after,
                    )
                )
        await append(connection, events)
    return noted


async def explain(connection: AsyncConnection, run_id: UUID, cause: Reason) -> None:
    """Write down why a run ended, in the transaction that ends it."""
    await _put(connection, run_id, cause, over_an_end=True)


async def forget(connection: AsyncConnection, run_ids: Collection[UUID]) -> None:
    """Take back the reasons of these runs: nothing holds them, and they did not fail."""
    if run_ids:
        await connection.execute(delete(reasons).where(reasons.c.run_id.in_(run_ids)))


async def _put(connection: AsyncConnection, run_id: UUID, reason: Reason, *, over_an_end: bool) -> None:
    values = {"id": reason.id, "detail": reason.detail, "fix": reason.fix, "since": reason.since}
    # who ends a run and who looks at it may be two replicas: what it ended of is not overwritten by what held it before
    only = None if over_an_end else reasons.c.id < FIRST_END
    new = upsert(reasons).values(run_id=run_id, **values)
    await connection.execute(new.on_conflict_do_update(index_elements=["run_id"], set_=values, where=only))


def _of(row: Row[Any]) -> Reason:
    return Reason(id=row.id, detail=row.detail, fix=row.fix, since=row.since)


def _event(row: Row[Any], reason: Reason | None) -> Event:
    return {
        "run_id": row.run_id,
        "pipeline": row.pipeline,
        "kind": "held",
        "at": datetime.now(UTC),
        "state": row.state,
        "state_name": row.state_name,
        "message": str(reason) if reason else None,
        "duration_ms": None,
        "reason": reason.id if reason else None,
    }
