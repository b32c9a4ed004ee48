"""The leader's looks at Prefect and at the cluster, over both wires: what is written down, told and shown of a run."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from orchestrator import diagnosis, kubernetes_api
from orchestrator.diagnosis import Diagnosis
from orchestrator.errors import EngineUnavailable
from orchestrator.ledger import reasons
from orchestrator.ledger.connection import transaction
from orchestrator.ledger.leadership import Leadership
from orchestrator.ledger.tables import runs
from orchestrator.prefect_api import PrefectApi
from orchestrator.reasons import Commands, Reason
from orchestrator.resilience import Guard, Limits
from orchestrator.sync import Sync
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from .cluster import NAMESPACE, ClusterWire, now, saying
from .conftest import Serve, eventually
from .test_dispatch import NAMES, accept, know
from .wire import PrefectWire, refused

POOL = {"work_pool_name": "pipelines", "work_queue_name": "default"}


class Looking:
    """A sync that diagnoses, looked at by hand."""

    def __init__(self, db: AsyncEngine, sync: Sync, diagnosis: Diagnosis) -> None:
        self.db, self.sync, self.diagnosis = db, sync, diagnosis

    async def at(self, run: UUID) -> Reason | None:
        """What is known of the run after another look."""
        await self.sync.look()
        return (await reasons.read(self.db, [run])).get(run)


Look = Callable[..., AbstractAsyncContextManager[Looking]]


@pytest.fixture
def look(db: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Look:
    monkeypatch.setattr(diagnosis, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(diagnosis, "HEARTBEAT_SECONDS", 0.0)

    @asynccontextmanager
    async def looking(wire: PrefectWire, cluster: ClusterWire | None = None) -> AsyncIterator[Looking]:
        limits = Limits(attempts=1, failures_to_open=10**6)
        async with (
            (cluster or ClusterWire()).served() as configuration,
            kubernetes_api.opened(
                configuration if cluster else None,
                namespace=NAMESPACE,
                guard=Guard("kubernetes", limits=limits),
                observe=lambda *_: None,
            ) as kubernetes,
            httpx.AsyncClient(base_url="http://prefect.test/api", transport=wire) as client,
        ):
            prefect = PrefectApi(client, Guard("prefect", limits=limits))
            commands = Commands(namespace=NAMESPACE if cluster else None, prefect_api="http://prefect.test/api")
            one = Diagnosis(db=db, prefect=prefect, kubernetes=kubernetes, commands=commands, query_seconds=1)
            sync = Sync(
                db=db,
                prefect=prefect,
                leadership=Leadership(database_url),
                diagnosis=one,
                deployments=NAMES,
                poll_seconds=0.05,
                handed_over=asyncio.Event(),
                on_seen=lambda change: None,
                on_failure=lambda: None,
            )
            yield Looking(db, sync, one)

    return looking


def due(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def adopted(
    wire: PrefectWire, state: str = "SCHEDULED", *, since: float = 20, **more: Any
) -> tuple[UUID, dict[str, Any]]:
    """A flow run that waits, or was put into a state that long ago."""
    flow_run = wire.add(state, due=due(since), **(POOL | more))
    flow_run["state"]["timestamp"] = due(since).isoformat()
    return UUID(flow_run["id"]), flow_run


async def test_a_late_run_without_a_worker_is_named_until_there_is_one(look: Look) -> None:
    """The reason appears with its evidence and its fix, and goes when a worker polls again."""
    wire = PrefectWire()
    wire.add_pool(workers=[])
    queue = wire.pools["pipelines"]["queues"]["default"]
    queue["last_polled"] = due(30).isoformat()
    run, _ = adopted(wire)
    async with look(wire, ClusterWire()) as looking:
        reason = await looking.at(run)
        assert reason is not None
        assert reason.id == "PL001"
        assert reason.fix.startswith(f"kubectl --namespace {NAMESPACE} scale deployment")
        queue["last_polled"] = now()
        assert await looking.at(run) is None


async def test_holders_are_named_by_their_run_ids(look: Look) -> None:
    """Who occupies the pool, in the API's words."""
    wire = PrefectWire()
    wire.add_pool(concurrency_limit=1)
    going, flow_run = adopted(wire, "RUNNING")
    wire.heartbeats.append((flow_run["id"], datetime.now(UTC)))
    run, _ = adopted(wire)
    async with look(wire) as looking:
        reason = await looking.at(run)
        assert reason is not None
        assert reason.id == "PL006"
        assert str(going) in reason.detail
        assert (await reasons.read(looking.db, [going])) == {}


