"""The schema's history on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from orchestrator import migrations
from orchestrator.errors import LedgerUnavailable, SchemaMismatch
from orchestrator.ledger.connection import open_ledger
from orchestrator.ledger.tables import metadata
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from .conftest import Postgres

Open = Callable[[str], AsyncEngine]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Opens ledgers that are closed after the test."""
    engines: list[AsyncEngine] = []

    def made(url: str) -> AsyncEngine:
        engines.append(open_ledger(url))
        return engines[-1]

    yield made
    for engine in engines:
        await engine.dispose()


async def test_migrations_make_exactly_the_tables(db: AsyncEngine) -> None:
    """The history and `tables` say the same, index by index."""

    def difference(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata))

    async with db.begin() as connection:
        assert await connection.run_sync(difference) == []
        indexes = await connection.execute(text("SELECT count(*) FROM pg_indexes WHERE indexname LIKE 'run%'"))
        assert indexes.scalar_one() == 19
    await migrations.check(db)


async def test_several_pods_may_migrate_at_once(postgres: Postgres, opened: Open) -> None:
    """One does the work, the others find it done."""
    url = postgres.create_database()
    revisions = await asyncio.gather(*(migrations.upgrade(opened(url), seconds=20) for _ in range(4)))
    assert set(revisions) == {migrations.head()}
    assert await migrations.upgrade(opened(url), seconds=5) == migrations.head()


async def test_check_waits_for_the_migration(postgres: Postgres, opened: Open) -> None:
    """It passes once another pod has migrated, and fails by its deadline when none does."""
    url = postgres.create_database()
    db = opened(url)
    with pytest.raises(SchemaMismatch, match=f"revision none, this image needs {migrations.head()}"):
        await migrations.wait(db, seconds=0.1)
    await asyncio.gather(migrations.wait(db, seconds=20), migrations.upgrade(opened(url), seconds=20))


async def test_a_newer_schema_is_refused_naming_both(db: AsyncEngine) -> None:
    """An older image neither migrates nor waits on it."""
    async with db.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    both = f"9999.*{migrations.head()}"
    with pytest.raises(SchemaMismatch, match=both):
        await migrations.upgrade(db, seconds=5)
    began = asyncio.get_running_loop().time()
    with pytest.raises(SchemaMismatch, match=both):
        await migrations.wait(db, seconds=60)
    assert asyncio.get_running_loop().time() - began < 5


async def test_without_a_database_the_wait_has_an_end(opened: Open) -> None:
    """Both give up by their deadline and say what is away."""
    db = opened("postgresql://nobody@127.0.0.1:1/none")
    for attempt in (migrations.wait(db, seconds=0.1), migrations.upgrade(db, seconds=0.1)):
        with pytest.raises(LedgerUnavailable, match="cannot be reached"):
            await attempt
