"""What became of each day: a year of many pipelines, what of it needs somebody, one day's runs, one run's story.

A day's outcome is that of its last run. Each question is one statement, whatever the number of pipelines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, Integer, Row, Select, and_, case, cast, func, or_, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.ledger.connection import autocommit
from orchestrator.ledger.reading import shown
from orchestrator.ledger.tables import reasons, run_events, runs
from orchestrator.runs import State

COMPLETED, DEGRADED, FAILED, CANCELLED, GOING = "C", "D", "F", "X", "R"
MOST_RUNS = 100  # of one day that are shown
MOST_EVENTS = 500  # of one run that are shown
MOST_ITEMS = 60


@dataclass(frozen=True, kw_only=True)
class Days:
    """Days of one pipeline that have a run, oldest first: which, a letter each, and the milliseconds it took."""

    days: tuple[date, ...]
    letters: str
    took: tuple[int | None, ...]

    @property
    def by_day(self) -> dict[date, str]:
        """The letter of each day that has a run."""
        return dict(zip(self.days, self.letters, strict=True))


NONE = Days(days=(), letters="", took=())

_degraded = and_(runs.c.state == State.COMPLETED, runs.c.state_name == "Degraded")
_letter = case(
    (_degraded, DEGRADED),
    (runs.c.state == State.COMPLETED, COMPLETED),
    (runs.c.state.in_((State.FAILED, State.CRASHED)), FAILED),
    (runs.c.state == State.CANCELLED, CANCELLED),
    else_=GOING,
)
_took = case(
    (
        and_(runs.c.state == State.COMPLETED, runs.c.started_at.is_not(None)),
        cast(func.extract("epoch", runs.c.ended_at - runs.c.started_at) * 1000, BigInteger),
    ),
    else_=None,
)


def _last_of_each_day(names: Sequence[str], since: date, *columns: Any) -> Select[Any]:
    """The last run of each day, in the order of the index runs_by_day."""
    return (
        select(*columns)
        .ext(distinct_on(runs.c.pipeline, runs.c.logical_date))
        .where(runs.c.pipeline.in_(names), runs.c.logical_date >= since)
        .order_by(runs.c.pipeline, runs.c.logical_date, runs.c.accepted_at.desc(), runs.c.run_id.desc())
    )


async def years(db: AsyncEngine, names: Sequence[str], *, since: date) -> Mapping[str, Days]:
    """By pipeline, of those that have a run since that day: what became of each day."""
    last = _last_of_each_day(
        names, since, runs.c.pipeline, runs.c.logical_date, _letter.label("letter"), _took.label("took")
    ).subquery()
    ordinal = cast(last.c.logical_date - since, Integer)
    day = last.c.logical_date
    query = select(
        last.c.pipeline,
        func.array_agg(ordinal, type_=ARRAY(Integer)).aggregate_order_by(day).label("ordinals"),
        func.string_agg(last.c.letter, "").aggregate_order_by(day).label("letters"),
        func.array_agg(last.c.took, type_=ARRAY(BigInteger)).aggregate_order_by(day).label("took"),
    ).group_by(last.c.pipeline)
    async with autocommit(db) as connection:
        rows = list(await connection.execute(query))
    first = since.toordinal()
    return {
        row.pipeline: Days(
            days=tuple(date.fromordinal(first + one) for one in row.ordinals),
            letters=row.letters,
            took=tuple(row.took),
        )
        for row in rows
    }


async def needing(db: AsyncEngine, names: Sequence[str], *, since: date) -> list[Row[Any]]:
    """Days since then whose last run Failed, Crashed or is Degraded, latest first: that run, and why."""
    kept = ("run_id", "pipeline", "logical_date", "state", "state_name", "message", "flow_run_id", "ended_at")
    last = _last_of_each_day(names, since, *(runs.c[name] for name in kept)).subquery()
    query = (
        select(last, *(reasons.c[name].label(f"reason_{name}") for name in ("id", "detail", "fix", "since")))
        .select_from(last.outerjoin(reasons, and_(reasons.c.run_id == last.c.run_id, last.c.state != State.COMPLETED)))
        .where(
            or_(
                last.c.state.in_((State.FAILED, State.CRASHED)),
                and_(last.c.state == State.COMPLETED, last.c.state_name == "Degraded"),
            )
        )
        .order_by(last.c.logical_date.desc(), last.c.pipeline)
        .limit(MOST_ITEMS)
    )
    async with autocommit(db) as connection:
        return list(await connection.execute(query))


async def of_day(db: AsyncEngine, pipeline: str, day: date) -> list[Row[Any]]:
    """The runs about one day, newest first."""
    query = (
        shown.where(runs.c.pipeline == pipeline, runs.c.logical_date == day)
        .order_by(runs.c.accepted_at.desc(), runs.c.run_id.desc())
        .limit(MOST_RUNS)
    )
    async with autocommit(db) as connection:
        return list(await connection.execute(query))


async def story(db: AsyncEngine, run_id: UUID) -> list[Row[Any]]:
    """What was recorded of one run, in order."""
    query = select(run_events).where(run_events.c.run_id == run_id).order_by(run_events.c.id).limit(MOST_EVENTS)
    async with autocommit(db) as connection:
        return list(await connection.execute(query))
