"""Faults that end processes: SIGKILL, eviction, a rolling update, too little memory; and a second pod of one run."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..integration.platform import eventually
from .cluster import Pod, is_running, pause
from .fault import Fault, FaultMissed, Stage
from .side import AWAY, now

_ANSWERS_AGAIN_WITHIN = 120.0
_STRIKES_WITHIN = 30.0

# The advisory lock of whoever follows Prefect.
_LEAD = 0x6F72_6368_0001


@dataclass(frozen=True, kw_only=True)
class KilledPart(Fault):
    """SIGKILL of the process of a part's pod; Kubernetes starts it again."""

    part: str

    def inject(self, stage: Stage) -> None:
        before = stage.side.pods(self.part)
        stage.kept["containers"] = {one for pod in before for one in _containers(pod)}
        killed = [stage.side.hands.kill(pod) for pod in before]
        if not any(killed):
            raise AssertionError(f"no process of {self.part} was there to kill")

    def heal(self, stage: Stage) -> None:
        """Kubernetes heals it: the fault lasts until the part's new process is ready."""

        def back() -> bool:
            pods = stage.side.pods(self.part)
            new = all(not stage.kept["containers"] & set(_containers(pod)) for pod in pods)
            return bool(pods) and new and all(_is_ready(pod) for pod in pods)

        eventually(back, within=_ANSWERS_AGAIN_WITHIN, what=f"{self.part} is ready again after SIGKILL")


@dataclass(frozen=True, kw_only=True)
class RestartedPostgresql(Fault):
    """The database's pod is deleted, as an upgrade or a drained node does, and comes back on its volume."""

    def inject(self, stage: Stage) -> None:
        stage.side.kubectl("delete", "pod", "--wait=true", "--selector", stage.side.selector("postgresql"))

    def heal(self, stage: Stage) -> None:
        name = stage.side.object_name("postgresql")
        stage.side.kubectl("rollout", "status", f"statefulset/{name}", f"--timeout={_ANSWERS_AGAIN_WITHIN:g}s")
        stage.side.forwards["postgresql"].reopen()


@dataclass(frozen=True, kw_only=True)
class KilledLeader(Fault):
    """SIGKILL of the replica that follows Prefect, with another one beside it."""

    def prepare(self, stage: Stage) -> None:
        _scale(stage, 2)

    def inject(self, stage: Stage) -> None:
        leader = _leader(stage)
        [pod] = [one for one in stage.side.pods("orchestrator") if one["status"].get("podIP") == leader]
        if not stage.side.hands.kill(pod):
            raise AssertionError("the leader was not there to kill")
        killed = now()
        while _leader(stage) in {leader, None} and now() - killed < 60:
            pause(0.1)
        stage.measured["lead taken over"] = round(now() - killed, 2)

    def restore(self, stage: Stage) -> None:
        _scale(stage, 1)


@dataclass(frozen=True, kw_only=True)
class RollingUpdate(Fault):
    """The orchestrator's pods are replaced one after the other, as `helm upgrade` does."""

    def prepare(self, stage: Stage) -> None:
        _scale(stage, 2)

    def inject(self, stage: Stage) -> None:
        name = f"deployment/{stage.side.object_name('orchestrator')}"
        stage.side.kubectl("rollout", "restart", name)
        stage.side.kubectl("rollout", "status", name, "--timeout=180s")

    def restore(self, stage: Stage) -> None:
        _scale(stage, 1)


@dataclass(frozen=True, kw_only=True)
class KilledPods(Fault):
    """SIGKILL of flow pods, those in the middle of a load first."""

    share: float = 0.1

    def inject(self, stage: Stage) -> None:
        _strike(stage, self.share, stage.side.hands.kill)


@dataclass(frozen=True, kw_only=True)
class EvictedPods(Fault):
    """Flow pods are evicted through the Eviction API, those in the middle of a load first."""

    share: float = 0.1

    def inject(self, stage: Stage) -> None:
        _strike(stage, self.share, stage.side.hands.evict)


