"""Prefect's schema as the server's image meets it: none, older, its own, a newer one, and no database at all."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import prefect_schema
import pytest
from prefect_schema import NewerSchema, NotReady, until
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.conftest import Postgres

KNOWN = ["one", "two", "three"]
SCRIPT = Path(prefect_schema.__file__)


def asyncpg(url: str) -> str:
    return url.replace("postgresql://", "postgresql+asyncpg://", 1)


async def have(url: str, revision: str) -> None:
    """Leave the database as a migration would: with its revision written down."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE IF NOT EXISTS alembic_version (version_num varchar(32))"))
        await connection.execute(text("DELETE FROM alembic_version"))
        await connection.execute(text("INSERT INTO alembic_version VALUES (:it)"), {"it": revision})
    await engine.dispose()


async def look(url: str, *, seconds: float = 0.0, migrated: bool = True) -> str | None:
    engine = create_async_engine(url, connect_args={"timeout": 2})
    try:
        return await until(engine, KNOWN, seconds=seconds, migrated=migrated)
    finally:
        await engine.dispose()


@pytest.fixture
def url(postgres: Postgres) -> str:
    return asyncpg(postgres.create_database())


async def test_an_empty_database_may_be_migrated_but_not_used(url: str) -> None:
    """The migration begins; the server waits, and says for what."""
    assert await look(url, migrated=False) is None
    with pytest.raises(NotReady, match="not at all, and three is awaited"):
        await look(url)


async def test_an_older_database_may_be_migrated_but_not_used(url: str) -> None:
    await have(url, "one")
    assert await look(url, migrated=False) == "one"
    with pytest.raises(NotReady, match="schema one, and three is awaited"):
        await look(url)


async def test_the_server_starts_once_the_migration_is_done(url: str) -> None:
    """It waits for the revision, not for a connection."""
    await have(url, "two")
    waiting = asyncio.create_task(look(url, seconds=20))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await have(url, "three")
    assert await waiting == "three"


@pytest.mark.parametrize("migrated", [True, False])
async def test_a_newer_database_is_refused_at_once(url: str, migrated: bool) -> None:
    """By the migration and by the server, with both revisions named and no wait."""
    await have(url, "four")
    with pytest.raises(NewerSchema, match=r"schema four, which this image does not know; its newest is three"):
        await look(url, seconds=60, migrated=migrated)


async def test_a_database_that_is_away_is_waited_for(url: str) -> None:
    """And the complaint holds no password."""
    with pytest.raises(NotReady, match="does not answer") as refused:
        await look("postgresql+asyncpg://prefect:sesame@127.0.0.1:1/prefect", seconds=0.1)
    assert "sesame" not in str(refused.value)


@pytest.mark.processes
def test_the_real_migration_brings_the_newest_recorded_revision(postgres: Postgres, tmp_path: Path) -> None:
    """The build's record and Prefect's own migrations agree; a second go finds it done."""
    url = asyncpg(postgres.create_database())
    copy = tmp_path / SCRIPT.name
    copy.write_text(SCRIPT.read_text())
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PREFECT_HOME": str(tmp_path / "home"),
        prefect_schema.URL: url,
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(copy), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)

    recorded = run("record").stdout
    (tmp_path / prefect_schema.RECORD.name).write_text(recorded)
    newest = recorded.split()[-1]
    early = run("check", "--wait", "0")
    assert early.returncode == 1, early.stderr
    assert f"{newest} is awaited" in early.stderr
    first = run("migrate")
    assert first.returncode == 0, first.stderr
    assert f"none → {newest}" in first.stderr
    again = run("migrate", "--wait", "5")
    assert again.returncode == 0, again.stderr
    assert "as this image wants it" in again.stderr
    assert run("check", "--wait", "0").returncode == 0
