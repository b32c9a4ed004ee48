"""Runs that stopped on their way, in the ledger: which they may be, who acts on one, and what was decided."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.ledger.cancellation import wish
from orchestrator.ledger.connection import transaction
from orchestrator.ledger.handover import unwanted
from orchestrator.ledger.tables import pipelines, runs, unfinished

UNHEARD = timedelta(seconds=60)  # how old Prefect's last word on a pipeline may be for its runs' waits to count
INTERRUPTION = timedelta(minutes=5)  # after a longer one nobody can say what a run has waited for
NOTED_EVERY = timedelta(seconds=60)

handed_over = and_(unfinished, runs.c.flow_run_id.is_not(None))
waited = select(runs, unwanted.label("unwanted"))


async def going(db: AsyncEngine) -> list[Row[Any]]:
    """Every run that Prefect has and that is not over, oldest first."""
    async with transaction(db) as connection:
        return list(await connection.execute(waited.where(handed_over).order_by(runs.c.accepted_at, runs.c.run_id)))


async def of_flow_runs(db: AsyncEngine, flow_runs: Collection[UUID]) -> list[Row[Any]]:
    """The runs that these flow runs execute; flow runs of others are left out."""
    async with transaction(db) as connection:
        return list(await connection.execute(waited.where(runs.c.flow_run_id.in_(flow_runs))))


async def hosts(db: AsyncEngine, flow_runs: Collection[UUID], *, since: datetime) -> set[UUID]:
    """Those of the flow runs whose pod executes another run, or has executed one that ended after `since`."""
    query = select(runs.c.pod_of).where(runs.c.pod_of.in_(flow_runs), or_(unfinished, runs.c.ended_at > since))
    async with transaction(db) as connection:
        return set((await connection.execute(query)).scalars())


async def any_going(db: AsyncEngine, flow_runs: Collection[UUID]) -> bool:
    """Whether one of these flow runs executes a run that is not over."""
    query = select(runs.c.run_id).where(runs.c.flow_run_id.in_(flow_runs), unfinished).limit(1)
    async with transaction(db) as connection:
        return (await connection.execute(query)).first() is not None


async def planned(db: AsyncEngine, names: Collection[str], *, since: datetime) -> list[Row[Any]]:
    """The runs of these pipelines that the schedule made and that are not over or were due after `since`."""
    query = waited.where(
        runs.c.pipeline.in_(names), runs.c.origin == "schedule", or_(unfinished, runs.c.accepted_at > since)
    )
    async with transaction(db) as connection:
        return list(await connection.execute(query.order_by(runs.c.accepted_at)))


@asynccontextmanager
async def held(db: AsyncEngine, run_id: UUID) -> AsyncIterator[Row[Any] | None]:
    """One run as it is now, for one caller at a time until the block ends; None while another acts on it.

    Its row is not locked: what Prefect says of it can be written down meanwhile.
    """
    mine = select(func.pg_try_advisory_xact_lock(func.hashtextextended(f"recover {run_id}", 0)))
    async with transaction(db) as connection:
        if not (await connection.execute(mine)).scalar_one():
            yield None
            return
        yield (await connection.execute(waited.where(runs.c.run_id == run_id))).one_or_none()


async def give_up(db: AsyncEngine, run_id: UUID, reason: str) -> None:
    """Decide that a run which is not over ends, whatever attempts are left."""
    async with transaction(db) as connection:
        await connection.execute(
            update(runs).where(runs.c.run_id == run_id, unfinished).values(given_up=reason, rerun_due=False)
        )


async def goes_on_anew(db: AsyncEngine, run_id: UUID) -> None:
    """Note that Prefect has taken a crashed run for its next attempt: its wait for a start begins."""
    async with transaction(db) as connection:
        await connection.execute(
            update(runs).where(runs.c.run_id == run_id).values(rerun_due=False, waits_since=func.clock_timestamp())
        )


async def goes_on_by_itself(db: AsyncEngine, run_id: UUID) -> None:
    """Note that a run which was to be rerun is not Crashed any more: its old process lives, or gave it back."""
    async with transaction(db) as connection:
        await connection.execute(update(runs).where(runs.c.run_id == run_id).values(rerun_due=False))


async def insist(db: AsyncEngine, run_id: UUID) -> None:
    """Have a wish to cancel carried out again: the run goes on, and the wish may have met it when it did not."""
    async with transaction(db) as connection:
        asked = await connection.execute(select(runs.c.run_id).where(runs.c.run_id == run_id, unwanted))
        await wish(connection, asked.scalars().all(), again=True)


async def had_no_room(db: AsyncEngine, run_ids: Collection[UUID]) -> None:
    """Let the start deadline of runs that wait for a full concurrency limit count from now on."""
    now = func.clock_timestamp()
    stale = or_(runs.c.waits_since.is_(None), runs.c.waits_since < now - NOTED_EVERY)
    async with transaction(db) as connection:
        await connection.execute(update(runs).where(runs.c.run_id.in_(run_ids), stale).values(waits_since=now))


async def watch(db: AsyncEngine, names: Collection[str]) -> set[str]:
    """Those pipelines of whose runs it can be said how long they have waited.

    Prefect has told of them lately. After an interruption, of Prefect or of this service, the waits begin anew: a run
    could not be started meanwhile, and that is not its fault.
    """
    now = func.clock_timestamp()
    query = (
        select(
            pipelines.c.pipeline,
            (pipelines.c.seen_at >= now - UNHEARD).label("heard"),
            or_(pipelines.c.watched_at.is_(None), pipelines.c.seen_at - pipelines.c.watched_at > INTERRUPTION).label(
                "interrupted"
            ),
        )
        .where(pipelines.c.pipeline.in_(names))
        .with_for_update()
    )
    async with transaction(db) as connection:
        heard = [row for row in await connection.execute(query) if row.heard]
        interrupted = [row.pipeline for row in heard if row.interrupted]
        if interrupted:
            await _wait_anew(connection, interrupted)
        await connection.execute(
            update(pipelines)
            .where(pipelines.c.pipeline.in_([row.pipeline for row in heard]))
            .where(or_(pipelines.c.watched_at.is_(None), pipelines.c.seen_at > pipelines.c.watched_at))
            .values(watched_at=pipelines.c.seen_at)
        )
    return {row.pipeline for row in heard}


async def _wait_anew(connection: AsyncConnection, names: Collection[str]) -> None:
    await connection.execute(
        update(runs).where(runs.c.pipeline.in_(names), handed_over).values(waits_since=func.clock_timestamp())
    )


def waits_since(row: Row[Any]) -> datetime:
    """From when a run's wait for its start counts."""
    handed_over_at: datetime = row.dispatched_at or row.accepted_at
    return max(handed_over_at, row.waits_since or handed_over_at)
