"""The choice of a remedy: what is done about which run, and what is never done."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orchestrator import remedies
from orchestrator.remedies import Action, Planned, Standing, Work
from orchestrator.runs import State
from orchestrator.settings import Missed, Pipeline
from orchestrator.workloads import Job, Pod

NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
PIPELINE = Pipeline(name="etl", deployment="daily_job/daily-0900")


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def standing(state: State, name: str | None = None, **more: Any) -> Standing:
    facts: dict[str, Any] = {"since": None, "started_at": None, "waits_since": NOW - seconds(1), "work": Work()} | more
    return Standing(state=state, state_name=name or state, **facts)


def chosen(run: Standing, **pipeline: Any) -> Action | None:
    remedy = remedies.choose(run, PIPELINE.model_copy(update=pipeline), now=NOW)
    return remedy.action if remedy else None


def missing(count: float, *, had_a_job: bool = False) -> Work:
    return Work(had_a_job=had_a_job, missing_for=seconds(count))


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (standing(State.RUNNING), None),
        (standing(State.RUNNING, work=missing(19)), None),
        (standing(State.RUNNING, work=missing(20)), Action.CRASH),
        (standing(State.RUNNING, silent="no heartbeat for 300 s"), Action.CRASH),
        (standing(State.RUNNING, work=None), None),
        (standing(State.PENDING, work=missing(14)), None),
        (standing(State.PENDING, work=missing(15)), Action.PUT_BACK),
        (standing(State.PENDING, "Submitting", work=missing(15)), Action.PUT_BACK),
        (standing(State.PENDING, work=missing(29), put_backs=1), None),
        (standing(State.PENDING, work=missing(30), put_backs=1), Action.PUT_BACK),
        (standing(State.PENDING, work=missing(600), put_backs=99), Action.PUT_BACK),
        (standing(State.PENDING, "InfrastructurePending", work=missing(44)), None),
        (standing(State.PENDING, "InfrastructurePending", work=missing(45)), Action.CRASH),
        (standing(State.PENDING, work=missing(44, had_a_job=True)), None),
        (standing(State.PENDING, work=missing(45, had_a_job=True)), Action.CRASH),
        (standing(State.PENDING, work=None, since=NOW - seconds(119)), None),
        (standing(State.PENDING, work=None, since=NOW - seconds(121)), Action.PUT_BACK),
        (standing(State.PENDING, "InfrastructurePending", work=None, since=NOW - seconds(999)), None),
        (standing(State.SCHEDULED, waits_since=NOW - seconds(3600)), None),
        (standing(State.SCHEDULED, waits_since=NOW - seconds(3601)), Action.GIVE_UP),
        (standing(State.PENDING, waits_since=NOW - seconds(3601)), Action.GIVE_UP),
        (standing(State.SCHEDULED, "Late", waits_since=NOW - seconds(3601), full=True), None),
        (standing(State.SCHEDULED, "AwaitingConcurrencySlot", waits_since=NOW - seconds(3601)), None),
        (standing(State.SCHEDULED, "AwaitingRetry", waits_since=NOW - seconds(3601), work=Work(begun=True)), None),
        (standing(State.CANCELLING, waits_since=NOW - seconds(9999), work=missing(999)), None),
        (standing(State.PAUSED, waits_since=NOW - seconds(9999), work=missing(999)), None),
    ],
)
def test_each_situation_has_its_remedy(run: Standing, expected: Action | None) -> None:
    """The thresholds are those that the code names."""
    assert chosen(run) is expected


def test_a_running_run_is_ended_by_its_deadline_alone() -> None:
    """Counted from the state, not from an earlier attempt's start; without a deadline it may take for ever."""
    run = standing(State.RUNNING, started_at=NOW - seconds(999), since=NOW - seconds(99))
    assert chosen(run) is None
    assert chosen(run, run_deadline_seconds=100) is None
    assert chosen(run, run_deadline_seconds=98) is Action.TIME_OUT


def test_without_a_start_deadline_a_run_waits_for_ever() -> None:
    """null in the values means that."""
    assert chosen(standing(State.SCHEDULED, waits_since=NOW - timedelta(days=99)), start_deadline_seconds=None) is None


def test_the_reason_of_a_wait_is_in_the_message() -> None:
    """Who reads why the run ended finds what held it."""
    run = standing(State.PENDING, waits_since=NOW - seconds(9999), why="PL010 Pod cannot be scheduled: cpu")
    remedy = remedies.choose(run, PIPELINE, now=NOW)
    assert remedy is not None
    assert remedy.reason.endswith("the pipeline's start deadline: PL010 Pod cannot be scheduled: cpu")


# naive, as hypothesis wants its bounds
FIRST, LAST = NOW.replace(month=1, tzinfo=None), NOW.replace(month=4, tzinfo=None)
moments = st.datetimes(timezones=st.just(UTC), min_value=FIRST, max_value=LAST)

standings = st.builds(
    Standing,
    state=st.sampled_from(State),
    state_name=st.sampled_from(
        ["Pending", "Submitting", "InfrastructurePending", "Running", "Late", "AwaitingConcurrencySlot"]
    ),
    since=st.none() | moments,
    started_at=st.none(),
    waits_since=moments,
    unwanted=st.booleans(),
    given_up=st.none() | st.just("the start deadline"),
    put_backs=st.integers(0, 10**6),
    work=st.none()
    | st.builds(
        Work,
        begun=st.booleans(),
        had_a_job=st.booleans(),
        missing_for=st.none() | st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=9)),
    ),
    full=st.booleans(),
    silent=st.none() | st.just("silent"),
    why=st.none(),
)
policies = st.builds(
    Pipeline,
    name=st.just("etl"),
    deployment=st.just("a/b"),
    start_deadline_seconds=st.none() | st.floats(1, 10**6),
    run_deadline_seconds=st.none() | st.floats(1, 10**6),
)


