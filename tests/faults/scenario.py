"""One fault on one side, from the first run asked for to the verdict: load, moment, injection, healing, end."""

import asyncio
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from .caller import Caller
from .facts import OVER, Sample, Scenario
from .fault import Fault, FaultMissed, Stage
from .kits import ProxyKit
from .side import AWAY, Side, now

T = TypeVar("T")

# What must be there at once before the fault is injected: accepted, pending and running runs, and a load going on.
WANTED = ("Scheduled", "Pending", "Running", "loading")

_LOOK_SECONDS = 0.6
_MOMENT_SECONDS = 60.0  # once all are asked for, how long a load is still waited for
_JOBS_END_WITHIN_SECONDS = 180.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """How many runs are asked for, at how many a second on average, and how long they may take after the last.

    `within` counts from the last run asked for or from the end of the fault, whichever is later, in seconds.
    """

    runs: int
    rate: float
    seed: int
    within: float


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)  # noqa: T201 - progress, for who watches


async def play(side: Side, fault: Fault, load: Load, *, kit: ProxyKit | None, revision: str) -> Sample:
    """Play a scenario and return what was found. The side is left as it was; the fault's kit is in place."""
    stage = Stage(side=side, runs=load.runs, began=now(), kit=kit)
    title = f"{side.name} {fault.name}"
    await side.prepare(load.seed)
    try:
        await asyncio.to_thread(fault.prepare, stage)
        stage.began = now()
        prefix = f"{fault.name}/{load.seed}/{int(stage.began)}/"
        caller = Caller(side, prefix=prefix, runs=load.runs, rate=load.rate, seed=load.seed, since=stage.began)
        say(f"{title}: {load.runs} runs at {load.rate:g}/s")
        asking = asyncio.create_task(caller.ask_for_all())
        met = await _moment(caller, stage, asking, early=fault.early)
        say(f"{title}: {caller.sent} asked, {_told(met)}: now")
        _require_a_load(fault, met)
        injected_at = stage.elapsed
        await asyncio.to_thread(fault.inject, stage)
        await asyncio.sleep(max(0.0, fault.lasts - (stage.elapsed - injected_at)))
        await asyncio.to_thread(fault.heal, stage)
        healed_at = stage.elapsed
        say(f"{title}: healed after {healed_at - injected_at:.0f} s, {len(stage.victims)} runs hit")
        await asking
        await _over(side, caller, prefix, within=load.within, title=title)
        ended_at = stage.elapsed
        await _jobs_over(side, stage)
        found = await _patiently(lambda: side.collect(caller.asked, since=stage.began))
    except FaultMissed:
        # What was begun is seen to its end, so that it does not stray into the next scenario.
        asking.cancel()
        await _over(side, caller, prefix, within=load.within, title=title)
        raise
    finally:
        await asyncio.to_thread(fault.restore, stage)
        await _patiently(side.restore)
    return Sample(
        scenario=Scenario(
            side=side.name,
            fault=fault.name,
            seed=load.seed,
            runs=load.runs,
            rate=load.rate,
            within=load.within,
            revision=revision,
            date=datetime.now(UTC).date(),
            injected_at=round(injected_at, 2),
            healed_at=round(healed_at, 2),
            ended_at=round(ended_at, 2),
            at_injection=dict(met),
            victims=tuple(stage.victims),
            measured=stage.measured,
            notes=tuple(stage.notes),
        ),
        cases=found.cases,
        strays=found.strays,
    )


async def _moment(caller: Caller, stage: Stage, asking: "asyncio.Task[None]", *, early: bool) -> Counter[str]:
    """Wait until runs are in every state that is wanted; when most have been asked for, take what there is."""
    prefix = next(iter(caller.asked)).rpartition("/")[0]
    total = len(caller.asked)
    met: Counter[str] = Counter()
    patient_until = None
    while True:
        try:
            met = await stage.side.states(prefix)
            stage.loading = await stage.side.loading()
            met["loading"] = len(stage.loading)
        except AWAY:
            met = Counter()
        if caller.sent >= total / 4 and ((early and met.total()) or all(met[state] for state in WANTED)):
            return met
        if caller.sent >= total * 2 / 3 and met["Running"] and met["Pending"] and not asking.done():
            return met
        if asking.done():
            patient_until = patient_until or now() + _MOMENT_SECONDS
            waits = met["Scheduled"] or met["Pending"]
            last_chance = bool(met.total()) and not waits  # what runs now, or nothing
            if met["loading"] or last_chance or now() > patient_until:
                return met
        await asyncio.sleep(_LOOK_SECONDS)


def _require_a_load(fault: Fault, met: Counter[str]) -> None:
    """A fault that comes when every run is over shows nothing."""
    if fault.name != "none" and met and not any(met[state] for state in WANTED):
        raise FaultMissed(f"every run was over ({_told(met)}) before the fault came")


async def _over(side: Side, caller: Caller, prefix: str, *, within: float, title: str) -> None:
    """Wait until every accepted run is over, or the time is up."""
    accepted = sum(any(one.run_id for one in attempts) for _, attempts in caller.asked.values())
    began, told = now(), ""
    while now() - began < within:
        try:
            states = await side.states(prefix)
        except AWAY:
            await asyncio.sleep(1)
            continue
        going_on = sum(count for state, count in states.items() if state not in OVER)
        if not going_on and sum(states.values()) >= accepted:
            return
        if _told(states) != told:
            told = _told(states)
            say(f"{title}: {now() - began:.0f} s after the last: {told}")
        await asyncio.sleep(1)


async def _jobs_over(side: Side, stage: Stage) -> None:
    """Give pods the time to end after their runs: Kubernetes takes seconds to count them."""
    began = now()
    while now() - began < _JOBS_END_WITHIN_SECONDS:
        jobs = await asyncio.to_thread(side.jobs, stage.began)
        if not any(job.active for several in jobs.values() for job in several):
            return
        await asyncio.sleep(3)


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """What the side answers, asked again while its database or a way there is away."""
    for _ in range(60):
        try:
            return await ask()
        except AWAY:
            await asyncio.sleep(1)
    return await ask()


def _told(states: Counter[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items()) if count) or "no run"


def revision_of(root: Path) -> str:
    """The commit under test, marked where the tree has changes on top."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
