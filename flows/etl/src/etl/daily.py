"""What a flow of one's own is made of: a run that is claimed and knows its day, and a table whose day it replaces.

    TABLE = DayTable("delays", columns="carrier text NOT NULL, minutes bigint, PRIMARY KEY (logical_date, carrier)")

    @flow(name="delays", persist_result=False)
    async def delays(logical_date: date | None = None) -> State[Any]:
        async with day_run(logical_date) as run:
            rows = transform(await extract(run))
            return Completed(message=f"{run.day}: {load(TABLE, rows, run).rows} rows loaded")

The table is made by the first load into it. Each load is a transaction that asks whether the day was loaded, or the run
claimed, under a larger fence (see etl.claim), replaces the day, and leaves a row in `day_loads`. So whatever runs twice
leaves the same table, and who wakes up late writes nothing. These runs claim no date, which is the daily job's.
"""

import logging
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import uuid4

import adbc_driver_postgresql.dbapi as adbc
import httpx
import polars as pl

from etl.claim import Claim, claim_date
from etl.errors import BadData, ClaimLost
from etl.extract import fetch_rows, open_client
from etl.holding import claimed
from etl.identity import RunIdentity, default_logical_date, this_run
from etl.settings import EtlSettings

_STATEMENT_SECONDS = 600
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,58}")

_NEWER_LOAD = (
    "SELECT fence, flow_run_id::text FROM day_loads WHERE table_name = $1 AND logical_date = $2 AND fence > $3"
    " ORDER BY fence DESC LIMIT 1"
)
_NEWER_ATTEMPT = (
    "SELECT fence, flow_run_id::text FROM claims WHERE flow_run_id = $1::uuid AND fence > $2"
    " ORDER BY fence DESC LIMIT 1"
)
_RECORD = (
    "INSERT INTO day_loads (table_name, logical_date, run_id, flow_run_id, fence, correlation_id, rows)"
    " VALUES ($1, $2, $3::uuid, $4::uuid, $5, $6, $7)"
)


@dataclass(frozen=True, kw_only=True)
class DayRun:
    """One execution of a flow for one day, which holds its claim."""

    day: date
    identity: RunIdentity
    claim: Claim
    settings: EtlSettings

    async def fetch(self, path: str, **parameters: str) -> list[dict[str, Any]]:
        """Rows of the source, at ETL_SOURCE_URL, whose request carries the run's ids. Raises what fetch_rows raises."""
        async with self._client() as client:
            return await fetch_rows(client, path, parameters)

    def log(self, step: str, **facts: Any) -> None:
        """One line a step into the run's log, as JSON."""
        self.identity.log(step, **facts)

    def _client(self) -> httpx.AsyncClient:
        return open_client(
            str(self.settings.source_url),
            timeout_seconds=self.settings.request_timeout_seconds,
            correlation_id=self.identity.correlation_id,
        )


@dataclass(frozen=True)
class DayTable:
    """A table of the warehouse, by its name and its columns in SQL; `logical_date date NOT NULL` comes before these."""

    name: str
    columns: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a table: small letters, digits and _, at most 59")


@dataclass(frozen=True, kw_only=True)
class DayLoaded:
    """What a load left of its day."""

    rows: int


@asynccontextmanager
async def day_run(logical_date: date | None) -> AsyncIterator[DayRun]:
    """The flow run that calls, claimed while the block runs; without a date the day before its scheduled start.

    Where a later attempt of the run took over, the block ends in prefect.exceptions.Abort, and the run's state is that
    attempt's to say.

    Raises:
        OSError, asyncpg's errors: the warehouse cannot be reached (etl.claim.UNREACHABLE).
    """
    settings = EtlSettings()
    identity = this_run()
    day = logical_date or await default_logical_date()
    identity.log("start", logical_date=day.isoformat())
    async with claimed(identity, None, settings.warehouse_url.get_secret_value()) as mine:
        yield DayRun(day=day, identity=identity, claim=mine, settings=settings)


class _Trial(DayRun):
    def log(self, step: str, **facts: Any) -> None:
        logging.getLogger(__name__).info("%s: %s", step, facts)


