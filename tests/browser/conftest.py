"""A real orchestrator process on a real ledger, Prefect played at the wire, and Chromium driven by Playwright.

Without Chromium or Playwright these tests skip and say which is missing; with REQUIRE_BROWSER=1 that is a failure.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import pytest
from orchestrator import migrations
from orchestrator.ledger.connection import open_ledger
from orchestrator.ledger.tables import runs
from sqlalchemy import insert

from tests.conftest import Postgres
from tests.unit.orchestrator.mornings import a_run, yesterday
from tests.unit.orchestrator.wire import PrefectWire

from . import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser

READY_SECONDS = 300  # a busy machine takes its time to import
SETTLE_SECONDS = 30
OTHERS = {"billing": "invoices/daily", "weather": "weather/daily"}
YESTERDAY = yesterday(lasting=timedelta(minutes=4))  # what all these tests take
RED = YESTERDAY - timedelta(days=9)  # a day that failed and was left, too long ago to be told first
LAST_LINE = "etl.errors.SourceUnavailable: GET http://source:8090/flights answered 503 three times"

T = TypeVar("T")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [one for one in items if Path(__file__).parent in one.path.parents]
    reason = chromium.missing() if mine else None
    if reason is None:
        return
    if chromium.required():
        raise pytest.UsageError(f"REQUIRE_BROWSER=1, but {reason}")
    for item in mine:
        item.add_marker(pytest.mark.skip(reason=f"no browser: {reason}"))


class Wire(PrefectWire):
    """Prefect with a deployment for each of several pipelines; only the first one's runs are made here."""

    def _get(self, path: str, query: httpx.QueryParams) -> httpx.Response | None:
        name = path.removeprefix("/deployments/name/")
        if self.deployment and name in OTHERS.values():
            number = 1 + list(OTHERS.values()).index(name)
            return httpx.Response(200, json=self.deployment | {"id": f"00000000-0000-4000-8000-{number:012}"})
        return super()._get(path, query)


@contextmanager
def listening(wire: PrefectWire) -> Iterator[str]:
    """The wire as a server on a port; its API's URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            with lock:
                answer = wire.answer(httpx.Request(self.command, f"http://prefect{self.path}", content=body))
            self.send_response(answer.status_code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET  # noqa: N815 -- as the base class calls it

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's name
            """Nothing."""

    lock = threading.Lock()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def eventually(look: Callable[[], T | None], *, within: float, what: str) -> T:
    deadline = time.monotonic() + within
    while not (found := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within:g} s: {what}")
        time.sleep(0.1)
    return found


def waited(work: Coroutine[Any, Any, None]) -> None:
    """Do it in a thread of its own: in this one Playwright's loop may run."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


async def migrated(database: str) -> None:
    """The ledger's tables."""
    db = open_ledger(database, statement_seconds=None)
    try:
        await migrations.upgrade(db, seconds=READY_SECONDS)
    finally:
        await db.dispose()


