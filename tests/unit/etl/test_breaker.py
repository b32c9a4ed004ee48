"""The shared breaker on a real PostgreSQL: processes that meet in its row, and the hand that holds it open."""

import asyncio
import json
import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import httpx
import pytest
from etl.announce import VARIABLE, announce
from etl.breaker import Breaker
from etl.circuit import Admission, Circuit, Rule, failed
from etl.errors import CircuitOpen, EtlError, SourceRefused, SourceUnavailable
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

RULE = Rule(failures_to_open=2, open_for=timedelta(0))

# A process of the fleet: it waits until all are there, then asks to be let in.
CALLER = """
import asyncio, sys
from datetime import timedelta
from typing import Any
from etl.breaker import Breaker
from etl.circuit import Rule
from etl.errors import CircuitOpen
breaker = Breaker(warehouse_url=sys.argv[1], rule=Rule(failures_to_open=2, open_for=timedelta(0)))
print("ready", flush=True)
sys.stdin.readline()
try:
    print("probe" if asyncio.run(breaker.admit()).probe else "call")
except CircuitOpen:
    print("refused")
"""


@pytest.fixture
def breaker(warehouse: str) -> Breaker:
    return Breaker(warehouse_url=warehouse, rule=RULE)


async def attempt(breaker: Breaker, error: BaseException | None = None) -> Admission:
    async with breaker.passing() as admission:
        if error is not None:
            raise error
    return admission


async def state(breaker: Breaker) -> str:
    return (await breaker.change(lambda now, _: now)).state


async def open_it(breaker: Breaker) -> None:
    for _ in range(RULE.failures_to_open):
        with pytest.raises(SourceUnavailable):
            await attempt(breaker, SourceUnavailable("down"))
    assert await state(breaker) == "open"


async def test_failures_open_it_for_everybody(breaker: Breaker, warehouse: str) -> None:
    """Failures of two processes in a row open the circuit; a third is told why, and sends nothing."""
    changes: list[tuple[str, str]] = []

    async def changed(before: Circuit, after: Circuit) -> None:
        changes.append((before.state, after.state))

    patient = Rule(failures_to_open=2, open_for=timedelta(minutes=5))
    other = Breaker(warehouse_url=warehouse, rule=patient, listener=changed)
    with pytest.raises(SourceUnavailable):
        await attempt(breaker, SourceUnavailable("down"))
    with pytest.raises(TimeoutError):
        await attempt(other, TimeoutError("slow"))
    assert changes == [("closed", "open")]
    with pytest.raises(CircuitOpen, match=r"open after TimeoutError: slow; the next probe is due at \d{4}-"):
        await attempt(other)


@pytest.mark.parametrize("error", [SourceRefused("404"), None])
async def test_an_answer_ends_the_row_of_failures(breaker: Breaker, error: EtlError | None) -> None:
    """A refusal shows a living source as well as a day does."""
    for _ in range(3):
        with pytest.raises(SourceUnavailable):
            await attempt(breaker, SourceUnavailable("down"))
        try:
            await attempt(breaker, error)
        except SourceRefused:
            assert error is not None
    assert await state(breaker) == "closed"


async def test_a_cancelled_run_says_nothing(breaker: Breaker) -> None:
    """Cancellations neither open the circuit nor end a row of failures."""
    with pytest.raises(SourceUnavailable):
        await attempt(breaker, SourceUnavailable("down"))
    for _ in range(3):
        with pytest.raises(asyncio.CancelledError):
            await attempt(breaker, asyncio.CancelledError())
    assert await state(breaker) == "closed"
    with pytest.raises(SourceUnavailable):
        await attempt(breaker, SourceUnavailable("down"))
    assert await state(breaker) == "open"


async def test_of_a_fleet_one_probes(breaker: Breaker, warehouse: str) -> None:
    """Six processes come to an open circuit at the same moment: one is let in."""
    await open_it(breaker)
    command = [sys.executable, "-c", CALLER, warehouse]
    fleet = [
        await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(6)
    ]
    async with asyncio.timeout(60):
        for process in fleet:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        said = await asyncio.gather(*(process.communicate(b"go\n") for process in fleet))
    assert sorted(out for out, _ in said) == [b"probe\n", *[b"refused\n"] * 5]
    assert await state(breaker) == "half-open"