async def test_a_pod_that_cannot_be_placed_and_one_that_can(look: Look) -> None:
    """Named from the scheduler's message; gone once the pod runs."""
    wire, cluster = PrefectWire(), ClusterWire()
    wire.add_pool()
    run, flow_run = adopted(wire, "PENDING")
    cluster.add_job(flow_run["id"], active=1)["metadata"]["creationTimestamp"] = due(10).isoformat()
    why = "0/1 nodes are available: 1 Insufficient cpu."
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
    pod = cluster.add_pod(flow_run["id"], conditions=[unplaced])
    pod["metadata"]["creationTimestamp"] = due(10).isoformat()
    async with look(wire, cluster) as looking:
        reason = await looking.at(run)
        assert reason is not None
        assert reason.id == "PL010"
        assert "Insufficient cpu" in reason.detail
        assert reason.fix.startswith(f"kubectl --namespace {NAMESPACE} describe pod a-job-x1")
        pod["status"] = {"phase": "Running", "conditions": [], "containerStatuses": [running()]}
        assert await looking.at(run) is None


def running() -> dict[str, Any]:
    return {"name": "prefect-job", "state": {"running": {"startedAt": now()}}}


async def test_a_quota_is_found_in_the_jobs_events(look: Look) -> None:
    """Events are asked for only where something does not get on."""
    wire, cluster = PrefectWire(), ClusterWire()
    wire.add_pool()
    run, flow_run = adopted(wire, "PENDING")
    job = cluster.add_job(flow_run["id"])
    job["metadata"]["creationTimestamp"] = due(-60).isoformat()  # young, however long the look takes on a busy machine
    async with look(wire, cluster) as looking:
        assert await looking.at(run) is None
        assert not [path for _, path in cluster.requests if "events" in path]
        job["metadata"]["creationTimestamp"] = due(10).isoformat()
        cluster.warn(job, "Job", "FailedCreate", "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2")
        reason = await looking.at(run)
        assert reason is not None
        assert reason.id == "PL012"
        assert reason.detail == "ResourceQuota q: the pod asks for pods=1, pods=2 of pods=2 is used"


async def test_a_silent_pod_and_one_that_is_heard(look: Look) -> None:
    """By its heartbeats in Prefect's events."""
    wire, cluster = PrefectWire(), ClusterWire()
    wire.add_pool()
    run, flow_run = adopted(wire, "RUNNING", since=600)
    cluster.add_job(flow_run["id"], active=1)
    cluster.add_pod(flow_run["id"], phase="Running", node="one", containerStatuses=[running()])
    wire.heartbeats.append((flow_run["id"], due(130)))
    async with look(wire, cluster) as looking:
        reason = await looking.at(run)
        assert reason is not None
        assert reason.id == "PL016"
        wire.heartbeats.append((flow_run["id"], due(5)))
        assert await looking.at(run) is None


async def test_a_tag_limit_is_found_by_the_task_that_waits(look: Look) -> None:
    """Nobody is asked for tasks while no limit is full."""
    wire = PrefectWire()
    wire.add_pool(type="process")
    run, flow_run = adopted(wire, "RUNNING")
    wire.task_runs.append({"flow_run_id": flow_run["id"], "tags": ["db"], "state_type": "PENDING"})
    wire.limits = [{"name": "tag:db", "limit": 2, "active_slots": 1, "active": True}]
    async with look(wire) as looking:
        assert await looking.at(run) is None
        assert not [one for one in wire.requests if "task_runs" in one.url.path]
        wire.limits[0]["active_slots"] = 2
        reason = await looking.at(run)
        assert reason is not None
        assert reason.id == "PL009"


