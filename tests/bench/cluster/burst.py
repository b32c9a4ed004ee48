"""`burst`: many runs asked for at once, until the last of them has ended."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from ..benchmark import Benchmark, Figures, Setting, Target, Variant
from ..machine import Unready, awaited
from .ground import prepared
from .sides import Side

RUNS, SHORT_RUNS = 50, 4
CALLERS = 10
DRAIN_SECONDS = 900


@contextmanager
def opened(setting: Setting) -> Iterator[Callable[[Variant], Figures]]:
    """Each side with nothing to do."""
    runs = SHORT_RUNS if setting.short else RUNS
    with prepared(setting) as ground:

        def take(variant: Variant) -> Figures:
            side, deployment, name = {
                "ours": (ground.ours, "trivial", "ours"),
                "stock": (ground.stock, "stock", "stock"),
                "tuned": (ground.stock, "tuned", "tuned"),
            }[variant.name]
            return _burst(side, deployment, name, runs)

        yield take


def _burst(side: Side, deployment: str, name: str, runs: int) -> dict[str, float]:
    if side.unended(name):
        raise Unready(f"{name} has runs that have not ended: the burst before is still there")
    begun = time.time()
    with ThreadPoolExecutor(CALLERS) as callers:
        list(callers.map(lambda _: side.start(deployment), range(runs)))
    answered = time.time()

    def drained() -> int | None:
        return len(side.all_ended(name, since=begun)) >= runs or None

    awaited(drained, within=DRAIN_SECONDS, every=1, what=f"{runs} runs of {name} have ended")
    ended = side.all_ended(name, since=begun)
    states = Counter(one.state for one in ended)
    return {
        "answered_seconds": answered - begun,
        "drain_seconds": max(one.at for one in ended) - begun,
        "crashed_runs": float(states["CRASHED"]),
        "completed_runs": float(states["COMPLETED"]),
    }


BURST = Benchmark(
    name="burst",
    what=f"{RUNS} runs of a flow that does nothing, asked for at once, until the last has ended",
    variants=(
        Variant(name="ours", title="ours", ours=True),
        Variant(name="stock", title="stock Prefect"),
        Variant(name="tuned", title="Prefect tuned by settings: the worker asks every second", most=1),
    ),
    targets=(
        Target(
            what="a burst's drain, against stock's",
            figure="drain_seconds",
            of="ours",
            against="stock",
            must=0.45,
            aim=0.25,
        ),
        Target(what="runs of a burst that crashed", figure="crashed_runs", of="ours", must=0),
    ),
    opened=opened,
    rounds=2,
    notes="""
Ten callers at a time. What crashed and was rerun counts by how it ended at last.

Both cores are busy all the time: a run costs what its pod, the kubelet, containerd and Prefect's server spend on it,
2.6 CPU seconds here, of which the flow pod's own process is 0.66. Tried: as for `start` and `backfill`.
""",
)
