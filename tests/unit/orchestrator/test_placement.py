"""What holds a run that a worker has taken, by Kubernetes' own words."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orchestrator import placement
from orchestrator.holds import Finding, Sight
from orchestrator.pools import Limit
from orchestrator.runs import FlowRun, State
from orchestrator.workloads import Condition, Container, Event, Job, Pod

from .test_holds import NOW, ago, flow_run, found

ID = UUID(int=1)


def taken(*, state: State = State.PENDING, since: float = 30) -> FlowRun:
    return flow_run(state=state, name=str(state), at=ago(since))


def job(*, age: float = 30, **more: Any) -> Job:
    plain = {"name": "a-job", "uid": "1", "flow_run_id": ID, "created_at": ago(age), "active": 0}
    return Job(**plain | more)


def container(**more: Any) -> Container:
    return Container(**{"name": "prefect-job", "image": "pipelines-etl:1"} | more)


def pod(*containers: Container, age: float = 30, placed: float | None = 29, **more: Any) -> Pod:
    conditions = () if placed is None else (Condition(type="PodScheduled", status="True", at=ago(placed)),)
    plain = {
        "name": "a-job-x1",
        "uid": "2",
        "job": "a-job",
        "flow_run_id": ID,
        "created_at": ago(age),
        "phase": "Pending",
        "node": "node-1",
        "conditions": conditions,
        "containers": containers,
    }
    return Pod(**plain | more)


def see(
    run: FlowRun,
    *,
    jobs: Sequence[Job] | None = None,
    pods: Sequence[Pod] = (),
    events: Sequence[Event] = (),
    **more: Any,
) -> Finding | None:
    of_jobs = [job(active=1)] if jobs is None else jobs
    sight = Sight(
        now=NOW,
        query_seconds=1,
        namespace="flows",
        jobs={ID: of_jobs},
        pods={ID: pods},
        events=placement.eventful(pods, of_jobs, events),
        **more,
    )
    return placement.held(run, sight, in_cluster=True)


def warning(name: str, reason: str, message: str, kind: str = "Pod") -> Event:
    return Event(kind=kind, name=name, reason=reason, message=message, count=1, at=ago(5))


def unscheduled(message: str, age: float = 30) -> Pod:
    condition = Condition(type="PodScheduled", status="False", reason="Unschedulable", message=message)
    return pod(age=age, placed=None, node=None, conditions=(condition,))


PREEMPTION = " no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful."
UNSCHEDULABLE = [
    ("PL010", "0/1 nodes are available: 1 Insufficient cpu.", "Insufficient cpu"),
    ("PL010", "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.", "affinity/selector"),
    ("PL010", "0/1 nodes are available: 1 node(s) had untolerated taint {batch: only}.", "taint {batch: only}"),
    ("PL015", '0/1 nodes are available: persistentvolumeclaim "state" not found.', "state"),
    ("PL015", "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.", "unbound"),
]


@pytest.mark.parametrize(("kind", "message", "evidence"), UNSCHEDULABLE)
def test_the_schedulers_message_is_the_evidence(kind: str, message: str, evidence: str) -> None:
    """Which resource, selector, taint or volume; what it says of preemption is left out."""
    got, detail = found(see(taken(), pods=[unscheduled(message + PREEMPTION)]))
    assert got == kind
    assert evidence in detail
    assert "reemption" not in detail
    assert see(taken(), pods=[unscheduled(message, age=2)]) is None


@pytest.mark.parametrize("why", sorted(placement.IMAGE))
def test_an_image_that_cannot_be_pulled_is_named(why: str) -> None:
    """With the registry's answer, as soon as the kubelet says so."""
    waiting = container(image="registry.example.com/etl:9", waiting=why, message="pull access denied")
    kind, detail = found(see(taken(since=1), pods=[pod(waiting, age=1, placed=1)]))
    assert kind == "PL011"
    assert "registry.example.com/etl:9" in detail
    assert "pull access denied" in detail


@pytest.mark.parametrize("why", sorted(placement.START))
def test_a_container_that_cannot_start_says_what_is_missing(why: str) -> None:
    """The kubelet's own words."""
    kind, detail = found(see(taken(), pods=[pod(container(waiting=why, message='secret "warehouse" not found'))]))
    assert kind == "PL014"
    assert 'secret "warehouse" not found' in detail


def test_a_volume_that_cannot_be_mounted() -> None:
    """Known by an event alone: the container is only being created."""
    making = pod(container(waiting="ContainerCreating"))
    event = warning("a-job-x1", "FailedMount", 'MountVolume.SetUp failed: configmap "nope" not found')
    kind, detail = found(see(taken(), pods=[making], events=[event]))
    assert kind == "PL015"
    assert 'configmap "nope" not found' in detail
    other = warning("another-pod", "FailedMount", "somebody else's")
    assert see(taken(), pods=[making], events=[other]) is None
    sandbox = warning("a-job-x1", "FailedCreatePodSandBox", "no network")
    assert found(see(taken(), pods=[making], events=[sandbox]))[0] == "PL014"


def test_a_pod_that_takes_long_says_so() -> None:
    """Without a warning it is only slow."""
    assert found(see(taken(), pods=[pod(container(waiting="ContainerCreating"), placed=90, age=90)]))[0] == "PL024"


