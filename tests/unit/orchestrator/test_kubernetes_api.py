"""What is asked of Kubernetes over the wire, and what its answers and failures become."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from aiohttp import web
from kubernetes.aio.config.incluster_config import InClusterConfigLoader
from orchestrator import kubernetes_api
from orchestrator.errors import KubernetesRefused, KubernetesUnavailable
from orchestrator.kubernetes_api import MOST_NAMED, KubernetesApi
from orchestrator.resilience import Guard, Limits

from .cluster import NAMESPACE, ClusterWire, now, saying, silent

FLOW_RUN = UUID(int=11)
Calls = list[tuple[str, str]]


@asynccontextmanager
async def asking(wire: ClusterWire, **limits: float) -> AsyncIterator[tuple[KubernetesApi, Calls]]:
    """The client under test and the outcomes of its calls."""
    calls: Calls = []
    chosen = Limits(**({"attempts": 1, "failures_to_open": 10**6} | limits))  # type: ignore[arg-type]
    async with (
        wire.served() as configuration,
        kubernetes_api.opened(
            configuration,
            namespace=NAMESPACE,
            guard=Guard("kubernetes", limits=chosen),
            observe=lambda operation, outcome, seconds: calls.append((operation, outcome)),
        ) as kubernetes,
    ):
        assert kubernetes is not None
        yield kubernetes, calls


async def test_a_job_is_told_with_its_run_and_its_outcome() -> None:
    """Its flow run by the worker's label; failed and complete by its conditions."""
    wire = ClusterWire()
    wire.add_job(str(FLOW_RUN), active=1)
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "too often"}
    wire.add_job(str(UUID(int=12)), "b-job", conditions=[{"type": "Suspended", "status": "False"}, failed])
    wire.add_job(str(UUID(int=13)), "c-job", conditions=[{"type": "Complete", "status": "True"}])
    async with asking(wire) as (kubernetes, calls):
        going, broken, done = await kubernetes.jobs()
    assert (going.name, going.flow_run_id, going.active, going.over) == ("a-job", FLOW_RUN, 1, False)
    assert (broken.failed, broken.message, broken.over) == ("BackoffLimitExceeded", "too often", True)
    assert (done.complete, done.over) == (True, True)
    assert calls == [("jobs", "ok")]


async def test_a_pod_is_told_with_all_that_may_hold_it() -> None:
    """Phase, node, conditions, and what its container waits for or ended with."""
    wire = ClusterWire()
    why = "0/1 nodes are available: 1 Insufficient cpu."
    wire.add_pod(
        str(FLOW_RUN),
        conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}],
    )
    waits = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
    wire.add_pod(str(FLOW_RUN), "a-job-x2", node="one", containerStatuses=[{"name": "prefect-job", "state": waits}])
    ended = {"reason": "OOMKilled", "exitCode": 137, "startedAt": now(), "finishedAt": now()}
    wire.add_pod(
        str(FLOW_RUN),
        "a-job-x3",
        phase="Failed",
        reason="Evicted",
        message="The node was low on resource: memory.",
        containerStatuses=[
            {"name": "mesh", "state": {"running": {"startedAt": now()}}},
            {"name": "prefect-job", "image": "sha256:1", "state": {"terminated": ended}},
        ],
    )
    async with asking(wire) as (kubernetes, _):
        unschedulable, unpulled, killed = await kubernetes.pods()
    assert (unschedulable.phase, unschedulable.job, unschedulable.flow_run_id) == ("Pending", "a-job", FLOW_RUN)
    condition = unschedulable.condition("PodScheduled")
    assert condition is not None
    assert (condition.status, condition.reason, condition.message) == ("False", "Unschedulable", why)
    assert unpulled.flow is not None
    assert (unpulled.node, unpulled.flow.waiting, unpulled.flow.image) == ("one", "ImagePullBackOff", "pipelines-etl:1")
    assert killed.flow is not None
    assert (killed.flow.terminated, killed.flow.exit_code, killed.flow.running) == ("OOMKilled", 137, False)
    assert (killed.reason, killed.over, killed.running) == ("Evicted", True, False)


async def test_a_running_pod_runs() -> None:
    """What counts is the flow's own container."""
    wire = ClusterWire()
    running = {"running": {"startedAt": now()}}
    wire.add_pod(str(FLOW_RUN), phase="Running", containerStatuses=[{"name": "prefect-job", "state": running}])
    async with asking(wire) as (kubernetes, _):
        (pod,) = await kubernetes.pods([FLOW_RUN])
    assert pod.running
    assert not pod.over


async def test_only_what_belongs_to_the_runs_is_asked_for() -> None:
    """By the worker's label: other Jobs of the namespace are not read; named runs are named, many are not."""
    wire = ClusterWire()
    wire.add_job(str(FLOW_RUN))
    wire.add_job(str(UUID(int=12)), "b-job")
    wire.add_job("", "somebody-elses")
    async with asking(wire) as (kubernetes, _):
        assert {one.name for one in await kubernetes.jobs()} == {"a-job", "b-job"}
        assert [one.name for one in await kubernetes.jobs([FLOW_RUN])] == ["a-job"]
        many = [uuid4() for _ in range(MOST_NAMED)]
        assert [one.name for one in await kubernetes.jobs([FLOW_RUN, *many])] == ["a-job"]
        assert await kubernetes.jobs([]) == []
        assert await kubernetes.pods([]) == []
    assert len(wire.requests) == 3
    assert all(len(path) < 400 for _, path in wire.requests)


