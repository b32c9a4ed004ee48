"""`start`: one trivial run at a time, from the request to Completed, against stock Prefect and against a bare Job."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from statistics import median
from typing import Any

from ..benchmark import Benchmark, Figures, Growth, Setting, Target, Variant
from ..machine import Unready, awaited
from . import bare
from .ground import Ground, prepared
from .sides import Ended, Side

RUN_SECONDS = 180
RUNS, SHORT_RUNS = 1000, 20
_POD_SECONDS = 60


@contextmanager
def opened(setting: Setting) -> Iterator[Callable[[Variant], Figures]]:
    """Each side warmed by one run, so that no sample pays for an image's first start."""
    with prepared(setting) as ground:
        functions = [_bare(ground, 0)["function_seconds"]]
        for side, deployment in _SIDES.values():
            setting.say(f"  a first run at {deployment}")
            _run(ground, getattr(ground, side), deployment)

        moment = Random(setting.seed)

        def take(variant: Variant) -> Figures:
            # The kubelet looks at its containers once a second: begun when the pod before was seen to have ended, each
            # sample would meet the same moment of that second.
            time.sleep(moment.random())
            if variant.name == "bare":
                figures = _bare(ground, len(functions))
                functions.append(figures["function_seconds"])
                return figures
            side, deployment = _SIDES[variant.name]
            figures = _run(ground, getattr(ground, side), deployment)
            return {**figures, "over_bare_seconds": figures["completed_seconds"] - median(functions)}

        yield take


@contextmanager
def grown(setting: Setting) -> Iterator[Callable[[Variant], Figures]]:
    """The same once both Prefects, and through its own our ledger, hold runs that ended long ago."""
    count = SHORT_RUNS if setting.short else RUNS
    with prepared(setting) as ground:
        for side, deployment in ((ground.ours, "trivial/ours"), (ground.stock, "trivial/stock")):
            setting.say(f"  {count} ended runs of {deployment}")
            side.fill(deployment, count)
        for side, deployment in (_SIDES["ours"], _SIDES["stock"]):
            _run(ground, getattr(ground, side), deployment)

        moment = Random(setting.seed)

        def take(variant: Variant) -> Figures:
            time.sleep(moment.random())  # as above
            side, deployment = _SIDES[variant.name]
            return _run(ground, getattr(ground, side), deployment)

        yield take


def _bare(ground: Ground, number: int) -> dict[str, float]:
    done = bare.run(ground.kubernetes, namespace="stock", image=ground.image, number=number)
    figures = {"function_seconds": done.function_seconds, "completed_seconds": done.complete_seconds}
    return figures | _taken(ground, done.uid)


def _run(ground: Ground, side: Side, deployment: str) -> dict[str, float]:
    begun = time.time()
    asked = side.start(deployment)
    answered = time.time()
    flow_run_id = awaited(lambda: side.flow_run(asked), within=RUN_SECONDS, what=f"a flow run for {asked}")
    ended: Ended = awaited(
        lambda: side.ended(flow_run_id), within=RUN_SECONDS, every=0.25, what=f"flow run {flow_run_id} ended"
    )
    if ended.state != "COMPLETED":
        raise Unready(f"flow run {flow_run_id} at {deployment} ended {ended.state}")

    def gone() -> dict[str, Any] | None:
        pod = side.pod(flow_run_id)
        return pod if pod and pod["status"]["phase"] in {"Succeeded", "Failed"} else None

    # The next sample shall not share the node with this one's pod.
    pod = awaited(gone, within=_POD_SECONDS, every=0.25, what=f"the pod of {flow_run_id} has ended")
    figures = {
        "answered_seconds": answered - begun,
        "completed_seconds": ended.at - begun,
        "pod_ended_seconds": time.time() - begun,
    }
    return figures | _taken(ground, pod["metadata"]["uid"])


def _taken(ground: Ground, uid: str) -> dict[str, float]:
    taken = ground.node.taken(uid)
    if taken is None:
        raise Unready(f"pod {uid} left the node unread")
    return {"cpu_seconds": taken.cpu_seconds, "peak_bytes": taken.peak_bytes}


