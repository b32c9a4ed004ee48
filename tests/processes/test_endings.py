"""Pods that end when they should not: after their load was committed, and at any moment of a run."""

import asyncio
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import asyncpg
import pytest

from .gate import Gate
from .pods import DAY, RUN_SECONDS, Platform, signal_pod

SEED = 20260115
LOCK_SPACE = 0x65746C  # the loads' advisory locks, by day


@pytest.fixture
def gate(prefect_server: str) -> Iterator[Gate]:
    gate = Gate(prefect_server)
    yield gate
    gate.close()


@pytest.mark.parametrize("ending", ["killed", "evicted"])
def test_a_pod_that_ends_between_its_load_and_its_end_leaves_one_load(
    platform: Platform, gate: Gate, ending: str
) -> None:
    """Prefect did not hear that the run was Completed, so it is executed again, with the source down by then.

    Nothing is loaded a second time, and the run says so; but who retries it once it is Completed gets a load.
    """
    flow_run_id = platform.accept()
    process = platform.execute(flow_run_id, PREFECT_API_URL=gate.url)
    assert gate.held.wait(RUN_SECONDS), "the run does not come to its end"
    [load] = platform.query("SELECT id, checksum FROM loads")
    if ending == "killed":
        signal_pod(process, signal.SIGKILL)
        process.communicate()
        platform.reschedule(flow_run_id)
    else:
        process.terminate()
        _, stderr = process.communicate(timeout=RUN_SECONDS)
        assert platform.run(flow_run_id)["state_name"] == "AwaitingRetry", stderr
    platform.source.put("/faults", json={"kind": "status", "status": 503})

    _, stderr = platform.execute(flow_run_id).communicate(timeout=RUN_SECONDS)
    state = platform.run(flow_run_id)["state"]
    assert state["name"] == "Completed", stderr
    assert "already loaded by an earlier attempt" in state["message"]
    assert "lready loaded by an earlier attempt" in platform.artifact(flow_run_id)
    said = [line["by_earlier_attempt"] for line in platform.log_lines(flow_run_id) if line["step"] == "load"]
    assert said[-1] is True
    assert platform.query("SELECT id, checksum FROM loads") == [load]

    if ending == "killed":
        platform.source.delete("/faults")
        platform.reschedule(flow_run_id)
        _, stderr = platform.execute(flow_run_id).communicate(timeout=RUN_SECONDS)
        assert platform.run(flow_run_id)["state_name"] == "Completed", stderr
        assert platform.query("SELECT checksum FROM loads") == [load[1:], load[1:]]


async def end_a_waiting_load(warehouse: str) -> None:
    """Hold the day's lock until a load waits for it, end that load's connection as a shutdown does, and let go."""
    connection = await asyncpg.connect(warehouse)
    try:
        await connection.execute("SELECT pg_advisory_lock($1::int, $2::int)", LOCK_SPACE, DAY.toordinal())
        deadline = time.monotonic() + RUN_SECONDS
        while not await connection.fetchval(
            "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_locks"
            " WHERE locktype = 'advisory' AND classid = $1 AND NOT granted",
            LOCK_SPACE,
        ):
            assert time.monotonic() < deadline, "no load came to wait for the day's lock"
            await asyncio.sleep(0.1)
    finally:
        await connection.close()


def test_a_warehouse_that_goes_away_in_the_middle_of_a_load_is_outlasted(platform: Platform) -> None:
    """The load's connection ends; the run begins it again, is Completed, and has loaded once."""
    platform.slow_source(2)
    flow_run_id = platform.accept()
    process = platform.execute(flow_run_id)
    platform.has_begun(process)
    asyncio.run(end_a_waiting_load(platform.warehouse))
    _, stderr = process.communicate(timeout=RUN_SECONDS)
    assert platform.run(flow_run_id)["state_name"] == "Completed", stderr
    assert platform.query("SELECT count(*) FROM loads") == [(1,)]
    [away] = [line for line in platform.log_lines(flow_run_id) if line["step"] == "warehouse away"]
    assert "terminating connection" in away["reason"]


def test_sigterm_at_any_moment_gives_the_run_back(platform: Platform) -> None:
    """Ten runs are evicted at moments drawn from a run's length: each ends Completed, with one rerun at most, and
    has loaded its day once.
    """
    platform.slow_source(1)
    started = time.monotonic()
    _, stderr = platform.execute(platform.accept()).communicate(timeout=RUN_SECONDS)
    length = time.monotonic() - started
    assert platform.query("SELECT count(*) FROM loads") == [(1,)], stderr

    def evict(n: int, moment: float) -> tuple[str, float, str]:
        flow_run_id = platform.accept(DAY + timedelta(days=1 + n))
        platform.submit(flow_run_id)
        process = platform.execute(flow_run_id)
        time.sleep(moment)
        process.terminate()
        _, stderr = process.communicate(timeout=RUN_SECONDS)
        left = platform.run(flow_run_id)["state_name"]
        # a process in which Python has not begun cannot hand back: the run waits as it did, and others find it so
        possible = {0: {"Completed", "AwaitingRetry"}, -signal.SIGTERM: {"Pending"}}[process.returncode]
        assert left in possible, f"after {moment:.2f} s: {process.returncode}, {left}\n{stderr}"
        if left == "Pending":
            platform.reschedule(flow_run_id)
        if left != "Completed":
            _, stderr = platform.execute(flow_run_id).communicate(timeout=RUN_SECONDS)
        assert platform.run(flow_run_id)["state_name"] == "Completed", f"after {moment:.2f} s\n{stderr}"
        return flow_run_id, moment, left

    # half of the moments lie in the first third, in which Prefect does not listen yet
    chance = random.Random(SEED)  # noqa: S311 - repeatable, not secret
    moments = [length * chance.uniform(0, 1 if n % 2 else 1 / 3) for n in range(10)]
    with ThreadPoolExecutor(2) as pool:
        seen = list(pool.map(evict, range(10), moments))
    loads = platform.query("SELECT flow_run_id::text, count(*) FROM loads WHERE logical_date > $1 GROUP BY 1", DAY)
    assert sorted(loads) == sorted((flow_run_id, 1) for flow_run_id, *_ in seen)
    assert "AwaitingRetry" in {left for *_, left in seen}, seen
