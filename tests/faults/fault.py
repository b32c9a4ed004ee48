"""What a fault is: something done to a side in the middle of a load, undone later, with its own idea of recovery."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .facts import Sample, SideName
from .kits import ProxyKit
from .side import Side, now

BOTH: frozenset[SideName] = frozenset({"ours", "stock"})
OURS: frozenset[SideName] = frozenset({"ours"})


class FaultMissed(Exception):
    """The fault hit nothing, so the scenario shows nothing and leaves no sample; the text says what it missed."""


@dataclass
class Stage:
    """Where a fault happens: the side, and what is to be remembered of it."""

    side: Side
    runs: int
    began: float
    loading: set[str] = field(default_factory=set)  # addresses of the pods that were loading at the moment
    victims: list[str] = field(default_factory=list)  # flow runs that were hit
    measured: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)  # what a fault needs to undo itself
    kit: ProxyKit | None = None

    @property
    def proxy(self) -> ProxyKit:
        """The proxy that the fault's kit put in place."""
        assert self.kit is not None, "the fault names no kit"
        return self.kit

    @property
    def elapsed(self) -> float:
        """Seconds since the scenario began."""
        return now() - self.began


Recovery = Callable[[Sample], Iterator[float]]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault. `name` is what the command line calls it, `title` what the report does; `lasts` is in seconds.

    `recovery_of` says which times `recovery` takes from a sample; `kit` is what must be in place for it. `early`: it
    happens to runs that are still to come, so most of the load must be.
    """

    name: str
    title: str
    sides: frozenset[SideName] = BOTH
    lasts: float = 0.0
    recovery_of: str
    recovery: Recovery

    kit: type[ProxyKit] | None = None
    early: bool = False

    def prepare(self, stage: Stage) -> None:
        """Put in place what the fault needs, before the first run is asked for."""

    def inject(self, stage: Stage) -> None:
        """Do it."""

    def heal(self, stage: Stage) -> None:
        """End it, `lasts` seconds later."""

    def restore(self, stage: Stage) -> None:
        """Leave the side as it was, ready for the next scenario; also after a failure."""


def next_start_of_victims(sample: Sample) -> Iterator[float]:
    """From the fault to when each run that it hit was Running again."""
    injected = sample.scenario.injected_at
    for case in sample.cases:
        for run in case.flow_runs:
            if run.flow_run_id not in sample.scenario.victims:
                continue
            # of the same flow run, or of the one that took its place
            starts = [
                seen.at
                for other in case.flow_runs
                for seen in other.states
                if seen.state == "Running" and seen.at > injected
            ]
            if starts:
                yield min(starts) - injected


def next_job(sample: Sample) -> Iterator[float]:
    """From the fault to the next Job. Kubernetes tells creation times in whole seconds."""
    injected = sample.scenario.injected_at
    created = [job.created_at for case in sample.cases for job in case.jobs if job.created_at > injected]
    if created:
        yield min(created) - injected


def backlog_drained(sample: Sample) -> Iterator[float]:
    """From the end of the fault until all that was accepted before it has begun to run (or is over)."""
    healed = sample.scenario.healed_at
    begun = []
    for case in sample.cases:
        accepted = [row.accepted_at for row in case.rows] or [one.at for one in case.attempts if one.run_id]
        if not accepted or min(accepted) > healed:
            continue
        starts = [seen.at for run in case.flow_runs for seen in run.states if seen.state == "Running"]
        if starts:
            begun.append(min(starts))
    if begun:
        yield max(0.0, max(begun) - healed)


def next_acceptance(sample: Sample) -> Iterator[float]:
    """From the fault to the next run that was accepted: when the API answered again."""
    injected = sample.scenario.injected_at
    accepted = [one.at for case in sample.cases for one in case.attempts if one.run_id and one.at > injected]
    if accepted:
        yield min(accepted) - injected


def measured(name: str) -> Recovery:
    """What the fault measured itself."""

    def of(sample: Sample) -> Iterator[float]:
        if name in sample.scenario.measured:
            yield sample.scenario.measured[name]

    return of