@dataclass(frozen=True, kw_only=True)
class SecondPods(Fault):
    """The Jobs of running runs are made a second time by hand, labels and all."""

    share: float = 0.1

    def inject(self, stage: Stage) -> None:
        for pod in chosen_pods(stage, self.share):
            flow_run_id = flow_run_of(pod)
            [job, *_] = stage.side.kubectl.items("jobs", "--selector", f"prefect.io/flow-run-id={flow_run_id}")
            stage.side.kubectl("create", "--filename", "-", stdin=json.dumps(_second(job)))
            stage.victims.append(flow_run_id)
        _expect_victims(stage)


@dataclass(frozen=True, kw_only=True)
class TooLittleMemory(Fault):
    """Runs get so little memory that they cannot but run out of it: for a while their deployment asks for less."""

    lasts: float = 15.0
    memory: str = "150Mi"
    early: bool = True

    def inject(self, stage: Stage) -> None:
        variables = stage.side.job_variables()
        stage.kept["job_variables"] = variables
        stage.side.set_job_variables(variables | {"memory_limit": self.memory, "memory_request": self.memory})

    def heal(self, stage: Stage) -> None:
        self.restore(stage)
        for pod in stage.side.kubectl.items("pods", "--selector", stage.side.selector("flow-run")):
            limits = pod["spec"]["containers"][0]["resources"].get("limits", {})
            if limits.get("memory") == self.memory:
                stage.victims.append(flow_run_of(pod))
        _expect_victims(stage)

    def restore(self, stage: Stage) -> None:
        if "job_variables" in stage.kept:
            stage.side.set_job_variables(stage.kept.pop("job_variables"))


def _strike(stage: Stage, share: float, strike: Callable[[Pod], bool]) -> None:
    """Strike running flow pods, and again until one was hit: they may end between being listed and being struck."""
    patient_until = now() + _STRIKES_WITHIN
    while not stage.victims and now() < patient_until:
        stage.victims += [flow_run_of(pod) for pod in chosen_pods(stage, share) if strike(pod)]
        pause(0.2)
    _expect_victims(stage)


def chosen_pods(stage: Stage, share: float) -> list[Pod]:
    """Running flow pods, `share` of the load or three at least: those that load now, then the oldest."""
    wanted = max(3, round(stage.runs * share))
    pods = [pod for pod in stage.side.pods("flow-run") if is_running(pod)]
    pods.sort(key=lambda pod: (pod["status"].get("podIP") not in stage.loading, pod["metadata"]["creationTimestamp"]))
    return pods[:wanted]


def flow_run_of(pod: Pod) -> str:
    return str(pod["metadata"]["labels"]["prefect.io/flow-run-id"])


def _containers(pod: Pod) -> list[str]:
    return [one["containerID"] for one in pod["status"].get("containerStatuses") or [] if one.get("containerID")]


def _is_ready(pod: Pod) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions") or [])


def _expect_victims(stage: Stage) -> None:
    if not stage.victims:
        raise FaultMissed("no flow pod was hit")


def _second(job: dict[str, Any]) -> dict[str, Any]:
    spec = dict(job["spec"])
    del spec["selector"]
    labels = spec["template"]["metadata"]["labels"]
    spec["template"]["metadata"]["labels"] = {
        key: value for key, value in labels.items() if not key.endswith(("controller-uid", "job-name"))
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{job['metadata']['name']}-second", "labels": job["metadata"]["labels"]},
        "spec": spec,
    }


def _leader(stage: Stage) -> str | None:
    """The address of the replica that follows Prefect: whose connection holds the lead's advisory lock."""
    query = (
        "SELECT host(a.client_addr) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
        f" WHERE l.locktype = 'advisory' AND l.granted AND l.classid = {_LEAD >> 32} AND l.objid = {_LEAD & 0xFFFFFFFF}"
        " AND a.datname = 'orchestrator'"
    )
    try:
        rows = asyncio.run(stage.side.sql("orchestrator", query, patience=5))
    except AWAY:
        return None
    return str(rows[0][0]) if rows else None


def _scale(stage: Stage, replicas: int) -> None:
    name = stage.side.object_name("orchestrator")
    stage.side.hands.change(f"deployment/{name}", lambda one: one["spec"].update(replicas=replicas))
    stage.side.hands.roll(name)
    stage.side.forwards["api"].reopen()
