"""Runs that stopped on their way: rerun, put back, ended by a deadline, left out; by any leader, through outages."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from orchestrator import remedies
from orchestrator.backfills import Mode, Range
from orchestrator.ledger import backfilling, cancellation, reasons
from orchestrator.ledger.events import Seen
from orchestrator.ledger.tables import cancellations, pipelines, run_events, runs
from orchestrator.reasons import Reason
from orchestrator.recovery import Recovery
from orchestrator.settings import Missed, Pipeline
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from .cluster import ClusterWire, saying, speaking_to
from .conftest import Serve, eventually
from .test_dispatch import accept, dispatcher, know, prefect_on, rows
from .test_sync import Follow, events, follow, handed_over_run
from .wire import DEPLOYMENT, PrefectWire, refused

__all__ = ["follow"]  # a fixture of the sync's tests, used here by name

PIPELINE = Pipeline(name="etl", deployment=DEPLOYMENT)


class Watched:
    """A recovery under test, what it did and what it told."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.acted: list[str] = []
        self.recovery: Recovery

    async def look(self) -> None:
        await self.recovery.look()


Recovering = Callable[..., AbstractAsyncContextManager[Watched]]


@pytest.fixture
def recovering(db: AsyncEngine) -> Recovering:
    """`async with recovering(wire, cluster=…, max_attempts=…)`: on the test's ledger, with those policies."""

    @asynccontextmanager
    async def opened(wire: PrefectWire, cluster: ClusterWire | None = None, **policy: Any) -> AsyncIterator[Watched]:
        watched = Watched()
        if not wire.pools:
            wire.add_pool()
        for flow_run in wire.flow_runs.values():
            flow_run["work_pool_name"] = "pipelines"
        async with prefect_on(wire) as prefect, speaking_to(cluster) as kubernetes:
            watched.recovery = Recovery(
                db=db,
                prefect=prefect,
                kubernetes=kubernetes,
                pipelines={"etl": PIPELINE.model_copy(update=policy)},
                leads=lambda: True,
                on_seen=watched.seen.append,
                on_acted=lambda pipeline, action: watched.acted.append(action),
            )
            yield watched

    return opened


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No patience: what is missing at one look is acted upon at the next."""
    for name in ("LOST_AFTER", "NEVER_BEGAN_AFTER", "WORKER_TIME", "UNSEEN_WORKER_TIME"):
        monkeypatch.setattr(remedies, name, timedelta(0))


async def following(follow: Follow, wire: PrefectWire, attempts: int = 3) -> Any:
    """What the sync would write down now, for a pipeline with so many attempts."""
    async with follow(wire, max_attempts={"etl": attempts}) as watching:
        await watching.look()
        return watching


async def age(db: AsyncEngine, **ago: timedelta) -> None:
    """As if the moments in these columns of every run lay so far back."""
    async with db.begin() as connection:
        await connection.execute(update(runs).values({name: func.now() - long for name, long in ago.items()}))


async def heard_of(db: AsyncEngine) -> None:
    """Prefect has told of the pipeline all along."""
    async with db.begin() as connection:
        await connection.execute(update(pipelines).values(seen_at=func.now(), watched_at=func.now()))


async def messages(db: AsyncEngine, run_id: UUID) -> list[tuple[str, str, str | None]]:
    async with db.begin() as connection:
        event = run_events.c
        query = select(event.state, event.state_name, event.message).where(event.run_id == run_id)
        changes = query.where(event.reason.is_(None), event.kind != "submitted").order_by(event.id)
        return [tuple(row) for row in await connection.execute(changes)]


def requests(wire: PrefectWire) -> int:
    return sum(one.url.path.endswith("/set_state") for one in wire.requests)


async def test_a_crashed_run_is_rerun_until_its_attempts_are_used_up(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """It is never recorded as over in between; the last crash is its end, with Prefect's word on it."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    async with recovering(wire) as watched:
        for attempt in (1, 2, 3):
            wire.move(flow_run_id, "RUNNING")
            await following(follow, wire)
            wire.move(flow_run_id, "CRASHED", message=f"killed {attempt}")
            await following(follow, wire)
            await following(follow, wire)
            await watched.look()
            await watched.look()
            (row,) = await rows(db)
            assert row.attempt == min(attempt + 1, 3)
    assert await messages(db, run_id) == [
        ("Running", "Running", None),
        ("Scheduled", "AwaitingRetry", "attempt 2 of 3: killed 1"),
        ("Running", "Running", None),
        ("Scheduled", "AwaitingRetry", "attempt 3 of 3: killed 2"),
        ("Running", "Running", None),
        ("Crashed", "Crashed", "killed 3"),
    ]
    assert watched.acted == ["rerun", "rerun"]
    assert requests(wire) == 2


