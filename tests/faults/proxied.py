"""Faults at a proxy: Prefect late, refusing or garbled; the worker's Jobs held or their answers lost."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from .cluster import pause
from .fault import Fault, FaultMissed, Stage
from .kits import KubernetesProxy, PrefectProxy, ProxyKit

_CREATE_JOB = {"method": "POST", "path": "/jobs(\\?|$)"}
_WAITS_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Misbehaving(Fault):
    """Prefect answers as `rule` says, for a while, whoever asks."""

    rule: dict[str, Any] = field(default_factory=dict)
    lasts: float = 30.0
    kit: type[ProxyKit] | None = PrefectProxy

    def inject(self, stage: Stage) -> None:
        stage.proxy.tell("PUT", self.rule)

    def heal(self, stage: Stage) -> None:
        _note_hits(stage, "requests hit")
        stage.proxy.tell("DELETE")

    def restore(self, stage: Stage) -> None:
        stage.proxy.tell("DELETE")


@dataclass(frozen=True, kw_only=True)
class WorkerDiesBeforeJob(Fault):
    """The worker has made a run Pending, its call to create the Job never arrives, and then the worker is killed."""

    kit: type[ProxyKit] | None = KubernetesProxy
    early: bool = True

    def inject(self, stage: Stage) -> None:
        stage.proxy.tell("PUT", {"act": "hold", **_CREATE_JOB})
        wanted = max(2, stage.runs // 15)
        until = stage.elapsed + _WAITS_SECONDS
        while stage.proxy.tell("GET")["held"] < wanted and stage.elapsed < until:
            pause(0.5)
        for pod in stage.side.pods("worker"):
            stage.side.hands.kill(pod)
        stage.victims.extend(_pending_without_job(stage))
        _note_hits(stage, "calls held")
        stage.proxy.tell("DELETE")

    def heal(self, stage: Stage) -> None:
        """Kubernetes starts the worker again."""
        stage.side.hands.ready(stage.side.object_name("worker"))

    def restore(self, stage: Stage) -> None:
        stage.proxy.tell("DELETE")


@dataclass(frozen=True, kw_only=True)
class JobAnswerLost(Fault):
    """The Job is created, and the worker never hears of it."""

    kit: type[ProxyKit] | None = KubernetesProxy
    early: bool = True

    def inject(self, stage: Stage) -> None:
        count = max(3, stage.runs // 10)
        stage.proxy.tell("PUT", {"act": "lose", "count": count, **_CREATE_JOB})
        until = stage.elapsed + _WAITS_SECONDS
        while stage.proxy.tell("GET")["hit"] < count and stage.elapsed < until:
            pause(0.5)

    def heal(self, stage: Stage) -> None:
        _note_hits(stage, "answers lost")
        stage.proxy.tell("DELETE")

    def restore(self, stage: Stage) -> None:
        stage.proxy.tell("DELETE")


def _note_hits(stage: Stage, what: str) -> None:
    hits = stage.proxy.tell("GET")["hit"]
    if not hits:
        raise FaultMissed(f"the proxy saw none of the requests that were to be hit: 0 {what}")
    stage.notes.append(f"{hits} {what}")


def _pending_without_job(stage: Stage) -> list[str]:
    """The flow runs that a worker has taken up and made no Job for."""
    told = asyncio.run(stage.side.flow_runs(stage.began))
    jobs = stage.side.jobs(stage.began)
    return [one.run.flow_run_id for one in told if one.run.state == "Pending" and one.run.flow_run_id not in jobs]