QUOTA = (
    'Error creating: pods "a-job-x" is forbidden: exceeded quota: small, requested: requests.cpu=250m, '
    "used: requests.cpu=900m, limited: requests.cpu=1"
)
REFUSALS = [
    ("PL012", QUOTA, "ResourceQuota small: the pod asks for requests.cpu=250m, requests.cpu=900m of requests.cpu=1"),
    ("PL013", 'Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest": root', "PodSecurity"),
    ("PL013", 'Error creating: admission webhook "policy.example.com" denied the request: no', "policy.example.com"),
    ("PL013", "Error creating: ValidatingAdmissionPolicy 'no-flows' with binding 'b' denied request: no", "no-flows"),
]


@pytest.mark.parametrize(("kind", "message", "evidence"), REFUSALS)
def test_a_job_that_may_not_make_its_pod(kind: str, message: str, evidence: str) -> None:
    """Who refuses and what, from the Job's events; not before the controller has had a moment."""
    event = warning("a-job", "FailedCreate", message, "Job")
    got, detail = found(see(taken(), events=[event]))
    assert got == kind
    assert evidence in detail
    assert see(taken(), jobs=[job(age=1)], events=[event]) is None


def test_taken_but_no_job() -> None:
    """The worker may have died in between; a moment is normal."""
    assert found(see(taken(since=11), jobs=[]))[0] == "PL020"
    assert see(taken(since=9), jobs=[]) is None


def test_an_entrypoint_that_ends_before_the_flow_begins() -> None:
    """With its exit code."""
    ended = container(terminated="Error", exit_code=2, started_at=ago(20), ended_at=ago(10), message="no such file")
    kind, detail = found(see(taken(), pods=[pod(ended, phase="Failed")]))
    assert kind == "PL014"
    assert "Error, exit code 2: no such file" in detail


RUNNING = container(started_at=ago(300))


def test_a_pod_that_is_silent() -> None:
    """Running for Prefect and for Kubernetes, and not heard of for three heartbeats; where it is, and since when."""
    run, running = taken(state=State.RUNNING, since=300), [pod(RUNNING, phase="Running")]
    finding = see(run, pods=running, heartbeats={ID: ago(120)})
    assert finding is not None
    assert (finding.kind, finding.since) == ("PL016", ago(40))
    assert "a-job-x1 on node node-1" in finding.detail
    assert see(run, pods=running, heartbeats={ID: ago(75)}) is None
    assert see(run, pods=running) is None, "a flow that sends no heartbeats is not silent"
    assert see(taken(state=State.RUNNING, since=20), pods=running, heartbeats={ID: ago(120)}) is None


def test_a_pod_that_is_gone() -> None:
    """Prefect believes in a run whose pod has ended, or was never seen; a moment is given to hear of it."""
    run = taken(state=State.RUNNING, since=60)
    killed = container(terminated="OOMKilled", exit_code=137, started_at=ago(50), ended_at=ago(15))
    kind, detail = found(see(run, pods=[pod(killed, phase="Failed")]))
    assert kind == "PL019"
    assert "OOMKilled, exit code 137" in detail
    just_now = container(terminated="Completed", exit_code=0, started_at=ago(50), ended_at=ago(3))
    assert see(run, pods=[pod(just_now, phase="Succeeded")]) is None
    assert found(see(run, jobs=[]))[0] == "PL019"
    assert see(taken(state=State.RUNNING, since=5), jobs=[]) is None


def test_a_task_that_waits_for_a_tag() -> None:
    """Which tag, and how full it is."""
    limits = {"tag:db": Limit(name="tag:db", limit=2, active=2)}
    run = taken(state=State.RUNNING, since=60)
    kind, detail = found(see(run, pods=[pod(RUNNING, phase="Running")], limits=limits, tags={ID: "db"}))
    assert kind == "PL009"
    assert "tag db: 2 of 2" in detail


def test_without_kubernetes_only_prefect_is_quoted() -> None:
    """Nothing is said of Jobs and pods that cannot be seen, for a pool of processes neither."""
    blind = Sight(now=NOW, query_seconds=1)
    assert placement.held(taken(since=50), blind, in_cluster=True) is None
    assert found(placement.held(taken(since=70), blind, in_cluster=True))[0] == "PL099"
    seeing = Sight(now=NOW, query_seconds=1, jobs={}, pods={})
    assert placement.held(taken(since=50), seeing, in_cluster=False) is None
    quiet = Sight(now=NOW, query_seconds=1, heartbeats={ID: ago(120)})
    assert found(placement.held(taken(state=State.RUNNING, since=300), quiet, in_cluster=False))[0] == "PL016"


@settings(deadline=None)
@given(age=st.floats(0, 2.9), state=st.sampled_from([State.PENDING, State.RUNNING]), has_pod=st.booleans())
def test_a_run_that_is_just_starting_is_held_by_nothing(age: float, state: State, has_pod: bool) -> None:
    """Wherever between the worker and its node it is."""
    jobs = [job(age=age, active=1)]
    pods = [pod(container(waiting="ContainerCreating"), age=age, placed=age)] if has_pod else []
    assert see(taken(state=state, since=age), jobs=jobs, pods=pods) is None


@settings(deadline=None)
@given(st.text())
def test_any_message_of_the_scheduler_can_be_read(message: str) -> None:
    """And what remains of it is part of it."""
    assert placement.blockers(message) in message


@settings(deadline=None)
@given(seconds=st.floats(0, 79))
def test_heartbeats_may_be_missed(seconds: float) -> None:
    """One, and the next may be late, without a word."""
    run = taken(state=State.RUNNING, since=600)
    assert see(run, pods=[pod(RUNNING, phase="Running")], heartbeats={ID: NOW - timedelta(seconds=seconds)}) is None