@pytest.mark.parametrize("end", ["FAILED", "COMPLETED", "CANCELLED"])
async def test_only_a_crash_is_rerun(db: AsyncEngine, recovering: Recovering, follow: Follow, end: str) -> None:
    """A flow that raised has said what it had to say."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, end)
    await following(follow, wire)
    async with recovering(wire) as watched:
        await watched.look()
    assert (await rows(db))[0].state == end.title()
    assert requests(wire) == 0


async def test_where_one_attempt_is_allowed_a_crash_is_the_end(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """maxAttempts: 1."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "CRASHED")
    await following(follow, wire, attempts=1)
    async with recovering(wire, max_attempts=1) as watched:
        await watched.look()
    (row,) = await rows(db)
    assert (row.state, row.attempt, requests(wire)) == ("Crashed", 1, 0)


async def test_a_run_that_completes_before_its_rerun_stays_completed(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """The pod was only slow: Prefect's Crashed → Completed stands, and nothing is rerun."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "CRASHED")
    await following(follow, wire)
    wire.move(flow_run_id, "COMPLETED")
    async with recovering(wire) as watched:
        await watched.look()
        await watched.look()
    assert [state for _, state in await events(db, run_id)] == ["Scheduled", "Completed"]
    assert (watched.acted, requests(wire)) == ([], 0)


async def test_a_crash_is_counted_once_however_often_it_is_seen(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """Two that lead at once, looks that overlap, and a request whose answer was lost: one attempt."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "CRASHED")
    await asyncio.gather(*(following(follow, wire) for _ in range(4)))
    async with recovering(wire) as one, recovering(wire) as two:
        await asyncio.gather(*(each.look() for each in (one, two, one, two)))
    (row,) = await rows(db)
    assert (row.attempt, row.state_name, row.rerun_due) == (2, "AwaitingRetry", False)
    assert requests(wire) == 1


@pytest.mark.parametrize("dies", ["before Prefect is told", "after Prefect was told"])
async def test_a_rerun_outlives_whoever_began_it(
    db: AsyncEngine, recovering: Recovering, follow: Follow, dies: str
) -> None:
    """The attempt is in the ledger first; the next look does, or finds done, what is left."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "CRASHED", message="killed")
    await following(follow, wire)
    if dies == "after Prefect was told":
        wire.move(flow_run_id, "SCHEDULED", name="AwaitingRetry", message="attempt 2 of 3: killed")
    async with recovering(wire) as watched:
        await watched.look()
        await watched.look()
    assert await messages(db, run_id) == [("Scheduled", "AwaitingRetry", "attempt 2 of 3: killed")]
    (row,) = await rows(db)
    assert (row.attempt, row.rerun_due) == (2, False)


async def test_while_prefect_is_away_nothing_is_lost(db: AsyncEngine, recovering: Recovering, follow: Follow) -> None:
    """The rerun waits, however often it is tried."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "CRASHED")
    await following(follow, wire)
    wire.fault = refused
    async with recovering(wire) as watched:
        for _ in range(3):
            with pytest.raises(Exception, match="Prefect"):
                await watched.look()
        wire.fault = None
        await watched.look()
    assert (await rows(db))[0].state_name == "AwaitingRetry"


async def test_a_run_that_prefect_does_not_take_again_ends(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """Its deployment is gone: it is Crashed, not due for ever."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "CRASHED", message="killed")
    await following(follow, wire)
    wire.flow_runs[flow_run_id]["deployment_id"] = None
    async with recovering(wire) as watched:
        await watched.look()
    (row,) = await rows(db)
    assert (row.state, row.rerun_due, watched.acted) == ("Crashed", False, [])
    assert "does not let it be rerun" in row.given_up


async def test_a_run_that_is_to_be_cancelled_is_not_rerun(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """Whether the wish came before the crash was seen or after."""
    wire = PrefectWire()
    first, first_flow_run = await handed_over_run(db, wire)
    wire.move(first_flow_run, "CRASHED")
    await following(follow, wire)
    await cancellation.ask(db, "etl", first)
    async with recovering(wire) as watched:
        await watched.look()
        assert requests(wire) == 0
        await following(follow, wire)
    (row,) = await rows(db)
    assert row.state == "Crashed"


async def test_a_wish_that_comes_during_the_rerun_is_carried_out(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """The canceller found the run over while its rerun was on its way: it begins anew, the run does not go on."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "CRASHED")
    await following(follow, wire)

    async def asked_meanwhile(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/set_state"):
            # another replica takes the wish, finds the run crashed, and has nothing more to do
            async with db.begin() as connection:
                await cancellation.wish(connection, [run_id])
                await connection.execute(update(cancellations).values(settled_at=func.now()))
        wire.fault = None
        answered = wire.answer(request)
        wire.fault = asked_meanwhile
        return answered

    wire.fault = asked_meanwhile
    async with recovering(wire) as watched:
        await watched.look()
    async with db.begin() as connection:
        assert (await connection.execute(select(cancellations.c.settled_at))).scalar_one() is None


async def test_the_ledger_stays_what_it_was_while_a_rerun_is_due(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """Nobody who reads the ledger sees the run as over; a backfill keeps its place for it."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "RUNNING")
    await following(follow, wire)
    wire.move(flow_run_id, "CRASHED")
    await following(follow, wire)
    (row,) = await rows(db)
    assert (row.state, row.ended_at, row.rerun_due) == ("Running", None, True)
    assert [state for _, state in await events(db, run_id)] == ["Scheduled", "Running"]


# -- with Kubernetes


@pytest.mark.usefixtures("hurried")
async def test_a_pending_run_without_a_job_is_put_back(db: AsyncEngine, recovering: Recovering, follow: Follow) -> None:
    """Its worker died: it is Scheduled for another, which is no attempt, and recorded."""
    wire, cluster = PrefectWire(), ClusterWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "PENDING", name="Submitting")
    await following(follow, wire)
    async with recovering(wire, cluster) as watched:
        await watched.look()
    assert watched.acted == ["put_back"]
    last = (await messages(db, run_id))[-1]
    assert last[:2] == ("Scheduled", "Scheduled")
    assert "put back: the worker that took it has made no Job" in (last[2] or "")
    assert (await rows(db))[0].attempt == 1


async def test_a_worker_is_given_its_time(db: AsyncEngine, recovering: Recovering, follow: Follow) -> None:
    """Without a Job for a moment only, nothing is done; a Job that comes ends the wait."""
    wire, cluster = PrefectWire(), ClusterWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "PENDING")
    await following(follow, wire)
    async with recovering(wire, cluster) as watched:
        await watched.look()
        await watched.look()
        cluster.add_job(flow_run_id, active=1)
        await watched.look()
    assert (watched.acted, requests(wire)) == ([], 0)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
async def test_where_a_pool_runs_processes_a_missing_job_means_nothing(
    db: AsyncEngine, recovering: Recovering, follow: Follow, state: str
) -> None:
    """A deployment may be given to another kind of worker."""
    wire, cluster = PrefectWire(), ClusterWire()
    wire.add_pool(type="process")
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, state)
    await following(follow, wire)
    async with recovering(wire, cluster) as watched:
        await watched.look()
    assert (watched.acted, requests(wire)) == ([], 0)


@pytest.mark.usefixtures("hurried")
async def test_a_silent_pod_is_given_up_and_its_run_rerun(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """Its Job goes first, then the next attempt begins; a silence that has just begun is waited out."""
    wire, cluster = PrefectWire(), ClusterWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "RUNNING")
    await following(follow, wire)
    cluster.add_job(flow_run_id, active=1)
    cluster.add_pod(flow_run_id, phase="Running")
    async with recovering(wire, cluster) as watched:
        for ago in (30, 90):
            since = datetime.now(UTC) - timedelta(seconds=ago)
            silent = Reason(id="PL016", detail="no heartbeat for 3 minutes", fix="kubectl logs", since=since)
            await reasons.hold(db, {run_id: None})
            await reasons.hold(db, {run_id: silent})
            await watched.look()
            assert watched.acted == ([] if ago == 30 else ["crash"])
        await watched.look()
        await watched.look()
    assert watched.acted == ["crash", "remove_job", "rerun"]
    assert "no heartbeat" in (await messages(db, run_id))[-1][2]


async def test_a_run_in_a_full_pool_is_not_ended(db: AsyncEngine, recovering: Recovering, follow: Follow) -> None:
    """The reason says that it waits for room, whatever its state is called."""
    wire = PrefectWire()
    run_id, _ = await handed_over_run(db, wire)
    await following(follow, wire)
    await heard_of(db)
    await age(db, dispatched_at=timedelta(hours=9))
    full = Reason(id="PL006", detail="3 of 3", fix="prefect", since=datetime.now(UTC))
    await reasons.hold(db, {run_id: full})
    async with recovering(wire) as watched:
        await watched.look()
        await reasons.hold(db, {run_id: None})
        await watched.look()
    assert watched.acted == []


@pytest.mark.usefixtures("hurried")
async def test_a_job_that_comes_at_the_last_moment_counts(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """Kubernetes is asked once more before anything is done."""
    wire, cluster = PrefectWire(), ClusterWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "PENDING")
    await following(follow, wire)

    async def then_one(request: Any) -> Any:
        if sum("/jobs" in path for _, path in cluster.requests) == 2:
            cluster.add_job(flow_run_id, active=1)
        cluster.fault = None
        answered = await cluster._answer(request)
        cluster.fault = then_one
        return answered

    cluster.fault = then_one
    async with recovering(wire, cluster) as watched:
        await watched.look()
    assert (watched.acted, requests(wire)) == ([], 0)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("left", ["nothing", "a failed Job", "a Job that succeeded"])
async def test_a_running_run_whose_pod_is_gone_is_crashed_and_rerun(
    db: AsyncEngine, recovering: Recovering, follow: Follow, left: str
) -> None:
    """Prefect never heard of its end: it does now, and another attempt follows."""
    wire, cluster = PrefectWire(), ClusterWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "RUNNING")
    await following(follow, wire)
    if left != "nothing":
        kind = "Failed" if left == "a failed Job" else "Complete"
        cluster.add_job(flow_run_id, conditions=[{"type": kind, "status": "True"}])
    async with recovering(wire, cluster) as watched:
        await watched.look()
        await watched.look()
    assert watched.acted == ["crash", "rerun"]
    assert await messages(db, run_id) == [
        ("Running", "Running", None),
        ("Scheduled", "AwaitingRetry", "attempt 2 of 3: its pod is gone, and Prefect was not told how it ended"),
    ]


@pytest.mark.usefixtures("hurried")
async def test_a_run_that_ends_as_its_pod_does_is_left_alone(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """The ledger is a moment behind: Prefect is asked again before anything is done."""
    wire, cluster = PrefectWire(), ClusterWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "RUNNING")
    await following(follow, wire)
    wire.move(flow_run_id, "COMPLETED")
    async with recovering(wire, cluster) as watched:
        await watched.look()
    assert (watched.acted, requests(wire)) == ([], 0)
    assert (await messages(db, run_id))[-1][0] == "Completed"


@pytest.mark.usefixtures("hurried")
async def test_without_kubernetes_answer_nothing_is_concluded(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """What cannot be seen is no evidence."""
    wire, cluster = PrefectWire(), ClusterWire()
    for state in ("PENDING", "RUNNING"):
        run_id, _ = await handed_over_run(db, wire)
        wire.move(next(one["id"] for one in wire.flow_runs.values() if one["idempotency_key"] == str(run_id)), state)
    await following(follow, wire)
    cluster.fault = saying(500, "etcd is away")
    async with recovering(wire, cluster) as watched:
        for _ in range(3):
            await watched.look()
    assert (watched.acted, requests(wire)) == ([], 0)


async def test_an_old_process_goes_before_the_next_attempt(
    db: AsyncEngine, recovering: Recovering, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Job is removed first; a pod that does not go holds the rerun up for a while, not for ever."""
    wire, cluster = PrefectWire(), ClusterWire()
    _, flow_run_id = await handed_over_run(db, wire)
    cluster.add_job(flow_run_id, active=1)
    pod = cluster.add_pod(flow_run_id, phase="Running")
    wire.move(flow_run_id, "CRASHED")
    await following(follow, wire)
    async with recovering(wire, cluster) as watched:
        await watched.look()
        assert (watched.acted, cluster.objects["jobs"]) == (["remove_job"], [])
        assert (await rows(db))[0].rerun_due
        cluster.objects["pods"].append(pod)  # its node is not heard of
        await watched.look()
        assert watched.acted == ["remove_job"]
        monkeypatch.setattr(remedies, "MOST_WAIT_FOR_OLD_PROCESS", timedelta(0))
        await watched.look()
    assert watched.acted == ["remove_job", "rerun"]


# -- deadlines


async def test_a_run_that_does_not_start_in_time_ends(db: AsyncEngine, recovering: Recovering, follow: Follow) -> None:
    """Crashed with the reason, whatever attempts are left, and its Job is removed."""
    wire, cluster = PrefectWire(), ClusterWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "PENDING", name="InfrastructurePending")
    await following(follow, wire)
    cluster.add_job(flow_run_id, active=1)
    cluster.add_pod(flow_run_id)
    await heard_of(db)
    async with recovering(wire, cluster, start_deadline_seconds=3600) as watched:
        await age(db, dispatched_at=timedelta(seconds=3590))
        await watched.look()
        assert watched.acted == []
        await age(db, dispatched_at=timedelta(seconds=3601))
        await watched.look()
        await watched.look()
    assert watched.acted == ["remove_job", "give_up"]
    (row,) = await rows(db)
    assert (row.state, row.attempt) == ("Crashed", 1)
    assert row.message == "not started within 3600 s, the pipeline's start deadline"
    assert wire.flow_runs[flow_run_id]["state"]["message"] == row.message
    assert cluster.objects["jobs"] == []


async def test_a_decision_to_end_a_run_outlives_whoever_took_it(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """It is in the ledger before Prefect is told."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    async with db.begin() as connection:
        await connection.execute(update(runs).values(given_up="not started within 3600 s"))
    async with recovering(wire) as watched:
        await watched.look()
    (row,) = await rows(db)
    assert (row.state, row.message) == ("Crashed", "not started within 3600 s")
    assert wire.flow_runs[flow_run_id]["state"]["type"] == "CRASHED"


async def test_after_an_outage_the_waits_begin_anew(db: AsyncEngine, recovering: Recovering, follow: Follow) -> None:
    """Prefect was away for hours: what waited meanwhile is not ended at the first look."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    await following(follow, wire)
    await age(db, dispatched_at=timedelta(hours=9))
    async with recovering(wire, start_deadline_seconds=3600) as watched:
        async with db.begin() as connection:  # Prefect is not heard of
            await connection.execute(update(pipelines).values(seen_at=func.now() - timedelta(minutes=2)))
        await watched.look()
        async with db.begin() as connection:  # it is again, after hours
            values = {"seen_at": func.now(), "watched_at": func.now() - timedelta(hours=8)}
            await connection.execute(update(pipelines).values(values))
        await watched.look()
        await watched.look()
        assert watched.acted == []
        await age(db, waits_since=timedelta(seconds=3601))
        assert await watched.recovery.look() is False
        assert watched.acted == [], "Prefect itself says that it is due just now"
        wire.flow_runs[flow_run_id]["next_scheduled_start_time"] = "2026-01-01T00:00:00Z"
        await watched.look()
    assert watched.acted == ["give_up"]


async def test_a_run_that_waits_for_a_slot_is_not_ended(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """A backfill may queue for hours; its deadline counts from when there was room."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "SCHEDULED", name="AwaitingConcurrencySlot")
    await following(follow, wire)
    await heard_of(db)
    await age(db, dispatched_at=timedelta(hours=9))
    async with recovering(wire) as watched:
        await watched.look()
        wire.move(flow_run_id, "PENDING")
        await following(follow, wire)
        await heard_of(db)
        await watched.look()
    assert watched.acted == []


async def test_a_run_not_handed_over_has_no_deadline(db: AsyncEngine, recovering: Recovering) -> None:
    """Nothing accepted is lost because Prefect was away."""
    wire = PrefectWire()
    await know(db, wire)
    await accept(db, 1)
    await age(db, accepted_at=timedelta(days=9))
    async with recovering(wire, start_deadline_seconds=1) as watched:
        await watched.look()
    assert (watched.acted, (await rows(db))[0].state) == ([], "Scheduled")


async def test_a_run_that_runs_too_long_is_ended(db: AsyncEngine, recovering: Recovering, follow: Follow) -> None:
    """Failed named TimedOut: not rerun, and a pod that is stopped does not give it back; its Job is removed."""
    wire, cluster = PrefectWire(), ClusterWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "RUNNING")
    cluster.add_job(flow_run_id, active=1)
    cluster.add_pod(flow_run_id, phase="Running")
    long_ago = (datetime.now(UTC) - timedelta(seconds=999)).isoformat()
    wire.flow_runs[flow_run_id]["state"]["timestamp"] = wire.flow_runs[flow_run_id]["start_time"] = long_ago
    await following(follow, wire)
    async with recovering(wire, cluster, run_deadline_seconds=9999) as watched:
        await watched.look()
        assert watched.acted == []
    async with recovering(wire, cluster, run_deadline_seconds=998) as watched:
        await watched.look()
    assert watched.acted == ["remove_job", "time_out"]
    (row,) = await rows(db)
    assert (row.state, row.state_name) == ("Failed", "TimedOut")
    assert "run deadline" in row.message


# -- Jobs left behind


async def test_jobs_of_runs_that_are_over_are_removed(db: AsyncEngine, recovering: Recovering, follow: Follow) -> None:
    """Those of cancelled runs at once, of others after a while; never a finished one, a live run's or a stranger's."""
    wire, cluster = PrefectWire(), ClusterWire()
    await know(db, wire)
    made = await accept(db, 4)
    async with dispatcher(db, wire) as one:
        while await one.hand_over_one():
            pass
    of = {one["idempotency_key"]: one["id"] for one in wire.flow_runs.values()}
    cancelled, completed, finished, live = (of[str(run_id)] for run_id in made)
    for flow_run_id, state in (
        (cancelled, "CANCELLED"),
        (completed, "COMPLETED"),
        (finished, "COMPLETED"),
        (live, "RUNNING"),
    ):
        wire.move(flow_run_id, state)
    await following(follow, wire)
    for name, flow_run_id in (("cancelled", cancelled), ("completed", completed), ("live", live)):
        cluster.add_job(flow_run_id, name, active=1)
    cluster.add_job(finished, "finished", conditions=[{"type": "Complete", "status": "True"}])
    cluster.add_job(str(uuid4()), "stranger", active=1)
    cluster.add_job("", "no-flow-run", active=1)
    async with recovering(wire, cluster) as watched:
        await watched.look()
        assert {one["metadata"]["name"] for one in cluster.objects["jobs"]} >= {"completed", "live", "finished"}
        async with db.begin() as connection:
            ended = update(runs).where(runs.c.ended_at.is_not(None))
            await connection.execute(ended.values(ended_at=func.now() - timedelta(minutes=3)))
        await watched.look()
    left = {one["metadata"]["name"] for one in cluster.objects["jobs"]}
    assert left == {"live", "finished", "stranger", "no-flow-run"}
    assert watched.acted == ["remove_job", "remove_job"]


async def test_a_run_that_goes_on_in_prefect_keeps_its_job(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """Somebody started it again in Prefect's UI: the ledger's end is final, the Job is not ours to judge."""
    wire, cluster = PrefectWire(), ClusterWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "FAILED")
    await following(follow, wire)
    wire.move(flow_run_id, "RUNNING")
    cluster.add_job(flow_run_id, active=1)
    async with db.begin() as connection:
        await connection.execute(update(runs).values(ended_at=func.now() - timedelta(hours=1)))
    async with recovering(wire, cluster) as watched:
        await watched.look()
    assert len(cluster.objects["jobs"]) == 1
    assert (watched.acted, requests(wire)) == ([], 0)


# -- missed schedules


async def scheduled(db: AsyncEngine, follow: Follow, wire: PrefectWire, *late: timedelta) -> list[str]:
    """Runs that the schedule made for a day each, so late now; their flow runs."""
    await know(db, wire)
    made = [
        wire.add("SCHEDULED", due=datetime.now(UTC) - each, name="Late", auto_scheduled=True)["id"] for each in late
    ]
    await following(follow, wire)
    await heard_of(db)
    return made


DAYS = (timedelta(days=3), timedelta(days=2), timedelta(days=1), timedelta(minutes=1))


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        (Missed.RUN_ALL, ["Scheduled"] * 4),
        (Missed.LATEST, ["Cancelled"] * 3 + ["Scheduled"]),
        (Missed.SKIP, ["Cancelled"] * 3 + ["Scheduled"]),
    ],
)
async def test_missed_runs_are_left_out_by_the_pipelines_policy(
    db: AsyncEngine, recovering: Recovering, follow: Follow, policy: Missed, left: list[str]
) -> None:
    """However long ago they were due; the message names the policy, and a run that is in time is kept."""
    wire = PrefectWire()
    await scheduled(db, follow, wire, *DAYS)
    async with recovering(wire, missed_schedules=policy) as watched:
        await watched.look()
        await watched.look()
    found = await rows(db)
    assert [row.state for row in found] == left
    assert watched.acted == ["skip"] * left.count("Cancelled")
    skipped = [row for row in found if row.state == "Cancelled"]
    assert {row.state_name for row in skipped} <= {"Skipped"}
    assert all(f"missedSchedules: {policy}" in row.message for row in skipped)


async def test_only_the_schedules_own_runs_are_left_out(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """Not one that somebody asked for by the API or in Prefect, and not one that a worker has taken by then."""
    wire = PrefectWire()
    taken, _ = await scheduled(db, follow, wire, timedelta(days=2), timedelta(days=1))
    wire.add("SCHEDULED", due=datetime.now(UTC) - timedelta(days=2))
    run_id, _ = await handed_over_run(db, wire)
    async with db.begin() as connection:
        of_it = update(runs).where(runs.c.run_id == run_id)
        await connection.execute(of_it.values(accepted_at=func.now() - timedelta(days=4)))
    wire.move(taken, "PENDING")
    async with recovering(wire, missed_schedules=Missed.SKIP) as watched:
        await watched.look()
    assert watched.acted == ["skip"]


# -- the whole service


async def test_a_crash_is_rerun_within_a_moment(serve: Serve) -> None:
    """The sync wakes the recovery; status shows the attempt, the metrics count it, a follower is told."""
    wire = PrefectWire()
    async with serve(wire) as client:
        run_id = (await client.post("/api/etl/start")).json()["run_id"]

        async def told() -> Any:
            return (await client.get(f"/api/etl/status/{run_id}")).json()

        async def flow_run() -> Any:
            return (await told())["flow_run_id"]

        flow_run_id = await eventually(flow_run, within=5, what="a flow run")
        assert ((await told())["attempt"], (await told())["max_attempts"]) == (1, 3)
        wire.move(flow_run_id, "CRASHED", message="killed")

        async def again() -> Any:
            now = await told()
            return now if now["state_name"] == "AwaitingRetry" else None

        now = await eventually(again, within=30, what="the next attempt")
        assert (now["attempt"], now["message"], now["ended_at"]) == (2, "attempt 2 of 3: killed", None)
        count = 'orchestrator_recovery_actions_total{action="rerun",pipeline="etl"} 1.0'

        async def counted() -> bool:
            return count in (await client.get("/metrics")).text

        await eventually(counted, within=30, what="the rerun is counted")


async def test_a_rerun_keeps_its_place_in_a_backfill(db: AsyncEngine, recovering: Recovering, follow: Follow) -> None:
    """The limit counts it as going on, and its date is not failed."""
    wire = PrefectWire()
    await know(db, wire)
    days = Range(first=date(2026, 3, 1), last=date(2026, 3, 2))
    plan = await backfilling.shown(db, "etl", days, Mode.MISSING, max_concurrent=1)
    backfill_id, _ = await backfilling.create(
        db,
        "etl",
        days,
        Mode.MISSING,
        max_concurrent=1,
        digest=plan.digest,
        parameters={},
        correlation_id="c",
        traceparent=None,
    )
    await backfilling.admit(db)
    async with dispatcher(db, wire) as one:
        while await one.hand_over_one():
            pass
    (flow_run_id,) = wire.flow_runs
    wire.move(flow_run_id, "RUNNING")
    wire.move(flow_run_id, "CRASHED")
    await following(follow, wire)
    async with recovering(wire) as watched:
        assert await backfilling.admit(db) == 0
        await watched.look()
        assert await backfilling.admit(db) == 0
    progress = await backfilling.progress(db, "etl", backfill_id)
    assert progress is not None
    assert (progress.counts, progress.queued, progress.first_failed) == ({"Scheduled": 2}, 1, None)
    wire.move(flow_run_id, "COMPLETED")
    await following(follow, wire)
    assert await backfilling.admit(db) == 1
