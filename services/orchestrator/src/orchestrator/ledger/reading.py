"""Reading the ledger: one run, pages of runs and of reports, pipelines at a glance, the counts behind metrics."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Row, Select, Text, Uuid, and_, any_, bindparam, cast, func, lateral, select, true, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.ledger.connection import autocommit, repeatable, transaction
from orchestrator.ledger.tables import (
    cancellations,
    pipelines,
    reasons,
    run_events,
    runs,
    succeeded,
    unfinished,
    waiting,
)
from orchestrator.ledger.together import Together
from orchestrator.runs import Facts, Schedule, State


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """What the ledger knows of a pipeline from Prefect's last answer."""

    facts: Facts
    next_starts: tuple[datetime, ...]
    seen_at: datetime
    missing_since: datetime | None
    source_breaker: str | None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which runs, or reports of runs, a page shows."""

    pipeline: str
    state: State | None = None
    logical_date: date | None = None
    limit: int = 50


# what held a run that came to a good end may not be forgotten yet
_counts = and_(reasons.c.run_id == runs.c.run_id, runs.c.state.not_in((State.COMPLETED, State.CANCELLED)))
_reason = [reasons.c[name].label(f"reason_{name}") for name in ("id", "detail", "fix", "since")]
shown = select(runs, cancellations.c.asked_at.label("cancel_requested_at"), *_reason).select_from(
    runs.outerjoin(cancellations, cancellations.c.run_id == runs.c.run_id).outerjoin(reasons, _counts)
)


_PIPELINES = select(pipelines)
# Made once, as every statement that is asked all the time: making one costs as much as asking it.
_THESE_PIPELINES = _PIPELINES.where(pipelines.c.pipeline == any_(bindparam("names", type_=ARRAY(Text))))
_THESE = shown.where(runs.c.run_id == any_(bindparam("run_ids", type_=ARRAY(Uuid))))


async def clock_ahead(db: AsyncEngine) -> float:
    """By how many seconds the database's clock is ahead of this machine's. Raises LedgerUnavailable."""
    async with autocommit(db) as connection:
        asked = datetime.now(UTC)
        told: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
        heard = datetime.now(UTC)
    return (told - (asked + (heard - asked) / 2)).total_seconds()


class Reader:
    """What requests ask most: those of one moment are answered by one statement, begun after the last of them came."""

    def __init__(self, db: AsyncEngine) -> None:
        self._db = db
        self._runs: Together[UUID, Row[Any] | None] = Together(self._read_runs)
        self._pipelines: Together[str, Remembered | None] = Together(self._read_pipelines)
        self._latest: dict[str, Facts] = {}

    async def run(self, pipeline: str, run_id: UUID) -> Row[Any] | None:
        """One run's row, None where the pipeline has no such run."""
        row = await self._runs.ask(run_id)
        return row if row is not None and row.pipeline == pipeline else None

    async def remembered(self, pipeline: str) -> Remembered | None:
        """What is known of one pipeline; None where it was never seen."""
        return await self._pipelines.ask(pipeline)

    async def _read_runs(self, run_ids: Sequence[UUID]) -> list[Row[Any] | None]:
        async def read() -> dict[UUID, Row[Any]]:
            async with autocommit(self._db) as connection:
                return {row.run_id: row for row in await connection.execute(_THESE, {"run_ids": list(run_ids)})}

        rows = await repeatable(read)
        return [rows.get(run_id) for run_id in run_ids]

    async def _read_pipelines(self, names: Sequence[str]) -> list[Remembered | None]:
        found = await repeatable(lambda: remembered(self._db, set(names)))
        for name, one in found.items():
            before = self._latest.setdefault(name, one.facts)
            if before == one.facts:
                found[name] = replace(one, facts=before)  # what was made of them is kept: their validator
            else:
                self._latest[name] = one.facts
        return [found.get(name) for name in names]


async def recent(db: AsyncEngine, wanted: Wanted, after: tuple[datetime, UUID] | None) -> list[Row[Any]]:
    """Up to limit + 1 runs, newest first, older than the place `after` names; the extra one says that more follow."""
    query = _only(shown.where(runs.c.pipeline == wanted.pipeline), wanted, runs.c.state)
    if after is not None:
        query = query.where(tuple_(runs.c.accepted_at, runs.c.run_id) < after)
    query = query.order_by(runs.c.accepted_at.desc(), runs.c.run_id.desc()).limit(wanted.limit + 1)
    async with autocommit(db) as connection:
        return list(await connection.execute(query))