async def test_without_the_cluster_nothing_is_made_up(look: Look) -> None:
    """A cluster that does not answer, or does not let us see, is no reason for a run."""
    wire, cluster = PrefectWire(), ClusterWire()
    wire.add_pool()
    run, _ = adopted(wire, "PENDING")
    async with look(wire, cluster) as looking:
        for status in (403, 503):
            cluster.fault = saying(status, "no")
            assert await looking.at(run) is None
        cluster.fault = None
        reason = await looking.at(run)
        assert reason is not None
        assert reason.id == "PL020"


async def test_while_prefect_fails_waiting_runs_say_so(look: Look) -> None:
    """Once it has failed for a while; a look that works takes it back."""
    wire = PrefectWire()
    async with look(wire) as looking:
        await know(looking.db, wire)
        (run,) = await accept(looking.db, 1)
        assert await looking.at(run) is None
        await looking.diagnosis.blind(EngineUnavailable("Prefect cannot serve now (ConnectError)"), {}, since=due(6))
        reason = (await reasons.read(looking.db, [run]))[run]
        assert reason.id == "PL017"
        assert "ConnectError" in reason.detail
        assert await looking.at(run) is None


@pytest.mark.parametrize("path", ["/work_pools/", "/v2/concurrency_limits/"])
async def test_a_prefect_that_answers_otherwise_is_still_followed(look: Look, path: str) -> None:
    """States are known, whatever becomes of the reasons."""
    wire = PrefectWire()
    wire.add_pool()
    run, flow_run = adopted(wire)

    def odd(request: httpx.Request) -> httpx.Response:
        if path in request.url.path:
            return httpx.Response(200, json=["nonsense"])
        fault, wire.fault = wire.fault, None
        try:
            return wire.answer(request)
        finally:
            wire.fault = fault

    async with look(wire) as looking:
        wire.fault = odd
        assert await looking.at(run) is None
        wire.move(flow_run["id"], "COMPLETED")
        await looking.sync.look()
        assert await reasons.open_runs(looking.db) == []


async def test_a_reason_that_cannot_be_written_keeps_no_state_from_being_known(look: Look) -> None:
    """A mistake of ours, or a ledger of another version: the look goes on to its end, and so does the next."""
    wire = PrefectWire()
    wire.add_pool(workers=[])
    wire.pools["pipelines"]["queues"]["default"]["last_polled"] = due(30).isoformat()
    run, flow_run = adopted(wire)
    async with look(wire, ClusterWire()) as looking:
        async with transaction(looking.db) as connection:
            await connection.execute(text("ALTER TABLE run_events ADD CONSTRAINT odd CHECK (kind <> 'held')"))
        assert await looking.at(run) is None
        flow_run["state"] |= {"type": "CANCELLED", "name": "Cancelled", "timestamp": now()}
        assert await looking.at(run) is None
        async with transaction(looking.db) as connection:
            state = (await connection.execute(select(runs.c.state).where(runs.c.flow_run_id == run))).scalar_one()
    assert state == "Cancelled"


async def test_a_failed_run_is_explained_once(look: Look) -> None:
    """From its message and the last error it logged; told as an event of its own."""
    wire = PrefectWire()
    wire.add_pool()
    run, flow_run = adopted(wire, "RUNNING")
    where = 'Traceback (most recent call last):\n  File "/app/src/etl/load.py", line 7, in load\n    boom()\nKeyError'
    wire.say(flow_run["id"], where, level=40)
    wire.say(flow_run["id"], "Finished in state Failed()", level=40)
    async with look(wire) as looking:
        assert await looking.at(run) is None
        wire.move(flow_run["id"], "FAILED", message="Flow run encountered an exception: KeyError: 1")
        reason = await looking.at(run)
        assert reason is not None
        assert reason.id == "PL107"
        assert "etl/load.py:7 in load: boom()" in reason.detail
        asked = len([one for one in wire.requests if one.url.path.endswith("/logs/filter")])
        assert await looking.at(run) == reason
        assert len([one for one in wire.requests if one.url.path.endswith("/logs/filter")]) == asked == 1


