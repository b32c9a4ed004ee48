"""The warehouse's schema is never touched by an image that does not know it."""

import asyncpg
import pytest
from etl.errors import SchemaTooNew
from etl.migrate import migrate_within


async def revision(warehouse: str) -> str:
    connection = await asyncpg.connect(warehouse)
    try:
        return str(await connection.fetchval("SELECT version_num FROM alembic_version"))
    finally:
        await connection.close()


async def test_a_newer_schema_is_refused_naming_both(warehouse: str) -> None:
    """As after a rollback: at once, with what it found, what it knows and what to do; the schema stays as it is."""
    ours = await revision(warehouse)
    connection = await asyncpg.connect(warehouse)
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    await connection.close()
    with pytest.raises(SchemaTooNew, match=rf"at revision 9999.*ends at {ours}.*at least as new"):
        await migrate_within(warehouse, wait_seconds=60)
    assert await revision(warehouse) == "9999"