async def test_the_probe_decides(breaker: Breaker) -> None:
    """A failed probe keeps the circuit open, and its run is told so; one that works closes it."""
    await open_it(breaker)
    with pytest.raises(CircuitOpen, match="its probe failed: SourceUnavailable: still down"):
        await attempt(breaker, SourceUnavailable("still down"))
    assert await state(breaker) == "open"
    assert (await attempt(breaker)).probe
    assert await state(breaker) == "closed"


async def test_a_late_result_changes_nothing(breaker: Breaker) -> None:
    """A run admitted before the circuit opened and closed again reports its failure: no trace of it in the row."""
    early = await breaker.admit()
    await open_it(breaker)
    await attempt(breaker)
    before = await breaker.change(lambda now, _: now)
    assert await breaker.change(lambda now, at: failed(now, early, RULE, at, "late")) == before


async def test_a_row_keeps_the_whole_circuit(breaker: Breaker, warehouse: str) -> None:
    """What one process writes another reads, times and reason included."""
    await open_it(breaker)
    await breaker.admit()
    written: list[Circuit] = []
    await breaker.change(lambda now, _: (written.append(now), now)[1])
    [present] = written
    assert (present.state, present.generation, present.isolated) == ("half-open", 2, False)
    assert len(present.failures) == RULE.failures_to_open
    assert present.reason == "SourceUnavailable: down"
    assert present.probe_until is not None
    assert present.opened_at is not None
    assert present.probe_until - present.opened_at >= RULE.probe_for


async def test_by_hand(breaker: Breaker, warehouse: str) -> None:
    """isolate holds it open past any pause and says how to end that; reset closes it."""

    async def command(*arguments: str) -> dict[str, object]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "etl.breaker", *arguments),
            env={**os.environ, "ETL_WAREHOUSE_URL": warehouse},
            stdout=subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0
        shown: dict[str, object] = json.loads(out)
        return shown

    assert (await command("isolate", "--reason", "moving house"))["isolated"] is True
    with pytest.raises(
        CircuitOpen, match=r"isolated by hand \(moving house\); reset it with: python -m etl.breaker reset"
    ):
        await attempt(breaker)
    assert (await command("show"))["state"] == "open"
    assert (await command("reset"))["state"] == "closed"
    assert not (await attempt(breaker)).probe


async def test_prefect_is_told_of_each_change(prefect_server: str, warehouse: str) -> None:
    """By whoever brought it about, a hand included; who is late with an older state is put right."""

    async def told(before: Circuit, after: Circuit) -> None:
        await announce(breaker)

    def variable() -> Any:
        return httpx.get(f"{prefect_server}/variables/name/{VARIABLE}", trust_env=False).json()["value"]

    breaker = Breaker(warehouse_url=warehouse, rule=RULE, listener=told)
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        await open_it(breaker)
        assert (variable()["state"], variable()["reason"]) == ("open", "SourceUnavailable: down")
        await attempt(breaker)
        assert variable()["state"] == "closed"
        await asyncio.gather(*(announce(breaker) for _ in range(4)), open_it(breaker))
        assert variable()["state"] == "open"
    command = [sys.executable, "-m", "etl.breaker", "reset"]
    environment = {**os.environ, "ETL_WAREHOUSE_URL": warehouse, "PREFECT_API_URL": prefect_server}
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, timeout=60, check=True
    )
    assert variable()["state"] == json.loads(done.stdout)["state"] == "closed"


async def test_a_prefect_that_is_away_holds_nothing_up(warehouse: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The circuit changes all the same; one line says that Prefect was not told."""
    unheard = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(unheard):
        await announce(Breaker(warehouse_url=warehouse, rule=RULE))
    assert "Prefect did not hear of the breaker source" in capsys.readouterr().err
