"""Which parts the platform has, how each is started, and when each counts as ready."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx

from local_platform.database import database_url, open_server
from local_platform.errors import PartFailed
from local_platform.pipelines import Pipeline
from local_platform.ports import HOST
from local_platform.processes import Echo, Processes

_READY_WITHIN_SECONDS = 120.0
_WORK_POOL = "pipelines"

_PYTHON = sys.executable
_PREFECT = str(Path(sys.executable).with_name("prefect"))


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the parts listen on 127.0.0.1."""

    prefect: int
    orchestrator: int
    source: int


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The running platform, as its users reach it."""

    api_url: str
    prefect_url: str
    source_url: str
    warehouse_url: str
    processes: Processes


class Steps(Protocol):
    """Shows the steps of the start-up to whoever waits."""

    def step(self, title: str) -> AbstractContextManager[None]:
        """A step that lasts as long as the block."""
        ...


@asynccontextmanager
async def run_stack(
    *,
    state: Path,
    ports: Ports,
    postgres_url: str | None,
    pipelines: Sequence[Pipeline],
    steps: Steps,
    echo: Echo | None = None,
) -> AsyncIterator[Stack]:
    """Start every part and register the pipelines' deployments; stop all of it when the block ends.

    Raises:
        PartFailed: a part ended, or was not ready in time.
    """
    prefect_url, api_url, source_url = (f"http://{HOST}:{p}" for p in (ports.prefect, ports.orchestrator, ports.source))
    async with AsyncExitStack() as stack:
        with steps.step("PostgreSQL"):
            server_url = await stack.enter_async_context(open_server(state, postgres_url))
        processes = await stack.enter_async_context(Processes(state, echo=echo))
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=5))
        databases = {name: database_url(server_url, name) for name in ("prefect", "orchestrator", "warehouse")}
        prefect = _prefect_environment(state, prefect_url)
        etl = {"ETL_SOURCE_URL": source_url, "ETL_WAREHOUSE_URL": databases["warehouse"], **prefect}
        orchestrator = {
            "ORCHESTRATOR_DATABASE_URL": databases["orchestrator"],
            "ORCHESTRATOR_PREFECT_API_URL": f"{prefect_url}/api",
            "ORCHESTRATOR_PIPELINES": json.dumps([pipeline.offered for pipeline in pipelines]),
            "ORCHESTRATOR_PREFECT_UI_URL": prefect_url.replace(HOST, "localhost"),
            "ORCHESTRATOR_HOST": HOST,
            "ORCHESTRATOR_PORT": str(ports.orchestrator),
            "ORCHESTRATOR_POLL_SECONDS": "1",
        }

        # The slow part first; what needs no Prefect server starts beside it.
        await processes.start(
            "prefect-server",
            [_PREFECT, "server", "start", "--host", HOST, "--port", str(ports.prefect)],
            {**prefect, **_prefect_server_environment(databases["prefect"], prefect_url)},
        )
        await processes.start(
            "source", [_PYTHON, "-m", "source"], {"SOURCE_HOST": HOST, "SOURCE_PORT": str(ports.source)}
        )
        with steps.step("database schemas"):
            await processes.run("orchestrator-migrate", [_PYTHON, "-m", "orchestrator", "migrate"], orchestrator)
            await processes.run("etl-migrate", [_PYTHON, "-m", "etl.migrate"], etl)
        with steps.step("Prefect server"):
            await _ready(client, f"{prefect_url}/api/ready", "prefect-server", processes)
        with steps.step(" ".join(["deployment", *(pipeline.offered["deployment"] for pipeline in pipelines)])):
            config = state / "registration.json"
            config.write_text(json.dumps({"deployments": [pipeline.deployment for pipeline in pipelines]}))
            await processes.run("etl-deploy", [_PYTHON, "-m", "etl.deploy", "--config", str(config)], etl)
        with steps.step("source, worker, orchestrator"):
            await processes.start("worker", [_PREFECT, "worker", "start", "--pool", _WORK_POOL, "--name", "local"], etl)
            await processes.start("orchestrator", [_PYTHON, "-m", "orchestrator", "serve"], orchestrator)
            await _ready(client, f"{source_url}/healthz", "source", processes)
            await _ready(client, f"{api_url}/readyz", "orchestrator", processes)
        yield Stack(
            api_url=api_url,
            prefect_url=prefect_url,
            source_url=source_url,
            warehouse_url=databases["warehouse"],
            processes=processes,
        )


def _prefect_environment(state: Path, prefect_url: str) -> Mapping[str, str]:
    return {
        "PREFECT_HOME": str(state / "prefect"),
        "PREFECT_API_URL": f"{prefect_url}/api",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        # as etl.start sets it in a pod: the registration has runs ended whose heartbeat does not come
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        # Prefect answers 500 while its database is away; without these codes its clients give up a run's last state.
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500,504",
        "DO_NOT_TRACK": "1",
    }


def _prefect_server_environment(database: str, prefect_url: str) -> Mapping[str, str]:
    return {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.replace("postgresql://", "postgresql+asyncpg://", 1),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_UI_API_URL": f"{prefect_url}/api",
    }


async def _ready(client: httpx.AsyncClient, url: str, part: str, processes: Processes) -> None:
    deadline = time.monotonic() + _READY_WITHIN_SECONDS
    answer = "no answer yet"
    while time.monotonic() < deadline:
        processes.check()
        try:
            response = await client.get(url)
        except httpx.TransportError as exc:
            answer = type(exc).__name__
        else:
            if response.is_success:
                return
            answer = f"{response.status_code} {response.text[:200]}"
        await asyncio.sleep(0.1)
    raise PartFailed(part, f"not ready after {_READY_WITHIN_SECONDS:g} s: {url}: {answer}", processes.log(part))