async def test_a_killed_pod_is_remembered_after_it_is_gone(look: Look) -> None:
    """Out of memory is known although Job and pod were removed before Prefect gave the run up."""
    wire, cluster = PrefectWire(), ClusterWire()
    wire.add_pool()
    run, flow_run = adopted(wire, "RUNNING")
    cluster.add_job(flow_run["id"], active=1)
    ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137, "startedAt": now(), "finishedAt": now()}}
    cluster.add_pod(flow_run["id"], phase="Failed", containerStatuses=[{"name": "prefect-job", "state": ended}])
    async with look(wire, cluster) as looking:
        assert await looking.at(run) is None
        cluster.objects["jobs"].clear()
        cluster.objects["pods"].clear()
        wire.move(flow_run["id"], "CRASHED", message="Kubernetes job was deleted")
        reason = await looking.at(run)
        assert reason is not None
        assert reason.id == "PL105"


async def test_the_kubelet_is_given_a_moment_to_say_how_a_pod_ended(look: Look) -> None:
    """Prefect may hear of a crash before the pod has ended."""
    wire, cluster = PrefectWire(), ClusterWire()
    wire.add_pool()
    run, flow_run = adopted(wire, "RUNNING")
    cluster.add_job(flow_run["id"], active=1)
    pod = cluster.add_pod(flow_run["id"], phase="Running", containerStatuses=[running()])
    async with look(wire, cluster) as looking:
        await looking.sync.look()
        wire.move(flow_run["id"], "CRASHED", message="Process exited with status code: -9")
        assert await looking.at(run) is None
        ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
        pod["status"] = {"phase": "Failed", "containerStatuses": [{"name": "prefect-job", "state": ended}]}
        reason = await looking.at(run)
        assert reason is not None
        assert reason.id == "PL105"


async def test_a_run_ended_for_what_held_it_keeps_that(look: Look) -> None:
    """Its message says so; the logs are not asked."""
    wire = PrefectWire()
    wire.add_pool()
    wire.pools["pipelines"]["is_paused"] = True
    run, flow_run = adopted(wire)
    async with look(wire) as looking:
        held = await looking.at(run)
        assert held is not None
        wire.move(flow_run["id"], "CRASHED", message=f"held for 600 s: {held}")
        assert await looking.at(run) == held


@pytest.mark.parametrize("end", ["COMPLETED", "CANCELLED"])
async def test_a_good_end_forgets_what_held_the_run(look: Look, end: str) -> None:
    """Cancelled is no failure."""
    wire = PrefectWire()
    wire.add_pool()
    wire.pools["pipelines"]["is_paused"] = True
    run, flow_run = adopted(wire)
    async with look(wire) as looking:
        assert await looking.at(run) is not None
        wire.move(flow_run["id"], end)
        assert await looking.at(run) is None


async def test_an_idle_leader_asks_nothing(look: Look) -> None:
    """Neither of pools nor of the cluster, and it names no reason."""
    wire, cluster = PrefectWire(), ClusterWire()
    async with look(wire, cluster) as looking:
        for _ in range(5):
            await looking.sync.look()
    assert cluster.requests == []
    asked = {one.url.path.removeprefix("/api") for one in wire.requests}
    assert not [path for path in asked if path.startswith(("/work_pools", "/v2", "/events", "/logs"))]


