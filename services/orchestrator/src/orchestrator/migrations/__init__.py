"""The schema's history, and whether a database is at the end of it. Several pods may migrate at once: one does."""

import asyncio
import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.errors import LedgerUnavailable, SchemaMismatch
from orchestrator.ledger.connection import transaction

MIGRATION_LOCK = 0x6F72_6368_0002


def head() -> str:
    """The revision this image works with."""
    revision = _scripts().get_current_head()
    if revision is None:
        raise AssertionError("the package holds no migrations")
    return revision


async def current(db: AsyncEngine) -> str | None:
    """The database's revision; None for a database that was never migrated. Raises LedgerUnavailable."""
    async with transaction(db) as connection:
        return await connection.run_sync(_revision)


async def check(db: AsyncEngine) -> None:
    """Return when the database is at this image's revision. Raises SchemaMismatch naming both, LedgerUnavailable."""
    found, wanted = await current(db), head()
    if found == wanted:
        return
    if found is not None and not _is_ours(found):
        raise _newer(found)
    raise SchemaMismatch(
        f"the database's schema is at revision {found or 'none'}, this image needs {wanted}; "
        "run `python -m orchestrator migrate`",
        retry_after=10,
    )


async def wait(db: AsyncEngine, *, seconds: float) -> None:
    """Wait up to `seconds` for `check` to pass, then raise what it last raised. A newer schema is not waited for."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await check(db)
        except (LedgerUnavailable, SchemaMismatch) as exc:
            hopeless = isinstance(exc, SchemaMismatch) and exc.retry_after is None
            if hopeless or time.monotonic() + 0.5 > deadline:
                raise
        await asyncio.sleep(0.5)


async def upgrade(db: AsyncEngine, *, seconds: float) -> str:
    """Bring the database to this image's revision and return it; waits up to `seconds` for the database and its locks.

    Raises SchemaMismatch for a database newer than this image, LedgerUnavailable.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            async with transaction(db) as connection:
                # for the lock against other migrations, and for those that a change of a table in use needs
                await connection.execute(text("SET LOCAL lock_timeout = '5s'"))
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
                await connection.run_sync(_upgrade)
        except LedgerUnavailable:
            if time.monotonic() + 1 > deadline:
                raise
        else:
            return head()
        await asyncio.sleep(1)


def _upgrade(connection: Connection) -> None:
    found = _revision(connection)
    if found is not None and not _is_ours(found):
        raise _newer(found)
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _newer(found: str) -> SchemaMismatch:
    return SchemaMismatch(
        f"the database's schema is at revision {found}, which this image does not know (it ends at {head()}); "
        "run an image at least as new as the one that migrated the database"
    )


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _is_ours(revision: str) -> bool:
    return any(script.revision == revision for script in _scripts().walk_revisions())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())
