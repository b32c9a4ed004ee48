"""What is concluded from Jobs and pods that are not there: runs put back, crashed, or left alone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from orchestrator import remedies
from orchestrator.ledger import reasons
from orchestrator.ledger.tables import runs
from orchestrator.reasons import Reason
from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncEngine

from .cluster import ClusterWire, saying
from .recovering import Recovering, age, following, heard_of, hurried, messages, recovering, requests
from .test_dispatch import rows
from .test_sync import Follow, follow, handed_over_run
from .wire import PrefectWire

__all__ = ["follow", "hurried", "recovering"]  # fixtures, used here by name


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


async def hosted(db: AsyncEngine, wire: PrefectWire, cluster: ClusterWire, follow: Follow) -> str:
    """A run that is executed in the pod of another, which is over; its flow run's id."""
    for _ in range(2):
        await handed_over_run(db, wire)
    host, guest = wire.flow_runs
    for flow_run_id in (host, guest):
        wire.move(flow_run_id, "RUNNING")
    wire.move(host, "COMPLETED")
    wire.flow_runs[guest]["labels"] = {"pipelines.pod-of": host}
    cluster.add_job(host, active=1)
    cluster.add_pod(host, phase="Running")
    await following(follow, wire)
    return guest


@pytest.mark.usefixtures("hurried")
async def test_a_run_in_anothers_pod_goes_on_with_it(db: AsyncEngine, recovering: Recovering, follow: Follow) -> None:
    """No Job bears its name, and the one of its host stays although that run has long been over."""
    wire, cluster = PrefectWire(), ClusterWire()
    await hosted(db, wire, cluster, follow)
    async with db.begin() as connection:
        ended = update(runs).where(runs.c.ended_at.is_not(None))
        await connection.execute(ended.values(ended_at=func.now() - timedelta(hours=1)))
    async with recovering(wire, cluster) as watched:
        await watched.look()
        await watched.look()
    assert watched.acted == []


@pytest.mark.usefixtures("hurried")
async def test_a_run_whose_hosts_pod_is_gone_is_crashed_and_rerun(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """As one whose own pod is gone."""
    wire, cluster = PrefectWire(), ClusterWire()
    guest = await hosted(db, wire, cluster, follow)
    cluster.objects["jobs"].clear()
    cluster.objects["pods"].clear()
    async with recovering(wire, cluster) as watched:
        await watched.look()
        await watched.look()
    assert watched.acted == ["crash", "rerun"]
    assert wire.flow_runs[guest]["state"]["name"] == "AwaitingRetry"


async def test_a_pod_without_a_run_is_left_for_a_while(db: AsyncEngine, recovering: Recovering, follow: Follow) -> None:
    """It waits for its next run; when none has come for long, it is taken for left behind."""
    wire, cluster = PrefectWire(), ClusterWire()
    wire.move(await hosted(db, wire, cluster, follow), "COMPLETED")
    await following(follow, wire)
    async with recovering(wire, cluster) as watched:
        for last_ended in (timedelta(seconds=1), timedelta(hours=1)):
            assert watched.acted == []
            async with db.begin() as connection:
                await connection.execute(update(runs).values(ended_at=func.now() - timedelta(hours=1)))
                guests = update(runs).where(runs.c.pod_of.is_not(None))
                await connection.execute(guests.values(ended_at=func.now() - last_ended))
            await watched.look()
    assert watched.acted == ["remove_job"]


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
