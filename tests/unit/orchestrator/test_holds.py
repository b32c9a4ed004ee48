"""What holds a run before it begins: each rule, their order, and no reason for a run that is just starting."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orchestrator import holds
from orchestrator.holds import AWAITING_SLOT, Finding, Open, Sight
from orchestrator.pools import Limit, Pool, Queue, Worker
from orchestrator.runs import FlowRun, State

NOW = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
DEPLOYMENT = UUID(int=5)
OTHER = UUID(int=6)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def flow_run(*, due: float = 20, name: str = "Late", **more: Any) -> FlowRun:
    """A Scheduled flow run that was due some seconds ago."""
    return FlowRun(
        **{
            "flow_run_id": UUID(int=1),
            "deployment_id": DEPLOYMENT,
            "idempotency_key": None,
            "origin": "api",
            "state": State.SCHEDULED,
            "state_name": name,
            "message": None,
            "at": ago(due),
            "expected_at": ago(due),
            "next_at": ago(due),
            "started_at": None,
            "ended_at": None,
            "pool": "pipelines",
            "queue": "week-10",
        }
        | more
    )


def queue(name: str = "week-10", *, polled: float | None = 0.5, **more: Any) -> Queue:
    polled_at = None if polled is None else ago(polled)
    return Queue(**{"name": name, "paused": False, "limit": None, "active": 0, "polled_at": polled_at} | more)


def pool(*queues: Queue, **more: Any) -> Pool:
    named = {one.name: one for one in queues or (queue(),)}
    workers = (Worker(name="w", heartbeat_at=ago(40)),)
    plain = {"name": "pipelines", "type": "kubernetes", "paused": False, "limit": None, "active": 0}
    return Pool(**plain | {"queues": named, "workers": workers} | more)


def sight(one: Pool | None = None, **more: Any) -> Sight:
    pools = {"pipelines": one or pool()}
    return Sight(**{"now": NOW, "query_seconds": 1, "pools": pools} | more)


def found(finding: Finding | None) -> tuple[str, str]:
    assert finding is not None
    return finding.kind, finding.detail


def test_no_worker_polls_the_pool() -> None:
    """The queue was polled, and is no longer: the pool, the queue and both ages are named."""
    kind, detail = found(holds.scheduled(flow_run(due=12), sight(pool(queue(polled=15)))))
    assert kind == "PL001"
    for evidence in ("pipelines", "week-10", "15 s ago", "40 s ago"):
        assert evidence in detail


def test_a_pool_that_never_had_a_worker() -> None:
    """It says so instead of an age."""
    kind, detail = found(holds.scheduled(flow_run(), sight(pool(queue(polled=None), workers=()))))
    assert kind == "PL001"
    assert "never polled" in detail
    assert "never had a worker" in detail


def test_a_pool_that_is_not_there() -> None:
    """Nothing can serve it."""
    assert found(holds.scheduled(flow_run(), sight(pools={})))[0] == "PL001"


def test_workers_poll_other_queues() -> None:
    """The queues that are polled are named."""
    kind, detail = found(holds.scheduled(flow_run(), sight(pool(queue(polled=100), queue("other")))))
    assert kind == "PL005"
    assert detail.endswith("workers poll other")


def test_what_is_paused_comes_first() -> None:
    """The pool's pause before the queue's, both before a missing worker."""
    everything = pool(queue(polled=100, paused=True), paused=True)
    assert found(holds.scheduled(flow_run(due=4), sight(everything)))[0] == "PL002"
    assert found(holds.scheduled(flow_run(due=4), sight(replace(everything, paused=False))))[0] == "PL003"


def test_a_full_pool_names_who_holds_it() -> None:
    """A few of them, by their run ids where they are ours."""
    holders = tuple(UUID(int=100 + number) for number in range(5))
    full = pool(queue(holders=holders), limit=5, active=5)
    kind, detail = found(holds.scheduled(flow_run(due=4), sight(full, run_ids={holders[0]: UUID(int=7)})))
    assert kind == "PL006"
    assert "5 of 5 runs" in detail
    assert str(UUID(int=7)) in detail
    assert "and 2 more" in detail


def test_a_full_queue_and_a_full_deployment() -> None:
    """Each with its own limit and a fix that raises it."""
    finding = holds.scheduled(flow_run(due=4), sight(pool(queue(limit=2, active=2, holders=(OTHER,)))))
    assert finding is not None
    assert (finding.kind, finding.names["more"]) == ("PL007", 3)
    assert str(OTHER) in finding.detail
    name = f"deployment:{DEPLOYMENT}"
    limits = {name: Limit(name=name, limit=1, active=1)}
    for run in (flow_run(due=4), flow_run(due=-25, name=AWAITING_SLOT)):
        finding = holds.scheduled(run, sight(limits=limits, occupants={DEPLOYMENT: [OTHER]}))
        assert finding is not None
        assert (finding.kind, finding.names) == ("PL008", {"limit": name, "more": 2})
        assert str(OTHER) in finding.detail


def test_a_limit_of_zero_is_full() -> None:
    """Somebody may mean to hold everything."""
    name = f"deployment:{DEPLOYMENT}"
    assert found(holds.scheduled(flow_run(), sight(limits={name: Limit(name=name, limit=0, active=0)})))[0] == "PL008"
    assert found(holds.scheduled(flow_run(), sight(pool(limit=0))))[0] == "PL006"


def test_a_run_put_off_says_until_when() -> None:
    """And one about to begin says nothing."""
    kind, detail = found(holds.scheduled(flow_run(due=-60, name="AwaitingRetry"), sight()))
    assert kind == "PL018"
    assert "AwaitingRetry until 2026-03-01 09:01:00 UTC" in detail
    assert holds.scheduled(flow_run(due=-5), sight()) is None


def test_what_cannot_be_explained_is_admitted() -> None:
    """After a minute, and not before."""
    assert holds.scheduled(flow_run(due=50), sight()) is None
    assert found(holds.scheduled(flow_run(due=70), sight()))[0] == "PL099"


@settings(deadline=None)
@given(
    due=st.floats(-5, 59),
    polled=st.floats(0, 2.9),
    query=st.floats(0.1, 60),
    active=st.integers(0, 9),
    limit=st.none() | st.integers(10, 20),
)
def test_a_healthy_run_is_held_by_nothing(
    due: float, polled: float, query: float, active: int, limit: int | None
) -> None:
    """Whatever it waits for within the first minute, while a worker polls and there is room."""
    healthy = pool(queue(polled=polled, active=active, limit=limit), active=active, limit=limit)
    assert holds.scheduled(flow_run(due=due), sight(healthy, query_seconds=query)) is None


@settings(deadline=None)
@given(query=st.floats(0.1, 60), since=st.floats(0, 1.3))
def test_a_worker_that_is_a_little_late_is_online(query: float, since: float) -> None:
    """However seldom it polls."""
    polled = since * query
    assert holds.scheduled(flow_run(due=50), sight(pool(queue(polled=polled)), query_seconds=query)) is None


@settings(deadline=None)
@given(seconds=st.floats(0, 2.9))
def test_a_run_that_is_just_due_is_held_by_nothing(seconds: float) -> None:
    """Even while everything is wrong: nobody can have noticed yet."""
    wrong = pool(queue(polled=None, paused=True), paused=True, limit=0)
    assert holds.scheduled(flow_run(due=seconds), sight(wrong)) is None


def waiting(**more: Any) -> Open:
    plain = {
        "run_id": UUID(int=9),
        "pipeline": "etl",
        "flow_run_id": None,
        "state": State.SCHEDULED,
        "accepted_at": ago(30),
        "attempts": 0,
        "last_error": None,
        "steps_aside": False,
        "backfill_id": None,
        "backfill_paused": False,
        "held_back": False,
    }
    return Open(**plain | more)


def before(run: Open, failing: float | None = None) -> Finding | None:
    since = None if failing is None else ago(failing)
    return holds.before_handover(run, failing_since=since, trouble="ConnectError", now=NOW)


def test_while_prefect_fails_runs_wait_for_it() -> None:
    """Once it has for a while, with what it says and how often it was tried."""
    assert before(waiting(), failing=3) is None
    finding = before(waiting(attempts=4), failing=6)
    assert finding is not None
    assert (finding.kind, finding.since) == ("PL017", ago(6))
    assert finding.detail == "ConnectError; 4 tries to hand it over failed"


def test_a_hand_over_that_fails_by_itself_is_told_apart() -> None:
    """Where Prefect serves the others, the trouble is this run's."""
    assert before(waiting()) is None
    assert found(before(waiting(last_error="HTTP 500", steps_aside=True)))[0] == "PL025"
    assert found(before(waiting(last_error="HTTP 500")))[0] == "PL017"
    assert before(waiting(last_error="HTTP 500", accepted_at=ago(2))) is None


@pytest.mark.parametrize(("paused", "kind"), [(True, "PL021"), (False, "PL022")])
def test_a_run_of_a_backfill_waits_for_it(paused: bool, kind: str) -> None:
    """Also while Prefect fails: the backfill would hold it anyway."""
    run = waiting(held_back=True, backfill_paused=paused, backfill_id=UUID(int=3))
    assert found(before(run, failing=60)) == found(before(run))
    assert found(before(run))[0] == kind
