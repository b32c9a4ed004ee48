"""The judgement over a scenario: what is as promised passes, and each planted violation is found by its name."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from ...faults.checker import Broken, Verdict, judge
from ...faults.facts import (
    Attempt,
    Case,
    Day,
    Effect,
    Event,
    Fact,
    FlowRun,
    Job,
    Row,
    Sample,
    Scenario,
    SideName,
    Strays,
)

DAY = date(2013, 1, 15)
DONE = (
    Event(id=1, state="Scheduled", at=0.1),
    Event(id=2, state="Pending", at=1),
    Event(id=4, state="Running", at=5),
    Event(id=9, state="Completed", at=8),
)
EFFECT = Effect(run_id="r", flow_run_id="f", rows=842, at=7)
JOB = Job(name="j", flow_run_id="f", created_at=1)
ROW = Row(run_id="r", state="Completed", flow_run_id="f", accepted_at=0.1, dispatched_at=0.2, ended_at=8, events=DONE)
CRASHED = FlowRun(flow_run_id="f", state="Crashed", message="the pod is gone")
GOOD = Case(
    key="k",
    day=DAY,
    attempts=(Attempt(at=0, error="ReadError"), Attempt(at=0.5, status=202, run_id="r")),
    rows=(ROW,),
    flow_runs=(FlowRun(flow_run_id="f", state="Completed"),),
    jobs=(JOB,),
    effects=(EFFECT,),
    table=Day(rows=842, loaded=842),
)


def judged(*cases: Case, side: SideName = "ours", strays: Strays | None = None) -> Verdict:
    scenario = Scenario(
        side=side,
        fault="none",
        seed=1,
        runs=len(cases),
        rate=1,
        within=300,
        revision="abc",
        date=DAY,
        injected_at=1,
        healed_at=2,
        ended_at=9,
        at_injection={},
    )
    return judge(Sample(scenario=scenario, cases=cases, strays=strays or Strays()))


def but(case: Case, **changes: object) -> Case:
    return case.model_copy(update=changes)


def with_row(**changes: object) -> Case:
    """The good case with its ledger row changed."""
    return but(GOOD, rows=(ROW.model_copy(update=changes),))


def events(*states: str) -> tuple[Event, ...]:
    return tuple(Event(id=number, state=state, at=number) for number, state in enumerate(states))


def planted() -> Iterator[tuple[str, Case, Broken]]:
    """Each way to break a promise: its name, a case that does, and what it must be called."""
    yield "two effects", but(GOOD, effects=(EFFECT, EFFECT)), Broken.DOUBLED
    yield (
        "two ids for one key",
        but(GOOD, attempts=(*GOOD.attempts, Attempt(at=2, status=202, run_id="other"))),
        Broken.DOUBLED,
    )
    yield "two rows for one key", but(GOOD, rows=(ROW, ROW.model_copy(update={"run_id": "other"}))), Broken.DOUBLED
    yield "a promise nobody knows", but(GOOD, rows=(), flow_runs=(), effects=(), jobs=()), Broken.LOST
    yield "a row that vanished", but(GOOD, rows=()), Broken.LOST
    yield "completed without an effect", but(GOOD, effects=()), Broken.LOST
    yield "crashed without a reason", but(with_row(state="Crashed", events=()), effects=()), Broken.LOST
    yield "still running", with_row(state="Running", ended_at=None, events=()), Broken.STUCK
    yield "never handed over", but(with_row(state="Scheduled", events=()), effects=(), flow_runs=()), Broken.STUCK
    yield "loaded, but not over", with_row(state="Pending", ended_at=None, events=events("Pending")), Broken.STUCK
    yield "Prefect says otherwise", but(GOOD, flow_runs=(CRASHED,)), Broken.DISAGREES
    yield "Prefect lost it", but(GOOD, flow_runs=()), Broken.DISAGREES
    yield "two flow runs", but(GOOD, flow_runs=(*GOOD.flow_runs, CRASHED)), Broken.REPEATED
    yield "a pod that outlives its run", but(GOOD, jobs=(JOB.model_copy(update={"active": 1}),)), Broken.ORPHAN
    yield "back to Running", with_row(events=events("Running", "Completed", "Running", "Completed")), Broken.BACKWARDS
    yield "Completed, then Crashed", with_row(events=events("Completed", "Crashed", "Completed")), Broken.BACKWARDS
    yield "an end twice", with_row(events=events("Running", "Completed", "Completed")), Broken.BACKWARDS
    yield "events out of order", with_row(events=(*DONE[:2], DONE[3], DONE[2], DONE[3])), Broken.BACKWARDS
    yield "an end without an event", with_row(events=DONE[:3]), Broken.BACKWARDS
    yield "a day of two loads", but(GOOD, table=Day(rows=1684, loaded=842)), Broken.MIXED


def test_what_is_as_promised_passes() -> None:
    """One effect, one flow run, one state everywhere: no violation, and the counts say so."""
    verdict = judged(GOOD)
    assert verdict.violations == ()
    assert (verdict.asked, verdict.accepted, verdict.once, verdict.explained, verdict.refused) == (1, 1, 1, 0, 0)


@pytest.mark.parametrize(("case", "broken"), [pytest.param(case, broken, id=name) for name, case, broken in planted()])
def test_a_planted_violation_is_found(case: Case, broken: Broken) -> None:
    """By its name, among good runs, of that run alone."""
    verdict = judged(but(GOOD, key="good"), but(case, key="bad"))
    assert broken in {violation.broken for violation in verdict.violations}
    assert {violation.key for violation in verdict.violations} == {"bad"}
    assert verdict.runs(broken) == 1


def test_every_kind_of_violation_is_planted() -> None:
    """What strays has a test of its own."""
    assert {broken for _, _, broken in planted()} | {Broken.STRAY} == set(Broken)


def test_what_strays_is_found() -> None:
    """A flow run, a living Job and an effect of runs that nobody asked for."""
    strays = Strays(
        flow_runs=(CRASHED,),
        jobs=(JOB.model_copy(update={"active": 1}), JOB),
        effects=(EFFECT, EFFECT),
    )
    found = [violation.broken for violation in judged(GOOD, strays=strays).violations]
    assert sorted(found) == sorted([Broken.STRAY, Broken.ORPHAN, Broken.STRAY])


def test_an_end_that_says_why_needs_no_effect() -> None:
    """Failed with a message: explained, not lost. Degraded likewise, though Completed."""
    message = "the source is down"
    failed = but(with_row(state="Failed", message=message, events=events("Failed")), effects=())
    failed = but(failed, flow_runs=(CRASHED.model_copy(update={"state": "Failed"}),))
    degraded = but(
        with_row(message=f"kept: {message}"), effects=(EFFECT.model_copy(update={"degraded": True, "rows": 0}),)
    )
    verdict = judged(failed, degraded)
    assert verdict.violations == ()
    assert (verdict.accepted, verdict.once, verdict.explained) == (2, 0, 2)


def test_a_crash_that_prefect_takes_back_is_forward() -> None:
    """Crashed → Completed is the one way on from an end."""
    assert judged(with_row(events=events("Running", "Crashed", "Completed"))).violations == ()


def test_who_was_never_accepted_was_promised_nothing() -> None:
    """Refused attempts alone break no promise; a run that the ledger has although no answer arrived does count."""
    refused = but(
        GOOD, key="refused", attempts=(Attempt(at=0, status=503),), rows=(), flow_runs=(), jobs=(), effects=()
    )
    unheard = but(GOOD, attempts=(Attempt(at=0, error="ReadTimeout"),), effects=())
    verdict = judged(refused, unheard)
    assert (verdict.asked, verdict.accepted, verdict.refused) == (2, 1, 1)
    assert {(one.broken, one.key) for one in verdict.violations} == {(Broken.LOST, "k")}


def test_without_a_ledger_prefect_is_asked() -> None:
    """The stock side: the same promises, by Prefect's own word."""
    case = but(GOOD, rows=())
    assert judged(case, side="stock").violations == ()
    pending = but(case, flow_runs=(FlowRun(flow_run_id="f", state="Pending"),), effects=())
    assert [one.broken for one in judged(pending, side="stock").violations] == [Broken.STUCK]
    crashed = but(case, flow_runs=(CRASHED,), effects=())
    assert judged(crashed, side="stock").explained == 1


def test_a_sample_is_read_as_it_was_written(tmp_path: Path) -> None:
    """JSON lines, without loss."""
    sample = Sample(
        scenario=Scenario(
            side="ours",
            fault="none",
            seed=1,
            runs=1,
            rate=0.5,
            within=300,
            revision="abc",
            date=DAY,
            injected_at=1,
            healed_at=2,
            ended_at=9,
            at_injection={"Running": 2},
            victims=("f",),
        ),
        cases=(GOOD,),
        strays=Strays(jobs=(JOB,)),
    )
    sample.save(tmp_path / "ours" / "none-1.jsonl")
    assert Sample.load(tmp_path / "ours" / "none-1.jsonl") == sample
    assert all(issubclass(type(part), Fact) for part in (sample, sample.scenario, *sample.cases))
