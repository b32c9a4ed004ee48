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
these pods have done all of the benchmarks before, some two thousand runs in an hour and a half; only the orchestrator
begins anew with each benchmark.

CPU, by py-spy (100 s, 300 times a second) where the four took 4.1 % of a core: Prefect's server 2.1, PostgreSQL 1.1,
the orchestrator 0.7, the worker 0.2. Of the server's, a fifth is its background services, a fifth the requests of
worker, orchestrator and kubelet, an eighth the services' queue; most of the rest are its questions to PostgreSQL and
the event loop. Of the orchestrator's, a quarter follows Prefect, a sixth looks for runs to hand over, a twelfth for
runs to take up again. A share is of this machine's core: on a day when it was half as fast, it was 8.5 %. Tried: the
server's queue asked once a second instead of four times, polls of 3 and 5 s with events between them.

Memory, by pod, in MB after 0, 50, 100 and 150 runs, before anything was done about it: PostgreSQL 64, 158, 172, 192;
Prefect's server 222, 241, 251, 256; the orchestrator 127, 133, 140, 144; the worker 148, 157, 160, 160. So most of
the growth was PostgreSQL's: a process of 8 MB for every connection that a burst had opened. Those that nobody has used
for a minute are closed now: 145 after fifty runs, 55 a minute later. The server gives back what it freed: 220, 230,
233; the same settings gave nothing in the other two. During these samples Prefect's server had 252, the worker 158,
the orchestrator 139, and PostgreSQL some 105; in the run before it had 36. A release installed anew, minutes later, had
222, 149, 127 and 49. So it is PostgreSQL again: probably seven or eight connections of Prefect's server, 8 MB each when
they are new, are in use at least once a minute and grow; which of them did was not looked at. What is left of the
others is what their imports take.
""",
)
