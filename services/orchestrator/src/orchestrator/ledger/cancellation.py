"""Wishes to cancel: durable once asked for, and carried out by whichever replica takes one.

A wish has a row of its own, because the run's row may be locked by a dispatcher that waits for Prefect.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.ledger.connection import autocommit, transaction
from orchestrator.ledger.events import Seen, append
from orchestrator.ledger.tables import cancellations, runs, waiting
from orchestrator.runs import State

BEFORE_HANDOVER = "cancelled before it was handed to Prefect"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What became of a wish at once. `state` is where the run is, or is going; `late`: it was over before."""

    state: State
    correlation_id: str
    late: bool = False
    ended: Seen | None = None


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A wish that nobody else can take until the block of `claim` ends; the outcome commits with it."""

    connection: AsyncConnection
    run_id: UUID
    pipeline: str
    correlation_id: str
    flow_run_id: UUID | None
    over: bool
    sent_at: datetime | None
    attempts: int

    async def sent(self, *, look_in: float) -> None:
        """Prefect has taken it; see in `look_in` seconds what came of it."""
        await self._note(sent_at=func.clock_timestamp(), next_attempt_at=_in(look_in), attempts=0, last_error=None)

    async def settled(self) -> None:
        """There is nothing more to do about it."""
        await self._note(settled_at=func.clock_timestamp(), last_error=None)

    async def postponed(self, error: str, *, wait: float) -> None:
        """Not now; again in `wait` seconds."""
        await self._note(next_attempt_at=_in(wait), attempts=self.attempts + 1, last_error=error)

    async def _note(self, **values: Any) -> None:
        await self.connection.execute(
            update(cancellations).where(cancellations.c.run_id == self.run_id).values(**values)
        )


def _in(seconds: float) -> Any:
    return func.clock_timestamp() + timedelta(seconds=seconds)


async def ask(db: AsyncEngine, pipeline: str, run_id: UUID) -> Asked | None:
    """Commit the wish to cancel a run, and end the run here where Prefect does not have it; None for no such run."""
    async with transaction(db) as connection:
        query = select(runs.c.state, runs.c.ended_at, runs.c.dispatched_at, runs.c.correlation_id)
        row = (
            await connection.execute(query.where(runs.c.run_id == run_id, runs.c.pipeline == pipeline))
        ).one_or_none()
        if row is None:
            return None
        if row.ended_at is not None:
            return Asked(state=State(row.state), correlation_id=row.correlation_id, late=True)
        if row.dispatched_at is None:
            ended = await end_waiting(connection, [run_id])
            if ended:
                await announce(connection, ended)
                return Asked(state=State.CANCELLED, correlation_id=row.correlation_id, ended=ended[0])
        await wish(connection, [run_id])
        return Asked(state=State.CANCELLING, correlation_id=row.correlation_id)


async def wish(connection: AsyncConnection, run_ids: Collection[UUID], *, again: bool = False) -> None:
    """Write wishes down. One that is there already stays as it is, or with `again` is begun anew."""
    if not run_ids:
        return
    now = func.clock_timestamp()
    new = upsert(cancellations).values([{"run_id": one, "asked_at": now, "next_attempt_at": now} for one in run_ids])
    if again:
        anew = {"sent_at": None, "settled_at": None, "next_attempt_at": now}
        await connection.execute(new.on_conflict_do_update(index_elements=["run_id"], set_=anew))
    else:
        await connection.execute(new.on_conflict_do_nothing())


async def end_waiting(connection: AsyncConnection, run_ids: Collection[UUID]) -> list[Seen]:
    """End those of the runs that still wait for their hand-over and that no dispatcher holds right now.

    Whoever holds a run's row decides what becomes of it: a run that is ended here can never be handed over. The caller
    announces the ends in the same transaction.
    """
    free = select(runs.c.run_id).where(waiting, runs.c.run_id.in_(run_ids))
    held = (await connection.execute(free.with_for_update(skip_locked=True, key_share=True))).scalars().all()
    ended = await connection.execute(
        update(runs)
        .where(runs.c.run_id.in_(held))
        .values(
            state=State.CANCELLED,
            state_name=State.CANCELLED,
            message=BEFORE_HANDOVER,
            ended_at=func.clock_timestamp(),
            next_attempt_at=None,
        )
        .returning(runs)
    )
    return [
        Seen(
            run_id=row.run_id,
            pipeline=row.pipeline,
            correlation_id=row.correlation_id,
            before=State.SCHEDULED,
            state=State.CANCELLED,
            state_name=row.state_name,
            message=row.message,
            accepted_at=row.accepted_at,
            started_at=None,
            ended_at=row.ended_at,
            first_start=False,
            traceparent=row.traceparent,
        )
        for row in ended
    ]


async def announce(connection: AsyncConnection, ended: Collection[Seen]) -> None:
    """Write down the events of runs that `end_waiting` ended: the last thing a transaction does."""
    told = [
        {
            "run_id": one.run_id,
            "pipeline": one.pipeline,
            "kind": "ended",
            "at": one.ended_at,
            "state": one.state,
            "state_name": one.state_name,
            "message": one.message,
            "duration_ms": 0,
        }
        for one in ended
    ]
    await append(connection, told)


@asynccontextmanager
async def claim(db: AsyncEngine) -> AsyncIterator[Wish | None]:
    """The wish that has been due the longest, locked for as long as the block lasts; None when none is due."""
    query = (
        select(
            cancellations.c.sent_at,
            cancellations.c.attempts,
            runs.c.run_id,
            runs.c.pipeline,
            runs.c.correlation_id,
            runs.c.flow_run_id,
            runs.c.ended_at,
        )
        .join(runs, runs.c.run_id == cancellations.c.run_id)
        .where(cancellations.c.settled_at.is_(None), cancellations.c.next_attempt_at <= func.clock_timestamp())
        .order_by(cancellations.c.next_attempt_at, cancellations.c.run_id)
        .limit(1)
        .with_for_update(of=cancellations, skip_locked=True)
    )
    async with transaction(db) as connection:
        row = (await connection.execute(query)).one_or_none()
        yield row and Wish(
            connection=connection,
            run_id=row.run_id,
            pipeline=row.pipeline,
            correlation_id=row.correlation_id,
            flow_run_id=row.flow_run_id,
            over=row.ended_at is not None,
            sent_at=row.sent_at,
            attempts=row.attempts,
        )


async def next_due(db: AsyncEngine) -> datetime | None:
    """When the next open wish may be tried; None when there is none."""
    query = select(func.min(cancellations.c.next_attempt_at)).where(cancellations.c.settled_at.is_(None))
    async with autocommit(db) as connection:
        due: datetime | None = (await connection.execute(query)).scalar_one()
    return due


async def hurry(db: AsyncEngine) -> None:
    """Let the wishes that wait for Prefect to come back be tried now: it has."""
    now = func.clock_timestamp()
    late = update(cancellations).where(
        cancellations.c.settled_at.is_(None),
        cancellations.c.last_error.is_not(None),
        cancellations.c.next_attempt_at > now,
    )
    async with transaction(db) as connection:
        await connection.execute(late.values(next_attempt_at=now))