async def reports(db: AsyncEngine, wanted: Wanted, after: int | None) -> list[Row[Any]]:
    """Up to limit + 1 submissions and ends of runs, latest recorded first, recorded before the event `after`."""
    event = run_events.c
    query = (
        select(
            event.id,
            event.run_id,
            event.at,
            event.kind,
            event.state,
            event.state_name,
            event.message,
            event.duration_ms,
            runs.c.logical_date,
            runs.c.origin,
            runs.c.ended_at.label("run_ended_at"),
            *_reason,
        )
        .select_from(run_events.join(runs, runs.c.run_id == event.run_id).outerjoin(reasons, _counts))
        .where(event.pipeline == wanted.pipeline, event.kind != "changed", event.kind.in_(("submitted", "ended")))
    )
    page = _only(query, wanted, event.state)
    if after is not None:
        page = page.where(event.id < after)
    async with autocommit(db) as connection:
        return list(await connection.execute(page.order_by(event.id.desc()).limit(wanted.limit + 1)))


def _only(query: Select[Any], wanted: Wanted, state: Any) -> Select[Any]:
    if wanted.state is not None:
        query = query.where(state == wanted.state)
    if wanted.logical_date is not None:
        query = query.where(runs.c.logical_date == wanted.logical_date)
    return query


async def remembered(db: AsyncEngine, names: Collection[str] | None = None) -> dict[str, Remembered]:
    """What is known of these pipelines, of every one without `names`, by its name."""
    async with autocommit(db) as connection:
        if names is None:
            rows = list(await connection.execute(_PIPELINES))
        else:
            rows = list(await connection.execute(_THESE_PIPELINES, {"names": list(names)}))
    return {
        row.pipeline: Remembered(
            facts=Facts(
                deployment=row.deployment,
                deployment_id=row.deployment_id,
                flow=row.deployment.split("/")[0],
                parameter_schema=row.parameter_schema,
                defaults=row.defaults,
                schedules=tuple(Schedule(**one) for one in row.schedules),
                paused=row.paused,
            ),
            next_starts=tuple(datetime.fromisoformat(one) for one in row.next_starts),
            seen_at=row.seen_at,
            missing_since=row.missing_since,
            source_breaker=row.source_breaker,
        )
        for row in rows
    }


async def last_runs(db: AsyncEngine, names: list[str]) -> dict[str, Row[Any]]:
    """The latest run of each of these pipelines that has one."""
    named = func.unnest(cast(names, ARRAY(Text))).table_valued("pipeline").render_derived()
    latest = lateral(
        select(runs)
        .where(runs.c.pipeline == named.c.pipeline)
        .order_by(runs.c.accepted_at.desc(), runs.c.run_id.desc())
        .limit(1)
    )
    async with autocommit(db) as connection:
        rows = list(await connection.execute(select(latest).select_from(named.join(latest, true()))))
    return {row.pipeline: row for row in rows}


async def holds(db: AsyncEngine) -> list[Row[Any]]:
    """By pipeline and reason: how many runs it holds, and the evidence and fix of the one that is held the longest."""
    place = func.row_number().over(partition_by=(runs.c.pipeline, reasons.c.id), order_by=reasons.c.since)
    count = func.count().over(partition_by=(runs.c.pipeline, reasons.c.id))
    every = (
        select(runs.c.pipeline, runs.c.logical_date, reasons, place.label("place"), count.label("held"))
        .select_from(reasons.join(runs, runs.c.run_id == reasons.c.run_id))
        .where(unfinished)
        .subquery()
    )
    query = select(every).where(every.c.place == 1).order_by(every.c.pipeline, every.c.id)
    async with autocommit(db) as connection:
        return list(await connection.execute(query))


async def last_successes(db: AsyncEngine, names: list[str]) -> dict[str, datetime]:
    """When the last run of each of these pipelines ended that was completed, and not as Degraded; of those with one."""
    named = func.unnest(cast(names, ARRAY(Text))).table_valued("pipeline").render_derived()
    last = lateral(select(func.max(runs.c.ended_at).label("at")).where(runs.c.pipeline == named.c.pipeline, succeeded))
    query = select(named.c.pipeline, last.c.at).select_from(named.join(last, true())).where(last.c.at.is_not(None))
    async with autocommit(db) as connection:
        return {row.pipeline: row.at for row in await connection.execute(query)}


async def backlog(db: AsyncEngine) -> tuple[dict[str, int], dict[tuple[str, str], int], dict[str, float]]:
    """By pipeline: runs not yet handed over; runs not over (also by state); age in seconds of the oldest of those."""
    undispatched = select(runs.c.pipeline, func.count()).where(waiting).group_by(runs.c.pipeline)
    open_runs = (
        select(
            runs.c.pipeline,
            runs.c.state,
            func.count(),
            func.extract("epoch", func.clock_timestamp() - func.min(runs.c.accepted_at)),
        )
        .where(unfinished)
        .group_by(runs.c.pipeline, runs.c.state)
    )
    async with transaction(db) as connection:
        by_pipeline = {row[0]: row[1] for row in await connection.execute(undispatched)}
        rows = list(await connection.execute(open_runs))
    ages: dict[str, float] = {}
    for name, _, _, age in rows:
        ages[name] = max(ages.get(name, 0.0), float(age))
    return by_pipeline, {(name, state): count for name, state, count, _ in rows}, ages
