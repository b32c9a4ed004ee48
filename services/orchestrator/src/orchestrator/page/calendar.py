"""A pipeline's days as they are drawn: a letter for each, the weeks of a table, a year and durations as SVG paths.

Nothing here does I/O. A day without a run is missing where the schedule would have made one by now.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import groupby
from statistics import median
from typing import NamedTuple

from orchestrator.ledger.days import Days
from orchestrator.runs import Facts, Schedule

MISSING, NO_RUN, BEFORE = "M", ".", " "
WORDS: Mapping[str, str] = {
    "C": "Completed",
    "D": "Degraded",
    "F": "Failed",
    "X": "Cancelled",
    "R": "not over",
    MISSING: "missing",
    NO_RUN: "no run",
}
BAD = frozenset("FDM")
LATE = timedelta(minutes=30)  # after its hour, a day without a run is missing
WEEK = 7
NAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
PLOTTED = 60
HIGH = 24


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """On which weekdays a schedule makes a run (0: Monday), and at which time of the day."""

    weekdays: frozenset[int]
    at: time

    def due(self, day: date, facts: Facts) -> datetime | None:
        """When the run about a day is due, the day after it; None where none is made."""
        after = day + timedelta(days=1)
        return datetime.combine(after, self.at, tzinfo=facts.timezone) if after.weekday() in self.weekdays else None


class Cell(NamedTuple):
    """One day: its letter, a blank where it lies before all or after now."""

    day: date
    letter: str

    @property
    def word(self) -> str:
        """What the letter means."""
        return WORDS.get(self.letter, "")


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """The days of one pipeline from a Monday on, up to its last: a letter each, oldest first."""

    since: date
    letters: str

    @classmethod
    def of(cls, days: Days, facts: Facts | None, *, since: date, now: datetime) -> "Calendar":
        """The days since then, which is a Monday, up to yesterday, or today where that has a run."""
        today = now.astimezone(facts.timezone if facts else now.tzinfo).date()
        start = since.toordinal()
        numbers = [day.toordinal() - start for day in days.days]
        end = max([today.toordinal() - 1 - start, *numbers])
        first = min(numbers, default=today.toordinal() - start)
        letters = [BEFORE if number < first else NO_RUN for number in range(end + 1)]
        for number, letter in zip(numbers, days.letters, strict=True):
            letters[number] = letter
        timed = rhythm(facts.schedules) if facts else None
        if timed and facts:
            for number, letter in enumerate(letters):
                due = timed.due(since + timedelta(days=number), facts) if letter == NO_RUN else None
                if due is not None and now > due + LATE:
                    letters[number] = MISSING
        return cls(since=since, letters="".join(letters))

    @property
    def until(self) -> date:
        """The last day."""
        return self.since + timedelta(days=len(self.letters) - 1)

    def cells(self, start: int = 0, end: int | None = None) -> Sequence[Cell]:
        """The days of a stretch, counted from the first."""
        letters = enumerate(self.letters[start:end], start)
        return [Cell(self.since + timedelta(days=number), letter) for number, letter in letters]

    def letter(self, day: date) -> str:
        """The letter of a day, a blank for one outside."""
        place = (day - self.since).days
        return self.letters[place] if 0 <= place < len(self.letters) else BEFORE

    def weeks(self, most: int | None = None) -> Sequence[tuple[date, Sequence[Cell]]]:
        """The weeks with a day, each by its Monday, latest first."""
        starts = [start for start, week in self._weeks() if week.strip(BEFORE)][::-1][:most]
        return [(self.since + timedelta(days=start), self.cells(start, start + WEEK)) for start in starts]

    @property
    def counted(self) -> str:
        """How many days are what, in words."""
        counts = Counter(self.letters)
        return ", ".join(f"{counts[letter]} {word}" for letter, word in WORDS.items() if counts[letter]) or "no run yet"

    @property
    def paths(self) -> dict[str, str]:
        """By letter: an SVG path through the middle of its cells, a column a week; days on end are one line."""
        drawn: dict[str, list[str]] = defaultdict(list)
        for column, (_, week) in enumerate(self._weeks()):
            row = 0
            for letter, days in groupby(week):
                length = len(list(days))
                if letter != BEFORE:
                    drawn[letter].append(f"M{column} {row}v{length}")
                row += length
        return {letter: "".join(parts) for letter, parts in drawn.items()}

    def _weeks(self) -> Iterator[tuple[int, str]]:
        """Where each week starts, and its letters."""
        for start in range(0, len(self.letters), WEEK):
            yield start, self.letters[start : start + WEEK]

    @property
    def columns(self) -> int:
        """How many weeks there are."""
        return -(-len(self.letters) // WEEK)


@dataclass(frozen=True, kw_only=True)
class Plot:
    """How long the latest runs took, as a path in a box of `wide` by `HIGH`, with what it says in words."""

    path: str
    wide: int
    words: str

    @classmethod
    def of(cls, days: Days) -> "Plot | None":
        """The latest runs that completed; None where fewer than two did."""
        took = [one for one in days.took if one is not None][-PLOTTED:]
        if len(took) < 2:
            return None
        longest = max(1, *took)
        points = " ".join(f"{2 * place} {HIGH - round((HIGH - 2) * one / longest)}" for place, one in enumerate(took))
        return cls(
            path=f"M{points}",
            wide=2 * (len(took) - 1),
            words=f"last {seconds(took[-1])}, median {seconds(round(median(took)))}, longest {seconds(max(took))}",
        )


def seconds(milliseconds: int) -> str:
    """A duration as people say it."""
    whole = milliseconds / 1000
    if whole < 60:
        return f"{whole:.1f} s" if whole < 10 else f"{whole:.0f} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def monday_before(day: date, *, weeks: int) -> date:
    """The Monday of the week that lies so many weeks before the day's."""
    return day - timedelta(days=day.weekday(), weeks=weeks)


