"""What a backfill is: which days of a range it runs, why, and the digest that stands for exactly that plan.

Nothing here does I/O.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from orchestrator.errors import InvalidRequest
from orchestrator.runs import State

MOST_DAYS = 3700
DEGRADED = "Degraded"
FAILED = frozenset({State.FAILED, State.CRASHED})


class Mode(StrEnum):
    """Which days a backfill is for; the last run of a day decides, for `missing` any run that completed it."""

    MISSING = "missing"
    FAILED = "failed"
    DEGRADED = "degraded"
    ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the plan has to know of a run."""

    run_id: UUID
    state: State
    state_name: str

    def __str__(self) -> str:
        finer = f" ({self.state_name})" if self.state_name != self.state else ""
        return f"run {self.run_id} is {self.state}{finer}"


@dataclass(frozen=True, kw_only=True)
class Day:
    """One day of a plan."""

    logical_date: date
    included: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Range:
    """The days asked for, both ends included. Raises InvalidRequest for a range that cannot be."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise InvalidRequest(f"from {self.first} lies after to {self.last}; exchange them")
        if (self.last - self.first).days >= MOST_DAYS:
            raise InvalidRequest(f"{self.first} to {self.last} is over {MOST_DAYS} days; ask for a shorter range")

    @property
    def days(self) -> list[date]:
        """Each day, in order."""
        return [self.first + timedelta(days=number) for number in range((self.last - self.first).days + 1)]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of a backfill: how many of its runs may go at once, and how many a pod executes in its turn."""

    pipeline: str
    range: Range
    mode: Mode
    max_concurrent: int
    runs_per_pod: int = 1


@dataclass(frozen=True, kw_only=True)
class Plan(Wanted):
    """What a backfill would do now."""

    days: tuple[Day, ...]

    @classmethod
    def of(cls, wanted: Wanted, history: Mapping[date, list[Run]]) -> "Plan":
        """The plan for a pipeline whose runs of each day are `history`, oldest first."""
        days = tuple(_judged(day, wanted.mode, history.get(day, [])) for day in wanted.range.days)
        return cls(**vars(wanted), days=days)

    @property
    def included(self) -> list[date]:
        """The days that get a run."""
        return [one.logical_date for one in self.days if one.included]

    @property
    def written(self) -> list[list[Any]]:
        """The days in a form that JSON keeps."""
        return [[one.logical_date.isoformat(), one.included, one.reason] for one in self.days]

    @property
    def digest(self) -> str:
        """One text for exactly this plan: any other day, reason or limit makes another."""
        limits = [self.max_concurrent, self.runs_per_pod]
        whole = [self.pipeline, self.range.first.isoformat(), self.mode, *limits, self.written]
        return hashlib.sha256(json.dumps(whole, separators=(",", ":")).encode()).hexdigest()

    def differences(self, shown: list[list[Any]]) -> list[tuple[str, str]]:
        """Each day that is not as it was `shown`, and how it was and is."""
        before = {day: (included, reason) for day, included, reason in shown}
        found = []
        for day, included, reason in self.written:
            if before.get(day) != (included, reason):
                was = _told(*before[day]) if day in before else "not shown"
                found.append((str(day), f"was {was}; now {_told(included, reason)}"))
        kept = {one[0] for one in self.written}
        return found + [(day, "not asked for now") for day in before if day not in kept]


def _told(included: bool, reason: str) -> str:
    return f"{'in' if included else 'out'} ({reason})"


def _judged(day: date, mode: Mode, history: list[Run]) -> Day:
    going = next((run for run in history if not run.state.ended), None)
    if going is not None:
        # two runs of one day at once would only wait for each other's load
        return Day(logical_date=day, included=False, reason=f"{going}: wait for its end, or cancel it")
    if not history:
        return Day(logical_date=day, included=mode in {Mode.MISSING, Mode.ALL}, reason="no run of this date")
    last = history[-1]
    completed = next((run for run in reversed(history) if run.state is State.COMPLETED), None)
    included = {
        Mode.MISSING: completed is None,
        Mode.FAILED: last.state in FAILED,
        Mode.DEGRADED: last.state is State.COMPLETED and last.state_name == DEGRADED,
        Mode.ALL: True,
    }[mode]
    deciding = completed if mode is Mode.MISSING and completed is not None else last
    return Day(logical_date=day, included=included, reason=f"the last {deciding}")
