"""Faults in the middle of a load, in their short form: a few of tests/faults, with a few runs each."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from ..faults.catalogue import FAULTS
from ..faults.checker import judge
from ..faults.ours import Ours
from ..faults.scenario import Load, play, revision_of
from .platform import Release

LOAD = Load(runs=6, rate=0.4, seed=1, within=240)
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


@pytest.mark.parametrize("name", SHORT_FORM)
async def test_no_run_is_lost_doubled_or_stuck(side: Ours, release: Release, name: str) -> None:
    """Every accepted run has exactly one effect, or ended and says why; everyone agrees; nothing is left behind."""
    await quiet(side)
    fault = FAULTS[name]
    kit = fault.kit(side) if fault.kit else None
    if kit is not None:
        kit.install()
    try:
        sample = await play(side, fault, LOAD, kit=kit, revision=revision_of(release.root))
    finally:
        if kit is not None:
            kit.remove()
    verdict = judge(sample)
    assert verdict.violations == (), "\n".join(map(str, verdict.violations))
    assert verdict.accepted == LOAD.runs
    # A run that was killed is run again, so there is an effect, not an explanation.
    assert verdict.once == LOAD.runs
