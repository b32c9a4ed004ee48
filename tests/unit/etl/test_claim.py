"""Claims on a real PostgreSQL: who may execute a run, for how long, and who takes over."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from etl import claim
from etl.errors import ClaimLost

DAY = date(2026, 1, 15)
FIRST_ATTEMPT = datetime(2026, 1, 16, 9, tzinfo=UTC)
SECOND_ATTEMPT = FIRST_ATTEMPT + timedelta(minutes=5)

# A holder in a process of its own: it claims, says so, and keeps the claim alive until it is killed.
HOLDER = """
import asyncio, sys, time
from datetime import datetime
from uuid import UUID
from etl import claim
url, flow_run_id, attempt = sys.argv[1:]
mine = asyncio.run(claim.take(url, flow_run_id=UUID(flow_run_id), attempt=datetime.fromisoformat(attempt)))
print("nothing" if mine is None else mine.fence, flush=True)
if mine is not None:
    with claim.kept_alive(url, mine, every_seconds=0.1, lease_seconds=1.0):
        time.sleep(60)
"""


@pytest.fixture(autouse=True)
def no_ticket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(claim.TICKET, raising=False)


async def execute(url: str, query: str, *values: Any) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query, *values)
    finally:
        await connection.close()


async def lapse(url: str) -> None:
    """Let every lease run out, as time does."""
    await execute(url, "UPDATE claims SET lease_until = clock_timestamp() - interval '1 s'")


def hold(url: str, flow_run_id: UUID, attempt: datetime) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, url, str(flow_run_id), attempt.isoformat()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def test_of_processes_at_once_one_executes(warehouse: str) -> None:
    """Eight processes that start one attempt together: one has the claim, seven have nothing to do."""
    flow_run_id = uuid4()
    takes = [claim.take(warehouse, flow_run_id=flow_run_id, attempt=FIRST_ATTEMPT) for _ in range(8)]
    taken = await asyncio.gather(*takes)
    assert sum(mine is not None for mine in taken) == 1
    assert await execute(warehouse, "SELECT count(*) FROM claims") == 1


async def test_a_rerun_takes_over_at_once(warehouse: str) -> None:
    """A run that Prefect scheduled anew is taken over although the first attempt's lease is live; not the other way."""
    flow_run_id = uuid4()
    first = await claim.take(warehouse, flow_run_id=flow_run_id, attempt=FIRST_ATTEMPT)
    second = await claim.take(warehouse, flow_run_id=flow_run_id, attempt=SECOND_ATTEMPT)
    assert first is not None
    assert second is not None
    assert second.fence > first.fence
    assert await claim.is_outdated(warehouse, first)
    assert not await claim.is_outdated(warehouse, second)
    assert await claim.take(warehouse, flow_run_id=flow_run_id, attempt=FIRST_ATTEMPT) is None


async def test_other_runs_do_not_matter(warehouse: str) -> None:
    """Each flow run is claimed for itself."""
    assert await claim.take(warehouse, flow_run_id=uuid4(), attempt=FIRST_ATTEMPT) is not None
    assert await claim.take(warehouse, flow_run_id=uuid4(), attempt=FIRST_ATTEMPT) is not None


async def test_a_killed_holders_claim_can_be_taken(warehouse: str) -> None:
    """While the holder beats, its attempt is its own, past its first lease; after a SIGKILL the lease runs out."""
    flow_run_id = uuid4()
    with hold(warehouse, flow_run_id, FIRST_ATTEMPT) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline().strip().isdecimal()
            deadline = time.monotonic() + 10
            # the first beat replaces the long lease of the start by the short one
            while await execute(warehouse, "SELECT lease_until - claimed_at > interval '60 s' FROM claims"):
                assert time.monotonic() < deadline, "the holder's heartbeat did not come within 10 s"
                await asyncio.sleep(0.05)
            outlived = await execute(warehouse, "SELECT lease_until FROM claims")
            while await execute(warehouse, "SELECT clock_timestamp() < $1", outlived):
                assert await claim.take(warehouse, flow_run_id=flow_run_id, attempt=FIRST_ATTEMPT) is None
                await asyncio.sleep(0.1)
            with hold(warehouse, flow_run_id, FIRST_ATTEMPT) as duplicate:
                assert duplicate.communicate(timeout=20)[0].strip() == "nothing"
        finally:
            os.kill(holder.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while (await claim.take(warehouse, flow_run_id=flow_run_id, attempt=FIRST_ATTEMPT)) is None:
        assert time.monotonic() < deadline, "the dead holder's lease of 1 s did not run out within 10 s"
        await asyncio.sleep(0.05)


async def test_the_flow_continues_the_claim_of_its_start(warehouse: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ticket is the claim: the date is added to it, no second one is made."""
    flow_run_id = uuid4()
    taken = await claim.take(warehouse, flow_run_id=flow_run_id, attempt=FIRST_ATTEMPT)
    assert taken is not None
    monkeypatch.setenv(claim.TICKET, str(taken.fence))
    mine = await claim.claim_date(warehouse, flow_run_id=flow_run_id, run_id=flow_run_id, logical_date=DAY)
    assert mine == taken
    assert await execute(warehouse, "SELECT logical_date FROM claims") == DAY


async def test_another_runs_ticket_is_no_claim(warehouse: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that executes several runs takes a claim for each."""
    taken = await claim.take(warehouse, flow_run_id=uuid4(), attempt=FIRST_ATTEMPT)
    assert taken is not None
    monkeypatch.setenv(claim.TICKET, str(taken.fence))
    other = uuid4()
    mine = await claim.claim_date(warehouse, flow_run_id=other, run_id=other, logical_date=DAY)
    assert mine.fence > taken.fence
    assert mine.flow_run_id == other


async def test_a_flow_that_begins_too_late_has_lost(warehouse: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the claim of the start and the flow's first line another took over: the flow does not begin."""
    flow_run_id = uuid4()
    taken = await claim.take(warehouse, flow_run_id=flow_run_id, attempt=FIRST_ATTEMPT)
    assert taken is not None
    await lapse(warehouse)
    assert await claim.take(warehouse, flow_run_id=flow_run_id, attempt=FIRST_ATTEMPT) is not None
    monkeypatch.setenv(claim.TICKET, str(taken.fence))
    with pytest.raises(ClaimLost, match="a later attempt of this run"):
        await claim.claim_date(warehouse, flow_run_id=flow_run_id, run_id=flow_run_id, logical_date=DAY)
