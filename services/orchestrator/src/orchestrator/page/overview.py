"""What `/` shows: first what needs somebody, then each pipeline at a glance. From the ledger, so also without Prefect.

As many statements whatever the number of pipelines: what Prefect told of them, a year of days, what needs somebody,
what is held, and what waits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.api import held
from orchestrator.catalogue import CATALOGUE
from orchestrator.ledger import days, reading
from orchestrator.ledger.reading import Remembered
from orchestrator.page.calendar import BEFORE, MISSING, Calendar, Plot, in_words, monday_before
from orchestrator.reasons import Commands
from orchestrator.settings import Pipeline

LOOKED_BACK = timedelta(days=7)  # how old a day may be that still needs somebody
WEEKS = 52
SHOWN_ITEMS = 10
FEW, MANY_WEEKS, FEW_WEEKS = 8, 5, 2


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that needs somebody: what, about which day, why, and the command that mends it.

    `letter` is the day's, `H` for what is held. `day` and `run_id` are None for what holds a schedule. `waits`: it goes
    on by itself.
    """

    letter: str
    pipeline: str
    day: date | None
    run_id: UUID | None
    title: str
    detail: str
    fix: str | None
    since: datetime | None
    runs: int = 1
    waits: bool = False

    @property
    def mendable(self) -> bool:
        """Whether a backfill of the day may mend it."""
        return self.day is not None and self.letter != "H"


@dataclass(frozen=True, kw_only=True)
class Glance:
    """One pipeline: its calendar, schedule, next run, durations, backlog and circuits."""

    name: str
    calendar: Calendar
    yesterday: date
    letter: str
    schedules: Sequence[str]
    paused: bool
    registered: bool | None
    next_run: datetime | None
    plot: Plot | None
    waiting: int
    going: int
    source_breaker: str | None


@dataclass(frozen=True, kw_only=True)
class Overview:
    """Everything on the page."""

    items: Sequence[Item]
    more: int
    pipelines: Sequence[Glance]
    weeks: int
    breaker: str

    @property
    def arrived(self) -> Mapping[str, int]:
        """How many pipelines have which letter for yesterday."""
        counts: dict[str, int] = {}
        for one in self.pipelines:
            counts[one.letter] = counts.get(one.letter, 0) + 1
        return counts


async def look(
    db: AsyncEngine,
    names: Sequence[str],
    *,
    configured: Mapping[str, Pipeline],
    commands: Commands,
    breaker: str,
    now: datetime,
) -> Overview:
    """The overview of these pipelines."""
    since = monday_before(now.date(), weeks=WEEKS)
    known = {
        name: one
        for name, one in (await reading.remembered(db)).items()
        if name in configured and one.facts.deployment == configured[name].deployment
    }
    years = await days.years(db, names, since=since)
    needing = await days.needing(db, names, since=now.date() - LOOKED_BACK)
    holds = await reading.holds(db)
    waiting, by_state, _ = await reading.backlog(db)
    glances = [
        _glance(
            name, known.get(name), years.get(name, days.NONE), since=since, now=now, waiting=waiting, going=by_state
        )
        for name in names
    ]
    items = [_ended(row) for row in needing]
    for glance in glances:
        told = known.get(glance.name)
        items += _missing(glance)
        items += _held(glance.name, holds, told, commands)
    items.sort(key=lambda one: (one.waits, -(one.day or now.date()).toordinal(), one.pipeline))
    return Overview(
        items=items[:SHOWN_ITEMS],
        more=max(0, len(items) - SHOWN_ITEMS),
        pipelines=glances,
        weeks=MANY_WEEKS if len(names) <= FEW else FEW_WEEKS,
        breaker=breaker,
    )


async def one_pipeline(db: AsyncEngine, name: str, *, configured: Mapping[str, Pipeline], now: datetime) -> Glance:
    """One pipeline with all of its year."""
    since = monday_before(now.date(), weeks=WEEKS)
    told = (await reading.remembered(db, {name})).get(name)
    if told is not None and told.facts.deployment != configured[name].deployment:
        told = None
    years = await days.years(db, [name], since=since)
    waiting, by_state, _ = await reading.backlog(db)
    return _glance(name, told, years.get(name, days.NONE), since=since, now=now, waiting=waiting, going=by_state)


def _glance(
    name: str,
    told: Remembered | None,
    found: days.Days,
    *,
    since: date,
    now: datetime,
    waiting: Mapping[str, int],
    going: Mapping[tuple[str, str], int],
) -> Glance:
    facts = told.facts if told else None
    zone = facts.timezone if facts else now.tzinfo
    calendar = Calendar.of(found, facts, since=since, now=now)
    yesterday = now.astimezone(zone).date() - timedelta(days=1)
    upcoming = [one for one in told.next_starts if one > now] if told and not told.facts.paused else []
    unfinished = sum(count for (pipeline, _), count in going.items() if pipeline == name)
    letter = calendar.letter(yesterday)
    return Glance(
        name=name,
        calendar=calendar,
        yesterday=yesterday,
        letter="." if letter == BEFORE else letter,
        schedules=[in_words(one) for one in facts.schedules] if facts else [],
        paused=facts.paused if facts else False,
        registered=told.missing_since is None if told else None,
        next_run=upcoming[0].astimezone(zone) if upcoming else None,
        plot=Plot.of(found),
        waiting=waiting.get(name, 0),
        going=unfinished - waiting.get(name, 0),
        source_breaker=told.source_breaker if told else None,
    )


def _ended(row: Row[Any]) -> Item:
    degraded = row.state_name == "Degraded"
    day = row.logical_date
    if degraded:
        title, detail = "Degraded", row.message or "the run kept what was loaded before"
    elif row.reason_id is not None:
        known = CATALOGUE.get(row.reason_id)
        title, detail = f"{row.reason_id} {known.title if known else ''}".strip(), row.reason_detail
    else:
        title, detail = row.state_name, row.message or "Prefect says nothing of why"
    again = f"pipelines backfill {row.pipeline} --from {day} --to {day} --mode {'degraded' if degraded else 'failed'}"
    return Item(
        letter=days.DEGRADED if degraded else days.FAILED,
        pipeline=row.pipeline,
        day=day,
        run_id=row.run_id,
        title=title,
        detail=detail,
        fix=row.reason_fix or again,
        since=row.ended_at,
    )


def _missing(glance: Glance) -> list[Item]:
    """Days of late that the schedule should have made a run for, and nobody did."""
    return [
        Item(
            letter=MISSING,
            pipeline=glance.name,
            day=day,
            run_id=None,
            title="No run",
            detail="the schedule should have made a run of this day by now"
            + ("; its deployment is paused" if glance.paused else ""),
            fix=f"pipelines start {glance.name} --date {day} --watch",
            since=None,
        )
        for day in (glance.yesterday - timedelta(days=number) for number in range(LOOKED_BACK.days))
        if glance.calendar.letter(day) == MISSING
    ]


def _held(name: str, holds: list[Row[Any]], told: Remembered | None, commands: Commands) -> list[Item]:
    rows = {row.id: row for row in holds if row.pipeline == name}
    found = []
    for one in held.of_pipeline(name, holds, told, commands):
        row, reason = rows.get(one.reason.id), one.reason
        known = CATALOGUE.get(reason.id)
        item = Item(
            letter="H",
            pipeline=name,
            day=row.logical_date if row is not None else None,
            run_id=row.run_id if row is not None else None,
            title=f"{reason.id} {reason.title}",
            detail=reason.detail,
            fix=reason.fix,
            since=reason.since,
            runs=one.runs,
        )
        found.append(replace(item, waits=known is not None and known.goes_on))
    return found
