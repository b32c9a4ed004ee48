"""The judgement over a sample: which promise was broken for which run. Pure; knows no cluster.

A run that was accepted has exactly one effect, or it ended and says why not. Everything else has a name below.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from .facts import OVER, Case, Row, Sample


class Broken(StrEnum):
    """The promises, by what breaking them is called."""

    LOST = "lost"  # accepted, over or nowhere, without an effect and without a reason
    DOUBLED = "doubled"  # more than one effect, or more than one run for one key
    STUCK = "stuck"  # not over when everything had had its time
    DISAGREES = "ledger and Prefect disagree"
    REPEATED = "several flow runs for one run"
    ORPHAN = "a Job goes on for a run that is over or unknown"
    BACKWARDS = "a state after the end"
    MIXED = "a day with rows of two loads"
    STRAY = "something nobody asked for"


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A broken promise, of which run, with the evidence."""

    broken: Broken
    key: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.broken}: {self.key}: {self.evidence}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Runs by what became of them, and every broken promise.

    `refused` were never accepted; `explained` ended without an effect and say why.
    """

    asked: int
    accepted: int
    once: int
    explained: int
    violations: tuple[Violation, ...]

    def runs(self, broken: Broken) -> int:
        """How many runs broke that promise."""
        return len({one.key for one in self.violations if one.broken is broken})

    @property
    def refused(self) -> int:
        return self.asked - self.accepted


def judge(sample: Sample) -> Verdict:
    """Judge every run of a sample and what strayed."""
    has_ledger = sample.scenario.side == "ours"
    violations = [one for case in sample.cases for one in _of_case(case, has_ledger=has_ledger)]
    violations += _of_strays(sample)
    accepted = [case for case in sample.cases if _is_accepted(case)]
    return Verdict(
        asked=len(sample.cases),
        accepted=len(accepted),
        once=sum(_effects(case) == 1 for case in accepted),
        explained=sum(_effects(case) == 0 and _explanation(case) is not None for case in accepted),
        violations=tuple(violations),
    )


def _is_accepted(case: Case) -> bool:
    """Whether somebody was promised the run, or could be: the ledger may hold a run whose answer never arrived."""
    return bool(case.promised or case.rows or case.flow_runs)


def _effects(case: Case) -> int:
    return sum(not effect.degraded for effect in case.effects)


def _last(case: Case) -> tuple[str, str | None] | None:
    """The run's state and message: the ledger's where there is one, else Prefect's."""
    known = case.rows or case.flow_runs
    return (known[-1].state, known[-1].message) if known else None


def _explanation(case: Case) -> str | None:
    """Why a run ended without an effect, where it says so. Completed explains nothing, unless it is Degraded."""
    last = _last(case)
    if last is None or last[0] not in OVER:
        return None
    if last[0] == "Completed" and not any(effect.degraded for effect in case.effects):
        return None
    return last[1] or None


def _of_case(case: Case, *, has_ledger: bool) -> Iterator[Violation]:
    def violation(broken: Broken, evidence: str) -> Violation:
        return Violation(broken=broken, key=case.key, evidence=evidence)

    if not _is_accepted(case):
        return
    if len(case.promised) > 1 or len(case.rows) > 1:
        ids = sorted({*case.promised, *(row.run_id for row in case.rows)})
        yield violation(Broken.DOUBLED, f"one key, {len(ids)} runs: {', '.join(ids)}")
    effects = [effect for effect in case.effects if not effect.degraded]
    if len(effects) > 1:
        times = ", ".join(f"{effect.at:.1f} s" for effect in effects)
        yield violation(Broken.DOUBLED, f"{len(effects)} effects, at {times}")

    missing = case.promised and not (case.rows if has_ledger else case.flow_runs)
    last = _last(case)
    if missing:
        yield violation(Broken.LOST, f"answered with {case.promised[0]}, and nothing knows that run")
    elif last is not None and last[0] not in OVER:
        yield violation(Broken.STUCK, f"still {last[0]}: {last[1] or 'no reason given'}")
    elif not effects and _explanation(case) is None:
        yield violation(Broken.LOST, f"{last[0] if last else 'nowhere'}, no effect, no reason")

    for row in case.rows:
        yield from _of_row(case, row)
    if len(case.flow_runs) > 1:
        ids = ", ".join(run.flow_run_id for run in case.flow_runs)
        yield violation(Broken.REPEATED, f"{len(case.flow_runs)} flow runs: {ids}")
    over = last is None or last[0] in OVER
    for job in case.jobs:
        if job.active and over:
            yield violation(Broken.ORPHAN, f"Job {job.name} has {job.active} active pod(s)")
    if case.table is not None and case.table.rows != case.table.loaded:
        yield violation(Broken.MIXED, f"{case.day} holds {case.table.rows} rows, its load wrote {case.table.loaded}")


def _of_row(case: Case, row: Row) -> Iterator[Violation]:
    def violation(broken: Broken, evidence: str) -> Violation:
        return Violation(broken=broken, key=case.key, evidence=evidence)

    states = {run.flow_run_id: run.state for run in case.flow_runs}
    prefects = states.get(row.flow_run_id or "")
    if prefects is None and row.dispatched_at is not None and not (row.state in OVER and row.message):
        yield violation(Broken.DISAGREES, f"the ledger says {row.state}, Prefect does not have the run")
    elif prefects is not None and prefects != row.state:
        yield violation(Broken.DISAGREES, f"the ledger says {row.state}, Prefect says {prefects}")

    ids = [event.id for event in row.events]
    if ids != sorted(set(ids)):
        yield violation(Broken.BACKWARDS, f"event ids out of order: {ids}")
    for before, after in pairwise(row.events):
        taken_back = before.state == "Crashed" and after.state == "Completed"
        if before.state in OVER and not taken_back:
            yield violation(Broken.BACKWARDS, f"{after.state} after {before.state}")
    if row.events and row.events[-1].state != row.state:
        yield violation(Broken.BACKWARDS, f"the run is {row.state}, its last event says {row.events[-1].state}")


def _of_strays(sample: Sample) -> Iterator[Violation]:
    for run in sample.strays.flow_runs:
        yield Violation(broken=Broken.STRAY, key=run.flow_run_id, evidence=f"flow run, {run.state}")
    for job in sample.strays.jobs:
        if job.active:
            yield Violation(broken=Broken.ORPHAN, key=job.flow_run_id, evidence=f"Job {job.name} of an unknown run")
    for run_id, count in Counter(effect.run_id for effect in sample.strays.effects).items():
        yield Violation(broken=Broken.STRAY, key=run_id, evidence=f"{count} effect(s) of an unknown run")