async def trial_run(day: date, *, source_url: str, warehouse_url: str) -> DayRun:
    """A run outside Prefect, with which a flow's own tests call what its tasks do: it has a claim like any.

    Raises:
        OSError, asyncpg's errors: the warehouse cannot be reached (etl.claim.UNREACHABLE).
    """
    run_id = uuid4()
    mine = await claim_date(warehouse_url, flow_run_id=run_id, run_id=run_id, logical_date=None)
    return _Trial(
        day=day,
        identity=RunIdentity(run_id=run_id, flow_run_id=run_id, correlation_id=str(run_id)),
        claim=mine,
        settings=EtlSettings.model_validate({"source_url": source_url, "warehouse_url": warehouse_url}),
    )


def load_table(table: DayTable, rows: pl.DataFrame, run: DayRun) -> DayLoaded:
    """Replace the run's day in the table by these rows, all of it or nothing; no rows leave an empty day.

    Raises:
        BadData: the rows have a column `logical_date` of their own.
        ClaimLost: the day was loaded by a later run, or a later attempt of this one took over; nothing was written.
        adbc_driver_manager.Error: the warehouse refused, as where a column is not the table's, or was lost.
    """
    if "logical_date" in rows.columns:
        raise BadData("the rows have a column logical_date: leave it out, the load writes the run's day into it")
    started = time.monotonic()
    with _transaction(run.settings.warehouse_url.get_secret_value()) as cursor:
        _lock(cursor, f"day {table.name} {run.day}")
        _require_newest(cursor, table, run)
        _make(cursor, table)
        cursor.execute(f"DELETE FROM {table.name} WHERE logical_date = $1", (run.day,))  # noqa: S608 - checked above
        if not rows.is_empty():
            dated = rows.select(pl.lit(run.day).alias("logical_date"), pl.all())
            cursor.adbc_ingest(table.name, dated, mode="append")
        identity = run.identity
        ids = (str(identity.run_id), str(identity.flow_run_id), run.claim.fence, identity.correlation_id)
        cursor.execute(_RECORD, (table.name, run.day, *ids, rows.height))
    run.log("load", table=table.name, rows=rows.height, seconds=round(time.monotonic() - started, 3))
    return DayLoaded(rows=rows.height)


@contextmanager
def _transaction(warehouse_url: str) -> Iterator[adbc.Cursor]:
    with adbc.connect(warehouse_url) as connection, closing(connection.cursor()) as cursor:
        for setting in ("statement_timeout", "lock_timeout"):
            cursor.execute("SELECT set_config($1, $2, true)", (setting, f"{_STATEMENT_SECONDS}s"))
        yield cursor
        connection.commit()


def _lock(cursor: adbc.Cursor, subject: str) -> None:
    """Be the only one with this subject until the transaction ends."""
    cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", (subject,))


def _require_newest(cursor: adbc.Cursor, table: DayTable, run: DayRun) -> None:
    cursor.execute(_NEWER_LOAD, (table.name, run.day, run.claim.fence))
    for fence, flow_run_id in cursor.fetch_polars().rows():
        raise ClaimLost(
            f"{run.day} of {table.name} was loaded by flow run {flow_run_id} under a later claim (fence {fence}, this"
            f" one {run.claim.fence}); nothing of this one was written, look at the later one"
        )
    cursor.execute(_NEWER_ATTEMPT, (str(run.identity.flow_run_id), run.claim.fence))
    for fence, _ in cursor.fetch_polars().rows():
        raise ClaimLost(f"a later attempt of this run claimed it (fence {fence}); nothing of this one was written")


def _make(cursor: adbc.Cursor, table: DayTable) -> None:
    """Make the table where there is none; two who find none at once take turns."""
    cursor.execute("SELECT to_regclass($1) IS NOT NULL", (table.name,))
    if cursor.fetch_polars().item():
        return
    _lock(cursor, f"table {table.name}")
    cursor.execute(f"CREATE TABLE IF NOT EXISTS {table.name} (logical_date date NOT NULL, {table.columns})")
