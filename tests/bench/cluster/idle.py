"""`idle`: what the release's pods take while nothing runs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import httpx

from ..benchmark import Benchmark, Figures, Setting, Target, Variant
from .ground import CLUSTER, Ground, prepared

SECONDS, SHORT_SECONDS = 60, 5
# The source stands in for a system that is somebody else's.
_NOT_OURS = "-source-"


@contextmanager
def opened(setting: Setting) -> Iterator[Callable[[Variant], Figures]]:
    """Nothing runs at either side."""
    with prepared(setting) as ground:

        def take(variant: Variant) -> Figures:
            return _idle(ground, _NAMESPACES[variant.name], SHORT_SECONDS if setting.short else SECONDS)

        yield take


def _idle(ground: Ground, namespace: str, seconds: float) -> dict[str, float]:
    before = _pods(ground.kubernetes, namespace)
    time.sleep(seconds)
    after = _pods(ground.kubernetes, namespace)
    both = before.keys() & after.keys()

    def number(pod: dict[str, Any], what: str, key: str) -> float:
        return float(pod[what][key])

    used = sum(
        (number(after[uid], "cpu", "usageCoreNanoSeconds") - number(before[uid], "cpu", "usageCoreNanoSeconds"))
        # The kubelet's readings are seconds old, each by another time.
        / (_moment(after[uid]) - _moment(before[uid]))
        / 1e9
        for uid in both
        if _moment(after[uid]) > _moment(before[uid])
    )
    return {
        "resident_bytes": sum(number(after[uid], "memory", "rssBytes") for uid in both),
        "core_share": used,
        "pods": float(len(both)),
    }


def _pods(kubernetes: httpx.Client, namespace: str) -> dict[str, dict[str, Any]]:
    """The kubelet's newest figures of the running pods of a namespace, by uid."""
    node = f"{CLUSTER}-control-plane"
    summary = kubernetes.get(f"/api/v1/nodes/{node}/proxy/stats/summary").raise_for_status().json()
    return {
        pod["podRef"]["uid"]: pod
        for pod in summary["pods"]
        if pod["podRef"]["namespace"] == namespace
        and _NOT_OURS not in f"-{pod['podRef']['name']}"
        and "rssBytes" in pod.get("memory", {})
        and "usageCoreNanoSeconds" in pod.get("cpu", {})
    }


def _moment(pod: dict[str, Any]) -> float:
    return datetime.fromisoformat(pod["cpu"]["time"]).timestamp()


_NAMESPACES = {"ours": "pipelines", "stock": "stock"}

IDLE = Benchmark(
    name="idle",
    what="what all pods of the platform take while nothing runs",
    variants=(
        Variant(name="ours", title="ours: four pods", ours=True),
        Variant(name="stock", title="stock Prefect, with the tuned worker beside it: four pods"),
    ),
    targets=(
        Target(what="memory of the idle platform", figure="resident_bytes", of="ours", must=650e6, aim=500e6),
        Target(what="share of a core of the idle platform", figure="core_share", of="ours", must=0.06, aim=0.03),
    ),
    opened=opened,
    rounds=3,
    notes="""
Resident memory and CPU time as the kubelet counts them, without the source: which stands for others. In a whole run
these pods have done all of the benchmarks before, about two thousand runs in two hours, and what they grew by they
keep: installed anew a moment later the same four took 580 MB (Prefect's server 223, the worker 149, the orchestrator
128, PostgreSQL 80). A share of a core is of this machine's core, which was two thirds as fast as on other days: on
one of those, fresh, it was 549 MB and 6.0 %.
Which part takes the share, and why memory grows, has not been looked into.
""",
)
