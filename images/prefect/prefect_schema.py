"""Prefect's database schema: the revisions that this image's Prefect knows, and the one that the database has.

    python -m prefect_schema migrate [--wait SECONDS]   bring the database to this image's revision
    python -m prefect_schema check [--wait SECONDS]     exit 0 once it has it
    python -m prefect_schema record                     print the revisions, oldest first; the image's build keeps them

A database whose revision this image does not know was migrated by a newer Prefect: both commands refuse it and name
both revisions. What is known is read from the file that the build keeps, so that a check costs no import of Prefect.
"""

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, ProgrammingError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

RECORD = Path(__file__).with_name("prefect_schema_revisions")
URL = "PREFECT_SERVER_DATABASE_CONNECTION_URL"

_LOOK_SECONDS = 0.5
_CONNECT_SECONDS = 5


class NewerSchema(Exception):
    """The database has a revision that this image does not know."""


class NotReady(Exception):
    """The time is up, and the database cannot be reached or does not have this image's revision."""


async def revision(engine: AsyncEngine) -> str | None:
    """The database's revision; None where Prefect never migrated it.

    Raises:
        sqlalchemy.exc.SQLAlchemyError, OSError: it cannot be reached or refuses.
    """
    try:
        async with engine.connect() as connection:
            found: str | None = (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar()
            return found
    except ProgrammingError as exc:
        if getattr(exc.orig, "sqlstate", None) == "42P01":  # undefined_table
            return None
        raise


async def until(engine: AsyncEngine, known: list[str], *, seconds: float, migrated: bool) -> str | None:
    """Wait until the database answers, or with `migrated` until it has the newest known revision; return what it has.

    Raises:
        NewerSchema: at once, where its revision is not known.
        NotReady: after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = await revision(engine)
        except (SQLAlchemyError, OSError) as exc:
            reason = f"the database does not answer: {_plain(exc)}"
        else:
            if found is not None and found not in known:
                raise NewerSchema(
                    f"the database has Prefect's schema {found}, which this image does not know; its newest is"
                    f" {known[-1]}. A newer Prefect migrated it: run that version's image again, or restore the"
                    " database's backup from before"
                )
            if not migrated or found == known[-1]:
                return found
            reason = f"the database has Prefect's schema {found or 'not at all'}, and {known[-1]} is awaited"
        if time.monotonic() >= deadline:
            raise NotReady(f"{reason}, after {seconds:g} s; see the Job that migrates it")
        await asyncio.sleep(_LOOK_SECONDS)


def record() -> list[str]:
    """What the installed Prefect's migrations for PostgreSQL are called, oldest first."""
    # Imported here alone: these two cost more than all the rest.
    from alembic.script import ScriptDirectory  # noqa: PLC0415
    from prefect.server.database.alembic_commands import alembic_config  # noqa: PLC0415

    config = alembic_config()
    location = ScriptDirectory.from_config(config).dir
    config.set_main_option("version_locations", str(Path(location) / "versions" / "postgresql"))
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][::-1]


def _plain(exc: BaseException) -> str:
    """A failure without the statement and the parameters, and without a URL."""
    return f"{exc.orig}" if isinstance(exc, DBAPIError) else f"{exc}"


async def _look(known: list[str], *, seconds: float, migrated: bool) -> str | None:
    url = os.environ.get(URL)
    if not url:
        raise NotReady(f"{URL} is not set: give it the URL of Prefect's database")
    engine = create_async_engine(url, connect_args={"timeout": _CONNECT_SECONDS})
    try:
        return await until(engine, known, seconds=seconds, migrated=migrated)
    finally:
        await engine.dispose()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m prefect_schema", description="Prefect's database schema.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, says in (
        ("migrate", "bring the database to this image's revision"),
        ("check", "exit 0 once the database has this image's revision"),
    ):
        command = commands.add_parser(name, help=says)
        command.add_argument("--wait", type=float, default=300.0, metavar="SECONDS", help="how long to wait for it")
    commands.add_parser("record", help="print the revisions of the installed Prefect, oldest first")
    asked = parser.parse_args()
    if asked.command == "record":
        sys.stdout.write("".join(f"{one}\n" for one in record()))
        return
    known = RECORD.read_text().split()
    try:
        found = asyncio.run(_look(known, seconds=asked.wait, migrated=asked.command == "check"))
    except (NewerSchema, NotReady) as exc:
        raise SystemExit(str(exc)) from None
    if found == known[-1]:
        sys.stderr.write(f"Prefect's schema is {found}, as this image wants it\n")
        return
    sys.stderr.write(f"Prefect's schema: {found or 'none'} → {known[-1]}\n")
    sys.stderr.flush()
    os.execvp("prefect", ["prefect", "server", "database", "upgrade", "--yes"])  # noqa: S606, S607 - PATH is the image's


if __name__ == "__main__":
    main()
