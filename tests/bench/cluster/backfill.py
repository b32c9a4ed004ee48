"""`backfill`: every day of a year through the daily job, against as many runs of a plain flow that does its work."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date, timedelta

import httpx

from ..benchmark import Benchmark, Figures, Setting, Target, Variant
from ..machine import Unready, awaited
from .ground import CLUSTER, prepared
from .sides import Stock

FIRST, DAYS, SHORT_DAYS = date(2013, 1, 1), 365, 4
# Compared by the day: what a pod is started for takes so long that a part of the year tells its pace.
DAYS_OF_A_POD_EACH = 40
# As many pods as two cores have room for beside everything else; stock Prefect is held by the same CPU requests.
AT_ONCE = 5
# A year in five pods, and none that ends before the year does.
RUNS_PER_POD = 100
WITHIN_SECONDS = 5400
CALLERS = 10


@contextmanager
def opened(setting: Setting) -> Iterator[Callable[[Variant], Figures]]:
    """A year of real flights at each side's source."""
    year = [FIRST + timedelta(days=number) for number in range(SHORT_DAYS if setting.short else DAYS)]
    some = year[:DAYS_OF_A_POD_EACH]
    with prepared(setting) as ground, Stock(cluster=CLUSTER, flow="daily").opened() as stock:
        assert isinstance(stock, Stock)

        def take(variant: Variant) -> Figures:
            if variant.name == "stock":
                return _stock(stock, some, setting)
            if variant.name == "batched":
                return _ours(ground.ours.api, year, setting, runs_per_pod=RUNS_PER_POD)
            return _ours(ground.ours.api, some, setting, runs_per_pod=1)

        yield take


def _ours(api: httpx.Client, days: list[date], setting: Setting, *, runs_per_pod: int) -> dict[str, float]:
    asked = {
        "from": days[0].isoformat(),
        "to": days[-1].isoformat(),
        "mode": "all",
        "max_concurrent": AT_ONCE,
        "runs_per_pod": runs_per_pod,
    }
    begun = time.time()
    digest = api.post("/api/etl/backfill", json=asked).raise_for_status().json()["digest"]
    made = api.post("/api/etl/backfill", json={**asked, "digest": digest}).raise_for_status()
    progress = _Progress(setting, len(days))

    def over() -> dict[str, int] | None:
        document = api.get(made.headers["Location"]).raise_for_status().json()
        progress.told(sum(document["counts"].get(state, 0) for state in ("Completed", "Failed", "Crashed")))
        return dict(document["counts"]) if document["status"] == "finished" else None

    counts = awaited(over, within=WITHIN_SECONDS, every=1, what="the backfill is finished")
    seconds = time.time() - begun
    if counts != {"Completed": len(days)}:
        raise Unready(f"the backfill ended with {counts}")
    return {"seconds": seconds, "a_day_seconds": seconds / len(days)}


def _stock(stock: Stock, days: list[date], setting: Setting) -> dict[str, float]:
    begun = time.time()
    with ThreadPoolExecutor(CALLERS) as callers:
        list(callers.map(lambda day: stock.start("stock", {"day": day.isoformat()}), days))
    progress = _Progress(setting, len(days))

    def over() -> float | None:
        left = stock.unended("stock")
        progress.told(len(days) - left)
        return None if left else time.time()

    seconds = awaited(over, within=WITHIN_SECONDS, every=1, what="every run has ended") - begun
    states = Counter(one.state for one in stock.all_ended("stock", since=begun))
    return {
        "seconds": seconds,
        "a_day_seconds": seconds / len(days),
        "runs_not_completed": float(len(days) - states["COMPLETED"]),
    }


class _Progress:
    """A line for every tenth of the way."""

    def __init__(self, setting: Setting, total: int) -> None:
        self._say, self._total, self._tenths, self._begun = setting.say, total, 0, time.monotonic()

    def told(self, done: int) -> None:
        tenths = done * 10 // self._total
        if tenths > self._tenths:
            self._tenths = tenths
            self._say(f"    {done} of {self._total} days after {time.monotonic() - self._begun:.0f} s")


BACKFILL = Benchmark(
    name="backfill",
    what="days of 2013, each a run of its own: the whole year with its 336,776 flights where a pod takes many",
    variants=(
        Variant(name="ours", title=f"ours, a pod a day, {DAYS_OF_A_POD_EACH} days", ours=True),
        Variant(name="batched", title=f"ours, the year, a pod for up to {RUNS_PER_POD} days in turn", ours=True),
        Variant(name="stock", title=f"stock Prefect, {DAYS_OF_A_POD_EACH} flow runs"),
    ),
    targets=(
        Target(
            what="a day of a backfill, a pod a day, against a flow run of stock Prefect",
            figure="a_day_seconds",
            of="ours",
            against="stock",
            must=0.4,
        ),
        Target(
            what="a day of a year's backfill, batched, against a flow run of stock Prefect",
            figure="a_day_seconds",
            of="batched",
            against="stock",
            must=0.4,
            aim=0.1,
        ),
    ),
    opened=opened,
    rounds=2,
    notes="""
Stock Prefect runs the flow of tests/faults/stock, which fetches a day and copies four columns of it; ours checks
every row, joins the weather, sums up and keeps a checksum. Five at once here; there as many as the node's CPU
requests let, which are the same.

Both cores are busy all the time, so a day costs what its CPU costs. A pod a day takes 7.8 CPU seconds (24 days, on a
busier machine): Prefect's server 1.6, PostgreSQL 0.9, the API server and etcd 0.6, worker and orchestrator 0.2 each;
the rest are the flow pod, the kubelet and containerd. In Prefect's server a tenth checks job variables against the
pool's schema, another records task runs. Tried: fewer round trips of a run, one process a pod, less to import,
connections that Prefect keeps instead of opening them anew (a fifth of what PostgreSQL did). What is left is a pod
for each day; `runs_per_pod` does without.
""",
)
