"""The release's pods, those of runs included: what keeps one from being made, placed, pulled or started."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from pipelines_client.doctor.checks import Category, Check, Finding, Side
from pipelines_client.doctor.quantities import amount
from pipelines_client.doctor.sights import Sights
from pipelines_client.doctor.sights.cluster import Object, name, told_at

# What a container waits for, in the words of the reasons why a run does not go on.
IMAGE = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
    | {"RegistryUnavailable", "SignatureValidationFailed"}
)
START = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff"}
    | {"ContainerCannotRun", "StartError", "PreCreateHookError", "PreStartHookError"}
)
CLAIM = re.compile(r"PersistentVolumeClaim|persistentvolumeclaim|volume")
RECENT = 1200.0  # Kubernetes tries again, and warns again, within a quarter of an hour


def _unplaced(sights: Sights, *, by_volume: bool) -> Iterator[tuple[Object, str]]:
    for pod in sights.cluster.pods:
        for one in pod["status"].get("conditions") or ():
            said = one.get("message", "")
            waits = one["type"] == "PodScheduled" and one["status"] == "False"
            if waits and bool(CLAIM.search(said)) is by_volume:
                yield pod, said


def _scheduled(sights: Sights) -> Finding | None:
    found = [f"pod {name(pod)}: {said}" for pod, said in _unplaced(sights, by_volume=False)]
    pods = [name(pod) for pod, _ in _unplaced(sights, by_volume=False)]
    return Finding(what="; ".join(found), names={"pod": pods[0]}) if found else None


def _waiting(sights: Sights, why: frozenset[str]) -> Finding | None:
    found = [
        (name(pod), f"image {one.get('image', '?')} of pod {name(pod)}" if why is IMAGE else _container(pod, one), wait)
        for pod in sights.cluster.pods
        for one in _statuses(pod)
        if (wait := (one.get("state") or {}).get("waiting")) and wait.get("reason") in why
    ]
    if not found:
        return None
    what = "; ".join(f"{which}: {wait['reason']} {wait.get('message', '')}".strip() for _, which, wait in found)
    return Finding(what=what, names={"pod": found[0][0]})


def _container(pod: Object, status: Object) -> str:
    return f"container {status['name']} of pod {name(pod)}"


def _statuses(pod: Object) -> Iterator[Object]:
    yield from pod["status"].get("initContainerStatuses") or ()
    yield from pod["status"].get("containerStatuses") or ()


def _images(sights: Sights) -> Finding | None:
    return _waiting(sights, IMAGE)


def _starts(sights: Sights) -> Finding | None:
    return _waiting(sights, START)


def _refusals(sights: Sights, *, by_quota: bool) -> list[str]:
    """What the API server said of pods of ours that it did not let in, lately."""
    makers = {name(one) for one in (*sights.cluster.workloads, *sights.cluster.listed("jobs"))}
    now = datetime.now(UTC)
    found = []
    for one in sights.cluster.warnings:
        about = str(one["involvedObject"].get("name", ""))
        ours = about in makers or about.rpartition("-")[0] in makers
        recent = (now - datetime.fromisoformat(told_at(one))).total_seconds() < RECENT
        if ours and recent and one["reason"] == "FailedCreate" and ("exceeded quota" in one["message"]) is by_quota:
            found.append(f"{one['involvedObject'].get('kind')} {about}: {one['message']}")
    return found


def _quota(sights: Sights) -> Finding | None:
    refused = _refusals(sights, by_quota=True)
    if refused:
        return Finding(what=refused[-1])
    full = []
    for quota in sights.cluster.listed("resourcequotas", whole=True):
        status = quota.get("status") or {}
        used = status.get("used") or {}
        for resource, most in (status.get("hard") or {}).items():
            if amount(used.get(resource, "0")) >= amount(most):
                full.append(f"ResourceQuota {name(quota)}: {used.get(resource)} of {most} {resource} are used")
    return Finding(what="; ".join(full), warning=True) if full else None


def _admission(sights: Sights) -> Finding | None:
    refused = _refusals(sights, by_quota=False)
    return Finding(what=refused[-1]) if refused else None


def _volumes(sights: Sights) -> Finding | None:
    unbound = [
        f"PersistentVolumeClaim {name(one)} is {one['status'].get('phase')}"
        for one in sights.cluster.listed("persistentvolumeclaims")
        if one["status"].get("phase") != "Bound"
    ]
    found = unbound + [f"pod {name(pod)}: {said}" for pod, said in _unplaced(sights, by_volume=True)]
    return Finding(what="; ".join(found)) if found else None


def _memory(sights: Sights) -> Finding | None:
    killed = []
    for pod in sights.cluster.pods:
        for one in _statuses(pod):
            ended = [(one.get(when) or {}).get("terminated") or {} for when in ("state", "lastState")]
            if any(end.get("reason") == "OOMKilled" for end in ended):
                killed.append((pod, f"{_container(pod, one)}: OOMKilled, {one.get('restartCount', 0)} restarts"))
    if not killed:
        return None
    what = "; ".join(said for _, said in killed)
    return Finding(what=what, warning=True, names={"pod": name(killed[0][0])})


_DESCRIBE = "{kubectl} describe pod {pod}"

CATEGORY = Category(
    name="pods",
    about="the release's pods, those of runs included",
    side=Side.CLUSTER,
    checks=(
        Check(
            id="PL010",
            description="every pod has a node",
            meaning="No node has what a pod asks for: a resource, a label, or it does not tolerate a taint.",
            command=_DESCRIBE,
            look=_scheduled,
            needs=("PL320",),
        ),
        Check(
            id="PL011",
            description="every image can be pulled, or is on its node",
            meaning="The registry does not give a node an image, or the image was never loaded into the node.",
            command=_DESCRIBE,
            look=_images,
            needs=("PL320",),
        ),
        Check(
            id="PL012",
            description="the namespace's quotas leave room",
            meaning="A ResourceQuota is used up: new pods, those of runs first, are refused.",
            command="{kubectl} describe resourcequota",
            look=_quota,
            needs=("PL320",),
        ),
        Check(
            id="PL013",
            description="the cluster's admission lets every pod in",
            meaning="PodSecurity, a policy or a webhook refuses a pod of the release or of a run.",
            command="{kubectl} get events --field-selector type=Warning,reason=FailedCreate",
            look=_admission,
            needs=("PL320",),
        ),
        Check(
            id="PL014",
            description="every container starts",
            meaning="A container ends again and again, or cannot be made: a Secret or a command is missing.",
            command=_DESCRIBE,
            look=_starts,
            needs=("PL320",),
        ),
        Check(
            id="PL015",
            description="every volume is bound",
            meaning="A volume of the release is not bound: the database's pod waits for it.",
            command="{kubectl} describe persistentvolumeclaims",
            look=_volumes,
            needs=("PL320",),
        ),
        Check(
            id="PL105",
            description="no container was killed for want of memory",
            meaning="A container needed more memory than its limit, or than its node has, and was killed.",
            command=_DESCRIBE,
            look=_memory,
            needs=("PL320",),
        ),
    ),
)