async def test_what_executes_several_runs_is_told_as_each_ones() -> None:
    """Its labels name one of them, its host; the others are found by that."""
    wire = ClusterWire()
    wire.add_job(str(FLOW_RUN))
    wire.add_pod(str(FLOW_RUN))
    guest, other = uuid4(), uuid4()
    async with asking(wire) as (kubernetes, _):
        for found in (kubernetes.jobs, kubernetes.pods):
            assert [one.flow_run_id for one in await found([guest], pods_of={guest: FLOW_RUN})] == [guest]
            told = await found(pods_of={guest: FLOW_RUN, other: uuid4()})
            assert [one.flow_run_id for one in told] == [FLOW_RUN, guest]


async def test_warnings_about_objects_are_found_oldest_first() -> None:
    """Both kinds of events that Kubernetes writes; other objects' are left out."""
    wire = ClusterWire()
    job, other = wire.add_job(str(FLOW_RUN)), wire.add_job(str(UUID(int=12)), "b-job")
    wire.warn(job, "Job", "FailedCreate", "exceeded quota: small")
    wire.warn(other, "Job", "FailedCreate", "no")
    newer = {"count": 4, "lastObservedTime": "2020-01-01T00:00:00.000000Z"}
    wire.warn(job, "Job", "FailedCreate", "denied the request")
    wire.objects["events"][-1] |= {"series": newer, "lastTimestamp": None, "count": None}
    async with asking(wire) as (kubernetes, _):
        told = await kubernetes.events_about(["a-job"])
        assert [(one.message, one.count) for one in told] == [("denied the request", 4), ("exceeded quota: small", 1)]
        assert len(await kubernetes.events_about(["a-job", "b-job"])) == 3
        assert await kubernetes.events_about([]) == []
    assert len(wire.requests) == 2


async def test_deleting_a_job_may_be_repeated() -> None:
    """One that is gone is fine; its pods go with it."""
    wire = ClusterWire()
    wire.add_job(str(FLOW_RUN))
    wire.add_pod(str(FLOW_RUN))
    async with asking(wire) as (kubernetes, _):
        assert await kubernetes.delete_job("a-job")
        assert not await kubernetes.delete_job("a-job")
        assert await kubernetes.pods() == []


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_what_passes_is_unavailable(status: int) -> None:
    """With the time that Kubernetes asks to wait."""
    wire = ClusterWire()
    wire.fault = saying(status, "not now", **{"Retry-After": "7"})
    async with asking(wire) as (kubernetes, calls):
        with pytest.raises(KubernetesUnavailable, match=f"HTTP {status}") as caught:
            await kubernetes.pods()
    assert caught.value.retry_after == 7
    assert calls == [("pods", "unavailable")]


async def test_a_missing_right_is_a_refusal_in_its_words() -> None:
    """What the Role lacks is named."""
    wire = ClusterWire()
    wire.fault = saying(403, 'pods is forbidden: User "system:serviceaccount:flows:x" cannot list resource "pods"')
    async with asking(wire) as (kubernetes, calls):
        with pytest.raises(KubernetesRefused, match="cannot list resource") as caught:
            await kubernetes.pods()
    assert caught.value.status == 403
    assert calls == [("pods", "refused")]


async def test_silence_has_an_end() -> None:
    """Each attempt has a timeout, and a failing API server is left alone."""
    wire = ClusterWire()
    wire.fault = silent
    async with asking(wire, attempt=0.1, total=1, failures_to_open=2) as (kubernetes, calls):
        for _ in range(2):
            with pytest.raises(KubernetesUnavailable, match=r"no answer within 0\.1 s"):
                await kubernetes.jobs()
        with pytest.raises(KubernetesUnavailable, match="left alone"):
            await kubernetes.jobs()
    assert [outcome for _, outcome in calls] == ["unavailable", "unavailable", "circuit_open"]


async def test_what_does_not_speak_like_kubernetes_is_not_believed() -> None:
    """HTML with 200 is no empty list."""
    wire = ClusterWire()

    async def hello(request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>")

    wire.fault = hello
    async with asking(wire) as (kubernetes, _):
        with pytest.raises(KubernetesUnavailable, match="does not speak like it"):
            await kubernetes.jobs()


async def test_a_rotated_token_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kubelet replaces the file; the next call after its period carries the new token."""
    wire = ClusterWire()
    token, ca = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text(wire.token)
    ca.write_text("nobody is asked for it over plain HTTP")
    async with wire.served() as found:
        host, port = found.host.removeprefix("http://").split(":")
        loader = InClusterConfigLoader(
            token_filename=token,
            cert_filename=ca,
            environ={"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port},
        )
        found.api_key.clear()
        url = found.host
        loader.load_and_set(found)
        monkeypatch.setattr(loader, "host", url)
        found.host, found.ssl_ca_cert = url, None
        monkeypatch.setattr(loader, "ssl_ca_cert", None)
        guard = Guard("kubernetes", limits=Limits(attempts=1))
        async with kubernetes_api.opened(
            found, namespace=NAMESPACE, guard=guard, observe=lambda *_: None
        ) as kubernetes:
            assert kubernetes is not None
            assert await kubernetes.jobs() == []
            wire.token = "second-token"
            token.write_text(wire.token)
            with pytest.raises(KubernetesUnavailable, match="does not take our token"):
                await kubernetes.jobs()
            monkeypatch.setattr(loader, "token_expires_at", loader.token_expires_at.replace(year=2000))
            assert await kubernetes.jobs() == []


async def test_without_a_namespace_there_is_no_cluster() -> None:
    """As on a laptop: nothing is asked."""
    guard = Guard("kubernetes", limits=Limits())
    async with kubernetes_api.opened(None, namespace=None, guard=guard, observe=lambda *_: None) as kubernetes:
        assert kubernetes is None


def test_outside_a_cluster_the_configuration_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the token and the setting."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(KubernetesUnavailable, match="ORCHESTRATOR_KUBERNETES_NAMESPACE"):
        kubernetes_api.configuration()