@contextmanager
def serving(database: str, prefect: str, folder: Path, **more: str) -> Iterator[str]:
    """`python -m orchestrator serve`; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    pipelines = {"etl": "daily_job/daily-0900"} | OTHERS
    told = {
        "DATABASE_URL": database,
        "PREFECT_API_URL": prefect,
        "PREFECT_UI_URL": "http://localhost:4200",
        "PIPELINES": json.dumps([{"name": name, "deployment": one} for name, one in pipelines.items()]),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "POLL_SECONDS": "0.2",
        "WORKER_QUERY_SECONDS": "1",
    } | more
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
    environment = clean | {f"ORCHESTRATOR_{name}": value for name, value in told.items()}
    waited(migrated(database))
    log = folder / f"orchestrator-{port}.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "orchestrator", "serve"]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"{url}/readyz", trust_env=False).is_success
        except httpx.TransportError:
            return False

    try:
        eventually(ready, within=READY_SECONDS, what="the orchestrator is ready")
        yield url
    finally:
        process.terminate()
        process.wait(READY_SECONDS)


@dataclass(frozen=True, kw_only=True)
class Morning:
    """A platform in the morning: yesterday failed, another pipeline is degraded, and a run is stuck."""

    url: str
    wire: Wire
    failed: str
    stuck: str
    degraded: str

    @property
    def pages(self) -> list[str]:
        """One of each kind."""
        below = f"{self.url}/pipelines/etl"
        runs_of = [f"{below}/runs/{self.failed}", f"{below}/runs/{self.stuck}"]
        return [f"{self.url}/", below, f"{below}/{YESTERDAY}", *runs_of, f"{self.url}/sign-in", f"{below}/nothing"]


def fill(database: str) -> str:
    """A year of days that went well, but for some; the run that is degraded."""
    rows = []
    degraded = a_run("billing", YESTERDAY, state_name="Degraded", message="kept the 1,204 invoices loaded before")
    for name in ("etl", *OTHERS):
        for number in range(1, 330):
            red = number % 97 == 40 or (name == "etl" and YESTERDAY - timedelta(days=number) == RED)
            state = "Failed" if red else "Cancelled" if number % 151 == 60 else "Completed"
            if not (name == "weather" and 70 < number < 75) and not (name == "etl" and number == 3):
                rows.append(a_run(name, YESTERDAY - timedelta(days=number), state))
    rows += [degraded, a_run("weather", YESTERDAY)]

    async def keep() -> None:
        db = open_ledger(database)
        try:
            async with db.begin() as connection:
                await connection.execute(insert(runs), rows)
        finally:
            await db.dispose()

    waited(keep())
    return str(degraded["run_id"])


def begun(api: httpx.Client, day: date) -> tuple[str, str]:
    """A run of that day that Prefect has: its id and its flow run's."""
    answer = api.post("/api/etl/start", json={"logical_date": f"{day}"}).raise_for_status()
    run_id = answer.json()["run_id"]
    flow_run = eventually(
        lambda: api.get(f"/api/etl/status/{run_id}").json()["flow_run_id"], within=SETTLE_SECONDS, what="a flow run"
    )
    return run_id, flow_run


def has_reason(api: httpx.Client, run_id: str) -> None:
    eventually(
        lambda: api.get(f"/api/etl/status/{run_id}").json()["reason"], within=SETTLE_SECONDS, what=f"why {run_id}"
    )


@pytest.fixture(scope="session")
def morning(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Morning]:
    """The platform, once for all."""
    folder = tmp_path_factory.mktemp("browser")
    database = postgres.create_database()
    wire = Wire()
    with listening(wire) as prefect, serving(database, prefect, folder) as url:
        degraded = fill(database)
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as api:
            failed, flow_run = begun(api, YESTERDAY)
            wire.move(flow_run, "RUNNING")
            wire.say(flow_run, f'{{"step": "start", "logical_date": "{YESTERDAY}"}}')
            wire.say(flow_run, "GET http://source:8090/flights answered 503; trying again in 2 s", level=30)
            wire.say(flow_run, f"Encountered an exception during execution:\nTraceback …\n{LAST_LINE}", level=40)
            wire.leave(flow_run, "markdown", "## Rows\n\n| good | bad |\n|--|--|\n| 0 | 0 |\n", key="daily-job")
            wire.leave(flow_run, "table", '[{"try": 1, "status": 503}, {"try": 2, "status": 503}]', key="tries")
            wire.move(
                flow_run,
                "FAILED",
                message=f"Flow run encountered an exception: {LAST_LINE}",
            )
            stuck, waiting = begun(api, YESTERDAY - timedelta(days=3))
            past = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
            wire.add_pool(queues=())
            wire.pools["pipelines"]["queues"] = {
                "default": {"name": "default", "is_paused": False, "last_polled": past}
            }
            wire.pools["pipelines"]["workers"] = [{"name": "worker-1", "last_heartbeat_time": past}]
            wire.flow_runs[waiting] |= {
                "work_pool_name": "pipelines",
                "work_queue_name": "default",
                "expected_start_time": past,
                "next_scheduled_start_time": past,
            }
            has_reason(api, failed)
            has_reason(api, stuck)
        yield Morning(url=url, wire=wire, failed=failed, stuck=stuck, degraded=degraded)


@pytest.fixture(scope="session")
def browser(morning: Morning) -> Iterator["Browser"]:
    """Chromium. After the platform: Playwright's own loop runs from here on."""
    with chromium.running() as browser:
        yield browser


@pytest.fixture
def page(browser: "Browser") -> Iterator[Any]:
    """A page of a laptop's size, with scripts."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    yield context.new_page()
    context.close()


@pytest.fixture
def plain(browser: "Browser") -> Iterator[Any]:
    """The same without scripts."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, java_script_enabled=False)
    yield context.new_page()
    context.close()