_SIDES = {"ours": ("ours", "trivial"), "stock": ("stock", "stock"), "tuned": ("stock", "tuned")}

START = Benchmark(
    name="start",
    what="a run of a flow that does nothing, from the request to Completed, one at a time",
    variants=(
        Variant(name="ours", title="ours", ours=True),
        Variant(name="bare", title="a bare Job, reported complete"),
        Variant(name="stock", title="stock Prefect"),
        Variant(name="tuned", title="Prefect tuned by settings: the worker asks every second"),
    ),
    targets=(
        Target(
            what="start → Completed, less the bare Job's function time, against stock's",
            figure="over_bare_seconds",
            of="ours",
            against="stock",
            must=0.18,
            aim=0.10,
        ),
        Target(
            what="start → Completed, against a bare Job reported complete",
            figure="completed_seconds",
            of="ours",
            against="bare",
            must=0.75,
            aim=0.5,
        ),
        Target(
            what="CPU seconds of a trivial flow's pod, against stock's",
            figure="cpu_seconds",
            of="ours",
            against="stock",
            must=0.38,
            aim=0.25,
        ),
    ),
    opened=opened,
    rounds=10,
    notes="""
Completed is the moment that Prefect keeps of that state. A bare Job runs the same function in the same image;
Kubernetes reports it complete seconds after it has run. CPU and memory are those of the whole pod, from its control
group. Stock Prefect and the tuned worker share one Prefect server; all sides are on one kind node, with the same CPU
requests.

A run's time, in a run looked at closely: its flow run is there after 0.05 s, its Job is made after 0.3 s, its process
begins after 0.75 s, and Prefect is imported 0.65 s later. Then most runs here wait for the network: a new pod's packets
to Prefect's server, which network policies guard, get through once the pod's address is in the Kubernetes API; the
kubelet writes it when it next looks at its containers, once a second. TCP sends a lost packet again only after another
second: so the four runs looked at were Running after 2.1 s, although all was imported before. Now the connection is
tried anew after 0.05 s and a little more each time, while everything is imported; Running comes 0.05 to 0.1 s after it.

In these samples most met the end of the kubelet's second, seven of ten Completed after 2.1 to 2.2 s, because each began
when the pod before was seen to have ended. Since then a sample begins at any moment of that second: in a run of `start`
alone, an hour later, ten were Completed after 1.6 to 2.2 s, 1.84 in the median, 0.55 × the bare Job; less the time of
its function 0.22 × stock's, between 0.11 and 0.36, since stock's median was 6.2 s that time, of 4.2 to 11.4.

Of a pod's 0.66 CPU seconds imports are 0.46, counted in the image, 0.55 before what a run hardly uses was put off.
Tried: less to import, as `etl.later` says; what Prefect announces is looked at alone, and at once; the worker is woken
by events. On a day when this machine was half as fast the ratios were 0.22 and 0.95.
""",
)

GROWN = Benchmark(
    name="grown",
    what="the same with a thousand runs more in Prefect's database and in the ledger",
    variants=(
        Variant(name="ours", title="ours", ours=True),
        Variant(name="stock", title="stock Prefect"),
    ),
    targets=(
        Target(
            what=f"start → Completed with {RUNS:,} runs, against stock's",
            figure="completed_seconds",
            of="ours",
            against="stock",
            must=0.35,
        ),
    ),
    growth=tuple(
        Growth(
            what=f"runs in Prefect's database, {whose}, few → {RUNS:,} more",
            figure="completed_seconds",
            before=name,
            after=name,
            before_in="start",
        )
        for name, whose in (("ours", "ours"), ("stock", "stock"))
    ),
    opened=grown,
    rounds=5,
    notes="""
The runs are made at Prefect's API, ended from the start; our orchestrator finds them and keeps them too. Both take
as long as without those runs. Where in its worker's poll of some seconds a stock run is asked for is chance, which five
samples do not even out.
""",
)
