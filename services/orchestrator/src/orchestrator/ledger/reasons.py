"""Why runs do not go on, or ended: one row a run, written by whoever finds out.

A row of its own, because the run's row may be locked by a dispatcher that waits for Prefect.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.holds import Open
from orchestrator.ledger.connection import transaction
from orchestrator.ledger.events import Event, append
from orchestrator.ledger.tables import backfills, held, reasons, runs, unfinished
from orchestrator.reasons import Reason
from orchestrator.runs import State

EXPLAINED_FOR = timedelta(hours=1)  # how long a cause is looked for; afterwards pods and logs are gone anyway
FIRST_END = "PL101"  # ids sort: those below hold a run, the others ended one
_TOLD = [runs.c[name] for name in ("run_id", "pipeline", "correlation_id", "state", "state_name")]


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
        query = select(*_TOLD).where(runs.c.run_id.in_(found), unfinished).order_by(runs.c.run_id)
        rows = list(await connection.execute(query))
        known = await connection.execute(select(reasons).where(reasons.c.run_id.in_([row.run_id for row in rows])))
        earlier = {row.run_id: _of(row) for row in known}
        noted, events = [], []
        free = list[UUID]()
        put: dict[bool, dict[UUID, Reason]] = {False: {}, True: {}}
        for row in rows:
            before, after = earlier.get(row.run_id), found[row.run_id]
            if before is not None and after is not None and before.id == after.id:
                after = replace(after, since=before.since)
            if before == after:
                continue
            if after is None:
                free.append(row.run_id)
            else:
                put[before is not None and before.id >= FIRST_END][row.run_id] = after
            if before is None or after is None or before.id != after.id:
                events.append(_event(row, after, kind="held"))
                noted.append(
                    Noted(
                        run_id=row.run_id,
                        pipeline=row.pipeline,
                        correlation_id=row.correlation_id,
                        before=before,
                        after=after,
                    )
                )
        if free:
            await connection.execute(delete(reasons).where(reasons.c.run_id.in_(free)))
        for over_an_end, some in put.items():
            await _put(connection, some, over_an_end=over_an_end)
        await append(connection, events)
    return noted


async def explain(db: AsyncEngine, run_id: UUID, cause: Reason) -> None:
    """Write down why a run ended, in place of what held it before."""
    async with transaction(db) as connection:
        row = (await connection.execute(select(runs).where(runs.c.run_id == run_id))).one()
        await _put(connection, {run_id: cause}, over_an_end=True)
        await append(connection, [_event(row, cause, kind="explained")])


async def unexplained(db: AsyncEngine, *, limit: int = 20) -> list[Row[Any]]:
    """Runs that failed or crashed a short while ago, of which nobody knows yet why; the latest first.

    A run that was ended because of what held it keeps that reason: its message says so.
    """
    query = (
        select(runs, reasons.c.id.label("reason"))
        .select_from(runs.outerjoin(reasons, reasons.c.run_id == runs.c.run_id))
        .where(
            runs.c.state.in_((State.FAILED, State.CRASHED)),
            runs.c.ended_at > func.now() - EXPLAINED_FOR,
            or_(reasons.c.id.is_(None), reasons.c.id < FIRST_END),
            or_(reasons.c.id.is_(None), runs.c.message.is_(None), ~runs.c.message.contains(reasons.c.id)),
        )
        .order_by(runs.c.ended_at.desc())
        .limit(limit)
    )
    async with transaction(db) as connection:
        return list(await connection.execute(query))


async def settle(db: AsyncEngine) -> None:
    """Forget what held runs that came to a good end, or were cancelled."""
    over = runs.c.state.in_((State.COMPLETED, State.CANCELLED))
    query = delete(reasons).where(reasons.c.run_id == runs.c.run_id, reasons.c.id < FIRST_END, over)
    async with transaction(db) as connection:
        await connection.execute(query)


async def open_runs(db: AsyncEngine) -> list[Open]:
    """Every run that is not over, oldest first."""
    async with transaction(db) as connection:
        return [
            Open(
                run_id=row.run_id,
                pipeline=row.pipeline,
                flow_run_id=row.flow_run_id,
                state=State(row.state),
                accepted_at=row.accepted_at,
                attempts=row.dispatch_attempts,
                last_error=row.last_error,
                steps_aside=row.steps_aside,
                backfill_id=row.backfill_id,
                backfill_paused=row.paused_at is not None,
                held_back=row.held_back,
            )
            for row in await connection.execute(_OPEN)
        ]


_OPEN = (
    select(
        # without its parameters: of a long backlog they are most of what is read
        *(runs.c[name] for name in ("run_id", "pipeline", "flow_run_id", "state", "accepted_at", "dispatch_attempts")),
        *(runs.c[name] for name in ("last_error", "steps_aside", "backfill_id")),
        backfills.c.paused_at,
        held.label("held_back"),
    )
    .select_from(runs.outerjoin(backfills, backfills.c.id == runs.c.backfill_id))
    .where(unfinished)
    .order_by(runs.c.accepted_at)
)


async def _put(connection: AsyncConnection, found: Mapping[UUID, Reason], *, over_an_end: bool) -> None:
    if not found:
        return
    new = upsert(reasons)
    values = {name: new.excluded[name] for name in ("id", "detail", "fix", "since")}
    # who ends a run and who looks at it may be two replicas: what it ended of is not overwritten by what held it before
    only = None if over_an_end else reasons.c.id < FIRST_END
    statement = new.on_conflict_do_update(index_elements=["run_id"], set_=values, where=only)
    rows = [
        {"run_id": run_id, "id": one.id, "detail": one.detail, "fix": one.fix, "since": one.since}
        for run_id, one in found.items()
    ]
    await connection.execute(statement, rows)


def _of(row: Row[Any]) -> Reason:
    return Reason(id=row.id, detail=row.detail, fix=row.fix, since=row.since)


def _event(row: Row[Any], reason: Reason | None, *, kind: str) -> Event:
    return {
        "run_id": row.run_id,
        "pipeline": row.pipeline,
        "kind": kind,
        "at": datetime.now(UTC),
        "state": row.state,
        "state_name": row.state_name,
        "message": str(reason) if reason else None,
        "duration_ms": None,
        "reason": reason.id if reason else None,
    }