@given(standings, policies)
def test_what_is_never_done(run: Standing, pipeline: Pipeline) -> None:
    """Ended and unwanted runs are left alone; a process that may live ends by a deadline or for its silence only."""
    remedy = remedies.choose(run, pipeline, now=NOW)
    if remedy is None:
        return
    assert not run.state.ended
    assert not run.unwanted
    assert remedy.reason
    nothing_is_known = run.work is not None and run.work.missing_for is None
    if run.given_up is None and nothing_is_known:
        assert remedy.action in {Action.GIVE_UP, Action.TIME_OUT} or run.silent is not None
    if remedy.action is Action.PUT_BACK:
        assert run.state is State.PENDING
        assert run.state_name != "InfrastructurePending"
        assert run.work is None or not run.work.had_a_job
    if remedy.action is Action.GIVE_UP and run.given_up is None:
        assert run.state in {State.SCHEDULED, State.PENDING}
        assert not run.full
        assert pipeline.start_deadline_seconds is not None
    if remedy.action is Action.TIME_OUT:
        assert run.state is State.RUNNING
        assert pipeline.run_deadline_seconds is not None


def job(**more: Any) -> Job:
    return Job(**({"name": "a", "uid": "1", "flow_run_id": UUID(int=1), "created_at": NOW} | more))


def pod(phase: str, **more: Any) -> Pod:
    facts: dict[str, Any] = {"name": "a-x", "uid": "2", "job": "a", "flow_run_id": UUID(int=1), "created_at": NOW}
    return Pod(phase=phase, **(facts | more))


@pytest.mark.parametrize(
    ("jobs", "pods", "expected"),
    [
        ([], [], False),
        ([job()], [], True),
        ([job(complete=True)], [pod("Succeeded")], False),
        ([job(failed="BackoffLimitExceeded")], [pod("Failed")], False),
        ([job(failed="BackoffLimitExceeded")], [pod("Running")], True),
        ([job(deleted_at=NOW)], [], False),
        ([job(deleted_at=NOW)], [pod("Running", deleted_at=NOW - seconds(59))], True),
        ([], [pod("Running", deleted_at=NOW - seconds(61))], False),
        ([], [pod("Pending")], True),
    ],
)
def test_what_goes_on(jobs: list[Job], pods: list[Pod], expected: bool) -> None:
    """A Job that may still make a pod, and a pod that may still run; one on a dead node's way out does not count."""
    assert remedies.goes_on(jobs, pods, now=NOW) is expected


def test_a_jobs_attempt_is_known_by_the_crash_before_it() -> None:
    """Kubernetes cuts off the fraction of a second; an old attempt's Job is not the new one's."""
    old, new = job(name="old", created_at=NOW - seconds(30)), job(name="new", created_at=NOW.replace(microsecond=0))
    assert remedies.of_attempt([old, new], crashed_at=None) == [old, new]
    assert remedies.of_attempt([old, new], crashed_at=NOW + timedelta(milliseconds=900)) == [new]


def planned(day: int, *, late: float, begun: bool = False, full: bool = False) -> Planned:
    return Planned(run_id=uuid4(), logical_date=date(2026, 3, day), due_at=NOW - seconds(late), begun=begun, full=full)


def left_out(policy: Missed, *runs: Planned) -> list[int]:
    pipeline = PIPELINE.model_copy(update={"missed_schedules": policy})
    found = remedies.missed(runs, pipeline, now=NOW)
    return [one.logical_date.day for one in runs if one.run_id in found]


def test_missed_runs_by_policy() -> None:
    """All, none but the latest, or none of them."""
    runs = [planned(1, late=172_800), planned(2, late=86_400), planned(3, late=601)]
    assert left_out(Missed.RUN_ALL, *runs) == []
    assert left_out(Missed.LATEST, *runs) == [1, 2]
    assert left_out(Missed.SKIP, *runs) == [1, 2, 3]


def test_what_is_not_missed() -> None:
    """In time, begun, or only waiting for room: the platform was there."""
    runs = [planned(1, late=99_999, begun=True), planned(2, late=99_999, full=True), planned(3, late=599)]
    assert left_out(Missed.SKIP, *runs) == []
    assert left_out(Missed.LATEST, *runs) == []


def test_a_missed_run_is_superseded_by_one_that_has_begun() -> None:
    """The latest may be running or done already: the older ones are left out all the same."""
    assert left_out(Missed.LATEST, planned(1, late=86_400), planned(2, late=1, begun=True)) == [1]


@given(
    st.lists(st.tuples(st.integers(1, 28), st.floats(0, 10**6), st.booleans(), st.booleans()), max_size=12),
    st.sampled_from(Missed),
)
def test_no_policy_touches_what_has_begun(shapes: list[tuple[int, float, bool, bool]], policy: Missed) -> None:
    """And `latest` always leaves the newest."""
    runs = [planned(day, late=late, begun=begun, full=full) for day, late, begun, full in shapes]
    pipeline = PIPELINE.model_copy(update={"missed_schedules": policy})
    found = remedies.missed(runs, pipeline, now=NOW)
    assert all(not one.begun and not one.full for one in runs if one.run_id in found)
    if policy is Missed.LATEST and runs:
        newest = max(one.logical_date for one in runs)
        assert any(one.run_id not in found for one in runs if one.logical_date == newest)