def rhythm(schedules: Sequence[Schedule]) -> Rhythm | None:
    """What the first active schedule does daily or on some weekdays; None for another, of which no day is missed."""
    for one in schedules:
        if one.active:
            if one.interval == timedelta(days=1).total_seconds():
                return Rhythm(weekdays=frozenset(range(WEEK)), at=time(23, 59))
            return _of_cron(one.cron) if one.cron else None
    return None


def _of_cron(cron: str) -> Rhythm | None:
    fields = cron.split()
    if len(fields) != 5 or fields[2] != "*" or fields[3] != "*":
        return None
    weekdays = _weekdays(fields[4])
    if weekdays is None:
        return None
    minute, hour = fields[0], fields[1]
    timed = minute.isdigit() and hour.isdigit() and int(minute) < 60 and int(hour) < 24
    return Rhythm(weekdays=weekdays, at=time(int(hour), int(minute)) if timed else time(23, 59))


def _weekdays(field: str) -> frozenset[int] | None:
    if field in {"*", "?"}:
        return frozenset(range(WEEK))
    found: set[int] = set()
    for part in field.lower().split(","):
        ends = [NAMES.index(one) if one in NAMES else int(one) if one.isdigit() else -1 for one in part.split("-")]
        if len(ends) > 2 or not all(0 <= one <= WEEK for one in ends) or ends[0] > ends[-1]:
            return None
        found |= {(one + 6) % WEEK for one in range(ends[0], ends[-1] + 1)}
    return frozenset(found)


def in_words(schedule: Schedule) -> str:
    """A schedule as people say it, as far as that is short."""
    if schedule.cron is None:
        what = f"every {seconds(round(schedule.interval * 1000))}" if schedule.interval else str(schedule.rrule)
    else:
        found = _of_cron(schedule.cron)
        fields = schedule.cron.split()
        what = schedule.cron
        if found and fields[0].isdigit() and fields[1].isdigit():
            days = "daily" if len(found.weekdays) == WEEK else fields[4]
            what = f"{days} at {found.at:%H:%M}"
    return f"{what} {schedule.timezone}" + ("" if schedule.active else ", not active")
