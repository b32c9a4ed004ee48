"""Brings the warehouse's schema to this image's revision: `python -m etl.migrate`."""

import argparse
import asyncio
import sys
import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import ValidationError
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from etl.errors import SchemaTooNew
from etl.settings import WarehouseSettings, stop_on

# Whoever migrates holds this advisory lock, so that Jobs started twice take turns.
_LOCK = 0x65746C_6D6967  # "etl" "mig"


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
        raise SchemaTooNew(
            f"the warehouse's schema is at revision {found}, which this image does not know"
            f" (it ends at {scripts.get_current_head()}); run an image at least as new as the one that migrated it"
        )
    command.upgrade(config, "head")


async def migrate(warehouse_url: str) -> None:
    """Upgrade the warehouse to the newest revision; does nothing when it is there already.

    Raises:
        SchemaTooNew: a newer image has migrated it; the text names both revisions.
        OSError, sqlalchemy.exc.DBAPIError: the warehouse cannot be reached or refuses.
    """
    engine = create_async_engine(make_url(warehouse_url).set(drivername="postgresql+asyncpg"))
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


async def migrate_within(warehouse_url: str, *, wait_seconds: float) -> None:
    """Migrate, waiting at most `wait_seconds` for a warehouse that is still starting.

    Raises:
        SchemaTooNew: see migrate; at once.
        OSError, sqlalchemy.exc.DBAPIError: the last failure, once the time is up.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            return await migrate(warehouse_url)
        except (OSError, DBAPIError) as exc:
            if time.monotonic() >= deadline:
                raise
            sys.stderr.write(f"the warehouse does not answer yet ({type(exc).__name__}); trying again\n")
        await asyncio.sleep(1)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m etl.migrate", description=__doc__)
    parser.add_argument("--wait", type=float, default=120, metavar="SECONDS", help="how long to wait for the warehouse")
    arguments = parser.parse_args()
    try:
        settings = WarehouseSettings()
    except ValidationError as error:
        stop_on(error, WarehouseSettings)
    try:
        asyncio.run(migrate_within(settings.warehouse_url.get_secret_value(), wait_seconds=arguments.wait))
    except (OSError, DBAPIError, SchemaTooNew) as exc:
        raise SystemExit(
            f"the warehouse's schema could not be brought up to date: {type(exc).__name__}: {exc}"
        ) from exc
    sys.stderr.write("the warehouse's schema is up to date\n")


if __name__ == "__main__":
    main()