async def test_a_reason_is_the_same_everywhere(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """status, runs, runs.csv, pipelines, metrics and the event stream; and nothing once it is over."""
    monkeypatch.setattr(diagnosis, "LOOK_SECONDS", 0.0)
    wire, cluster = PrefectWire(), ClusterWire()
    wire.add_pool()
    wire.pools["pipelines"]["is_paused"] = True
    run, flow_run = adopted(wire)
    async with (
        cluster.served() as configuration,
        serve(wire, kubernetes=configuration, kubernetes_namespace=NAMESPACE, worker_query_seconds=1) as client,
    ):

        async def status() -> Any:
            answer = await client.get(f"/api/etl/status/{run}")
            return answer.json() if answer.is_success else {}

        async def held() -> Any:
            return (await status()).get("reason")

        reason = await eventually(held, within=40, what="a reason")
        assert (reason["id"], reason["title"]) == ("PL002", "Work pool paused")
        assert reason["detail"] == "work pool pipelines is paused"
        assert reason["fix"].endswith("prefect work-pool resume pipelines")
        (listed,) = (await client.get("/api/etl/runs")).json()["runs"]
        assert listed["reason"] == reason
        (line,) = csv.DictReader(io.StringIO((await client.get("/api/etl/runs.csv")).text))
        assert "held=PL002 Work pool paused" in line["notes"]
        (pipeline,) = (await client.get("/api/pipelines")).json()["pipelines"]
        assert pipeline["held"] == [{"runs": 1, "reason": reason}]
        assert 'orchestrator_runs_held{pipeline="etl",reason="PL002"} 1.0' in (await client.get("/metrics")).text

        wire.pools["pipelines"]["is_paused"] = False
        wire.move(flow_run["id"], "RUNNING")

        async def free() -> Any:
            return (await status())["reason"] is None

        await eventually(free, within=40, what="no reason any more")
        assert "orchestrator_runs_held{" not in (await client.get("/metrics")).text
        wire.move(flow_run["id"], "FAILED", message="Flow run encountered an exception: BadData: 40 %")
        cause = await eventually(held, within=40, what="a cause")
        assert (cause["id"], cause["title"]) == ("PL103", "Bad data")
        line, _ = csv.DictReader(io.StringIO((await client.get("/api/etl/runs.csv")).text))
        assert "cause=PL103 Bad data" in line["notes"]
        assert "orchestrator_last_success_timestamp_seconds{" not in (await client.get("/metrics")).text


async def test_a_paused_deployment_holds_the_schedule(serve: Serve) -> None:
    """No run is held by it, for those made by hand go on; the pipeline says so."""
    wire = PrefectWire()
    assert wire.deployment is not None
    wire.deployment["paused"] = True
    async with serve(wire) as client:

        async def held() -> Any:
            (pipeline,) = (await client.get("/api/pipelines")).json()["pipelines"]
            return pipeline["held"]

        (paused,) = await eventually(held, within=40, what="the pause is told")
        assert (paused["runs"], paused["reason"]["id"]) == (0, "PL004")
        assert paused["reason"]["fix"].endswith(f"/deployments/{wire.deployment['id']}/resume_deployment")


async def test_an_outage_is_named_while_it_lasts(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run accepted while Prefect is away says why it waits, and no longer once it was handed over."""
    monkeypatch.setattr(diagnosis, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr("orchestrator.holds.FAILING", timedelta(seconds=0.3))
    wire = PrefectWire()
    async with serve(wire, limits=Limits(attempts=1, failures_to_open=10**6)) as client:
        where = (await client.post("/api/etl/start")).headers["location"]

        async def reason() -> Any:
            return (await client.get(where)).json()["reason"]

        async def handed_over() -> Any:
            return len(wire.flow_runs) == 1 and await reason() is None

        await eventually(handed_over, within=40, what="the run is handed over, and nothing holds it")
        wire.fault = refused
        where = (await client.post("/api/etl/start")).headers["location"]
        told = await eventually(reason, within=40, what="the outage is named")
        assert told["id"] == "PL017"
        assert "ConnectError" in told["detail"]
        wire.fault = None

        async def gone() -> Any:
            return await reason() is None

        await eventually(gone, within=40, what="the outage is over")
