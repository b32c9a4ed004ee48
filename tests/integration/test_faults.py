"""Faults in the middle of a load, in their short form: a few of tests/faults, with a few runs each."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ..faults.catalogue import FAULTS
from ..faults.checker import judge
from ..faults.facts import Sample
from ..faults.fault import Fault, FaultMissed
from ..faults.kits import ProxyKit
from ..faults.ours import Ours
from ..faults.scenario import Load, play, revision_of
from .platform import Release

LOAD = Load(runs=6, rate=1.0, seed=1, within=240)
TRIES = 3  # a fault may come when every run is over, which shows nothing
QUIET_WITHIN = 240  # seconds
SHORT_FORM = ("orchestrator-sigkill", "worker-dies-before-job", "prefect-sigkill", "postgresql-restart", "flow-sigkill")


@pytest.fixture(scope="module")
def side(release: Release) -> Iterator[Ours]:
    """The release, with the ways in that the driver needs."""
    side = Ours(cluster=release.cluster, namespace=release.namespace).open()
    yield side
    side.close()


async def quiet(side: Ours) -> None:
    """Wait until no run of an earlier test is going on: its effects would count as nobody's."""
    deadline = time.monotonic() + QUIET_WITHIN
    while (await side.sql("orchestrator", "SELECT count(*) FROM runs WHERE ended_at IS NULL"))[0][0]:
        assert time.monotonic() < deadline, f"runs of earlier tests are not over within {QUIET_WITHIN} s"
        await asyncio.sleep(1)


async def met(side: Ours, fault: Fault, kit: ProxyKit | None, *, revision: str) -> Sample:
    """A sample whose fault met runs."""
    for seed in range(1, TRIES):
        try:
            return await play(side, fault, replace(LOAD, seed=seed), kit=kit, revision=revision)
        except FaultMissed as exc:
            print(f"{fault.name} is played again: {exc}")  # noqa: T201 -- for whoever reads the test's output
            await quiet(side)
    return await play(side, fault, replace(LOAD, seed=TRIES), kit=kit, revision=revision)


@pytest.mark.parametrize("name", SHORT_FORM)
async def test_no_run_is_lost_doubled_or_stuck(side: Ours, release: Release, name: str) -> None:
    """Every accepted run has exactly one effect, or ended and says why; everyone agrees; nothing is left behind."""
    await quiet(side)
    fault = FAULTS[name]
    kit = fault.kit(side) if fault.kit else None
    if kit is not None:
        kit.install()
    try:
        sample = await met(side, fault, kit, revision=revision_of(release.root))
    finally:
        if kit is not None:
            kit.remove()
    verdict = judge(sample)
    assert verdict.violations == (), "\n".join(map(str, verdict.violations))
    assert verdict.accepted == LOAD.runs
    # A run that was killed is run again, so there is an effect, not an explanation.
    assert verdict.once == LOAD.runs
