"""What holds a run that a worker has taken: its Job, its pod, or its silence. Nothing here does I/O."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from orchestrator.holds import UNEXPLAINED, Finding, Sight
from orchestrator.runs import FlowRun, State
from orchestrator.workloads import Container, Event, Job, Pod

# How long each step of a healthy start may take before its failing to come is worth a word.
NO_JOB = timedelta(seconds=10)
NO_POD = timedelta(seconds=3)
UNPLACED = timedelta(seconds=3)
MAKING = timedelta(seconds=5)
MAKING_LONG = timedelta(seconds=60)
GONE = timedelta(seconds=10)
SILENT = timedelta(seconds=80)  # two heartbeats of 30 s did not come, and the second is late

IMAGE = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
    | {"RegistryUnavailable", "SignatureValidationFailed"}
)
START = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff"}
    | {"ContainerCannotRun", "StartError", "PreCreateHookError", "PreStartHookError"}
)
VOLUME_EVENTS = frozenset({"FailedMount", "FailedAttachVolume", "FailedMapVolume", "ProvisioningFailed"})
QUOTA = re.compile(
    r"exceeded quota: (?P<quota>[^,]+), requested: (?P<asked>.*?), used: (?P<used>.*?), limited: (?P<most>.*)"
)
CLAIM = re.compile(r"unbound immediate PersistentVolumeClaims|persistentvolumeclaim \"[^\"]+\" not found|volume")


def held(flow_run: FlowRun, sight: Sight, *, in_cluster: bool) -> Finding | None:
    """What keeps a Pending or Running flow run from going on.

    `in_cluster`: it is to run in a pod. Where no pods are seen, it is what Prefect alone shows.
    """
    if not in_cluster or sight.pods is None or sight.jobs is None:
        return _by_prefect_alone(flow_run, sight)
    jobs = sight.jobs.get(flow_run.flow_run_id, ())
    pods = sorted(sight.pods.get(flow_run.flow_run_id, ()), key=lambda one: one.created_at)
    if flow_run.state is State.RUNNING:
        return _running(flow_run, jobs, pods, sight)
    return _pending(flow_run, jobs, pods, sight)


def _by_prefect_alone(flow_run: FlowRun, sight: Sight) -> Finding | None:
    if flow_run.state is State.RUNNING:
        return _silent(flow_run, None, sight)
    waits = sight.now - flow_run.at
    if waits < UNEXPLAINED:
        return None
    detail = f"{flow_run.state_name} for {waits.total_seconds():.0f} s; Prefect alone shows no more"
    return Finding(kind="PL099", detail=detail)


def _running(flow_run: FlowRun, jobs: Sequence[Job], pods: Sequence[Pod], sight: Sight) -> Finding | None:
    going = [one for one in pods if not one.over]
    if going:
        return _silent(flow_run, going[-1], sight)
    if pods:
        last = pods[-1]
        ended = (last.flow.ended_at if last.flow else None) or last.created_at
        if sight.now - ended < GONE:
            return None
        return Finding(kind="PL019", detail=f"pod {last.name} has ended: {_outcome(last)}", since=ended)
    if sight.now - flow_run.at < GONE or any(one.active for one in jobs):
        return None
    there = f"Job {jobs[-1].name} has no pod" if jobs else f"namespace {sight.namespace} has no Job and no pod of it"
    return Finding(kind="PL019", detail=f"Prefect says {flow_run.state_name}, and {there}")


def _silent(flow_run: FlowRun, pod: Pod | None, sight: Sight) -> Finding | None:
    tag = sight.tags.get(flow_run.flow_run_id)
    if tag is not None:
        limit = sight.limits[f"tag:{tag}"]
        detail = f"a task of the run waits for the tag {tag}: {limit.active} of {limit.limit} slots are taken"
        return Finding(kind="PL009", detail=detail, names={"limit": limit.name, "more": limit.limit + 1})
    beat = sight.heartbeats.get(flow_run.flow_run_id)
    if beat is None:  # a flow that sends none is not silent
        return None
    heard = max(beat, flow_run.at)
    if sight.now - heard < SILENT:
        return None
    where = f"pod {pod.name} on node {pod.node} runs" if pod else "the run is Running"
    detail = f"{where}, last heard of {(sight.now - heard).total_seconds():.0f} s ago"
    return Finding(kind="PL016", detail=detail, names={"pod": pod.name if pod else ""}, since=heard + SILENT)


def _pending(flow_run: FlowRun, jobs: Sequence[Job], pods: Sequence[Pod], sight: Sight) -> Finding | None:
    if not pods and not jobs:
        if sight.now - flow_run.at < NO_JOB:
            return None
        return Finding(
            kind="PL020",
            detail=f"{flow_run.state_name} since {flow_run.at:%H:%M:%S} UTC, and there is no Job in {sight.namespace}",
            since=flow_run.at,
        )
    if not pods:
        return _without_pod(jobs[-1], sight)
    pod = pods[-1]
    if pod.over:
        return _ended_early(pod, sight)
    if pod.running:
        return None
    return _unplaced(pod, sight) or _unmade(pod, sight)


def _without_pod(job: Job, sight: Sight) -> Finding | None:
    if sight.now - job.created_at < NO_POD:
        return None
    names = {"job": job.name}
    refusals = [one for one in sight.events.get(job.name, ()) if one.reason == "FailedCreate"]
    if refusals:
        message = refusals[-1].message
        quota = QUOTA.search(message)
        if quota is not None:
            detail = (
                f"ResourceQuota {quota['quota']}: the pod asks for {quota['asked']}, {quota['used']} of "
                f"{quota['most']} is used"
            )
            return Finding(kind="PL012", detail=detail, names=names, since=job.created_at)
        detail = f"Job {job.name}: {_last_words(message)}"
        return Finding(kind="PL013", detail=detail, names=names, since=job.created_at)
    if job.failed:
        detail = f"Job {job.name} has failed: {job.failed} {job.message}".strip()
        return Finding(kind="PL019", detail=detail, names=names)
    if sight.now - job.created_at < MAKING_LONG:
        return None
    return Finding(kind="PL019", detail=f"Job {job.name} has no pod, and no warning says why", names=names)


def _ended_early(pod: Pod, sight: Sight) -> Finding | None:
    ended = (pod.flow.ended_at if pod.flow else None) or pod.created_at
    if sight.now - ended < NO_POD:
        return None
    names = {"pod": pod.name}
    kind = "PL014" if pod.flow is not None and pod.flow.exit_code else "PL019"
    return Finding(kind=kind, detail=f"pod {pod.name} ended before the flow began: {_outcome(pod)}", names=names)


def _unplaced(pod: Pod, sight: Sight) -> Finding | None:
    condition = pod.condition("PodScheduled")
    if condition is None or condition.status == "True" or sight.now - pod.created_at < UNPLACED:
        return None
    names = {"pod": pod.name}
    kind = "PL015" if CLAIM.search(condition.message) else "PL010"
    said = blockers(condition.message) or condition.reason
    return Finding(kind=kind, detail=f"pod {pod.name}: {said}", names=names, since=pod.created_at)


def _unmade(pod: Pod, sight: Sight) -> Finding | None:
    names = {"pod": pod.name}
    for one in pod.containers:
        found = _unstarted(pod, one, names)
        if found is not None:
            return found
    waits = sight.now - _placed_at(pod)
    if waits < MAKING:
        return None
    warnings = [one for one in sight.events.get(pod.name, ()) if one.reason.startswith("Failed")]
    if warnings:
        last = warnings[-1]
        kind = "PL015" if last.reason in VOLUME_EVENTS else "PL014"
        detail = f"pod {pod.name} on node {pod.node}: {last.reason}: {_last_words(last.message)}"
        return Finding(kind=kind, detail=detail, names=names, since=pod.created_at)
    if waits < MAKING_LONG:
        return None
    detail = f"pod {pod.name} has been made on node {pod.node} for {waits.total_seconds():.0f} s"
    return Finding(kind="PL024", detail=detail, names=names, since=pod.created_at)


def _unstarted(pod: Pod, container: Container, names: Mapping[str, object]) -> Finding | None:
    why = container.waiting or container.terminated
    if why in IMAGE:
        detail = f"image {container.image} on node {pod.node}: {why}: {_last_words(container.message)}"
        return Finding(kind="PL011", detail=detail, names=names, since=pod.created_at)
    if why in START:
        detail = f"container {container.name} of pod {pod.name}: {why}: {_last_words(container.message)}"
        return Finding(kind="PL014", detail=detail, names=names, since=pod.created_at)
    return None


def _placed_at(pod: Pod) -> datetime:
    condition = pod.condition("PodScheduled")
    return (condition.at if condition else None) or pod.created_at


def _outcome(pod: Pod) -> str:
    flow = pod.flow
    if pod.reason:
        return f"{pod.reason}: {pod.message}".removesuffix(": ")
    if flow is None or flow.terminated is None:
        return pod.phase
    code = f", exit code {flow.exit_code}" if flow.exit_code is not None else ""
    return f"{flow.terminated}{code}{': ' + _last_words(flow.message) if flow.message else ''}"


def blockers(message: str) -> str:
    """The scheduler's message without what it says of preemption and of claims to free, which are never the cause."""
    return re.split(r"\s*(?:no new claims to deallocate|preemption: )", message, maxsplit=1)[0].strip().rstrip(".")


def _last_words(message: str) -> str:
    return " ".join(message.split())[:400]


def eventful(pods: Sequence[Pod], jobs: Sequence[Job], events: Sequence[Event]) -> dict[str, list[Event]]:
    """The events by the object they are about, of these objects alone."""
    names = {one.name for one in pods} | {one.name for one in jobs}
    found: dict[str, list[Event]] = {}
    for one in events:
        if one.name in names:
            found.setdefault(one.name, []).append(one)
    return found
