"""What `make demo` does with a running platform: one run started through the API, watched, and its result shown."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from rich.console import Console
from rich.table import Table

from local_platform.errors import PartFailed
from local_platform.stack import Stack

_LOG_WITHIN_SECONDS = 5.0
# What Prefect logs last of a run that its process saw to the end.
_LAST_LINE = "Finished in state "
_FINISHED_WITHIN_SECONDS = 180.0
_NOT_SHOWN = {"step", "run_id", "correlation_id", "checksum"}
_FINAL = {"Completed", "Failed", "Crashed", "Cancelled"}

_LOAD = "SELECT * FROM loads WHERE run_id = $1 ORDER BY id DESC LIMIT 1"
_CANCELLED = "SELECT count(*) FROM flights WHERE logical_date = $1 AND dep_time IS NULL"
_WORST = """
SELECT carrier || ' ' || flight AS flight, origin || ' → ' || dest AS route,
       to_char(sched_dep_time, 'FM0000') AS scheduled, dep_delay
FROM flights WHERE logical_date = $1 AND dep_delay IS NOT NULL
ORDER BY dep_delay DESC, time_hour, carrier, flight LIMIT 5
"""


async def run_once(stack: Stack, *, on_state: Callable[[str], None]) -> dict[str, Any]:
    """Start a run through the API and wait for its end; returns its last status document.

    Raises:
        PartFailed: the API refused, a part ended meanwhile, or the run did not complete.
    """
    async with (
        _named(stack),
        httpx.AsyncClient(base_url=stack.api_url, timeout=10) as client,
        httpx.AsyncClient(base_url=f"{stack.prefect_url}/api", timeout=10) as prefect,
    ):
        progress = Progress(prefect)
        accepted = await client.post("/api/etl/start", json={})
        if accepted.status_code != httpx.codes.ACCEPTED:
            raise PartFailed("orchestrator", f"refused to start a run: {accepted.text}", _log(stack, "orchestrator"))
        run_id = accepted.json()["run_id"]
        on_state(f"run {run_id} accepted")
        shown = None
        deadline = time.monotonic() + _FINISHED_WITHIN_SECONDS
        while time.monotonic() < deadline:
            stack.processes.check()
            status: dict[str, Any] = (await client.get(f"/api/etl/status/{run_id}")).raise_for_status().json()
            ended = status["state"] in _FINAL
            for step in await progress.new_steps(status["flow_run_id"], patient=ended):
                on_state(step)
            state = status["state_name"] or status["state"]
            if state != shown:
                on_state(state)
                shown = state
            if ended:
                break
            await asyncio.sleep(0.2)
        else:
            raise PartFailed(
                "worker", f"the run is still {shown} after {_FINISHED_WITHIN_SECONDS:g} s", _log(stack, "worker")
            )
    if status["state"] != "Completed":
        raise PartFailed("flow run", f"{shown}: {status['message']}", _log(stack, "worker"))
    return status


async def show_result(stack: Stack, status: dict[str, Any], console: Console) -> None:
    """Print what the run loaded, read from the warehouse itself.

    Raises:
        PartFailed: the warehouse cannot be read, or the run is Completed and it has no load of it.
    """
    try:
        load, cancelled, worst = await _read_load(stack.warehouse_url, status["run_id"])
    except (OSError, asyncpg.PostgresError) as exc:
        raise PartFailed("warehouse", f"cannot be read: {type(exc).__name__}: {exc}", _log(stack, "worker")) from exc
    if load is None:
        raise PartFailed("warehouse", f"no load of run {status['run_id']} is recorded", _log(stack, "worker"))
    console.print()
    seconds = status["duration_ms"] / 1000
    console.print(f"[bold green]{status['state']}[/] in {seconds:.1f} s: flights of {load['logical_date']}")
    console.print(f"{load['rows']} rows loaded, {load['rejected']} rejected, {cancelled} cancelled flights")
    table = Table(title="The five worst delays", title_justify="left")
    for column in ("flight", "route", "scheduled", "minutes late"):
        table.add_column(column, justify="right" if column == "minutes late" else "left")
    for row in worst:
        table.add_row(row["flight"], row["route"], row["scheduled"], str(row["dep_delay"]))
    console.print(table)


async def _read_load(warehouse_url: str, run_id: str) -> tuple[asyncpg.Record | None, int, list[asyncpg.Record]]:
    """The run's load, and of its day how many flights were cancelled and which were the latest."""
    connection = await asyncpg.connect(warehouse_url)
    try:
        load = await connection.fetchrow(_LOAD, run_id)
        day = load["logical_date"] if load is not None else None
        return load, await connection.fetchval(_CANCELLED, day), await connection.fetch(_WORST, day)
    finally:
        await connection.close()


@asynccontextmanager
async def _named(stack: Stack) -> AsyncIterator[None]:
    """Turn a call that failed into the failure of the part that was called, or of one that has ended."""
    try:
        yield
    except httpx.HTTPError as exc:
        stack.processes.check()
        url = str(exc.request.url)
        part = "orchestrator" if url.startswith(stack.api_url) else "prefect-server"
        problem = f"{exc.request.method} {url}: {type(exc).__name__}: {exc}"
        raise PartFailed(part, problem, _log(stack, part)) from exc


class Progress:
    """The step lines that the run has logged since last asked."""

    def __init__(self, prefect: httpx.AsyncClient) -> None:
        self._prefect = prefect
        self._seen = 0
        self._complete = False

    async def new_steps(self, flow_run_id: str | None, *, patient: bool = False) -> list[str]:
        """The steps since; `patient`: wait a little for the log's last line, which comes after the run's end."""
        if flow_run_id is None:
            return []
        deadline = time.monotonic() + _LOG_WITHIN_SECONDS
        steps = await self._look(flow_run_id)
        while patient and not self._complete and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            steps += await self._look(flow_run_id)
        return steps

    async def _look(self, flow_run_id: str) -> list[str]:
        logs = await self._prefect.post(
            "/logs/filter",
            json={
                "logs": {"flow_run_id": {"any_": [flow_run_id]}},
                "sort": "TIMESTAMP_ASC",
                "offset": self._seen,
                "limit": 200,
            },
        )
        messages = [entry["message"] for entry in logs.raise_for_status().json()]
        self._seen += len(messages)
        self._complete = self._complete or any(message.startswith(_LAST_LINE) for message in messages)
        return [_describe(json.loads(message)) for message in messages if message.startswith('{"step"')]


def _describe(line: dict[str, Any]) -> str:
    facts = (f"{key} {value}" for key, value in line.items() if key not in _NOT_SHOWN)
    return f"  {line['step']}: {', '.join(facts)}"


def _log(stack: Stack, part: str) -> Path:
    return stack.processes.log(part)
