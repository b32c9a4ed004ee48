"""The one place that writes the warehouse: a logical date's tables replaced whole, in one transaction, over Arrow."""

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date
from uuid import UUID

import adbc_driver_postgresql.dbapi as adbc
import polars as pl

from etl.claim import SUPERSEDED_BY, Claim, lost
from etl.transform import DayTables

# Every load of a date holds this advisory lock until it commits, so that two runs of one date never mix their rows.
_LOCK_SPACE = 0x65746C  # "etl"


@dataclass(frozen=True, kw_only=True)
class LoadedBy:
    """Whose load it is: the pipeline's run, the id that ties the logs together, and the claim it is made under."""

    run_id: UUID
    correlation_id: str
    claim: Claim


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a load left: rows of `flights`, rows of `rejects`, and the checksum of the flights' content."""

    rows: int
    rejected: int
    checksum: str


def checksum(flights: pl.DataFrame) -> str:
    """SHA-256 over the rows as CSV in their sorted order: equal content gives an equal sum, whoever loads it."""
    return hashlib.sha256(flights.write_csv().encode()).hexdigest()


def load_day(warehouse_url: str, tables: DayTables, *, loaded_by: LoadedBy, statement_timeout_seconds: float) -> Loaded:
    """Replace the logical date in every table and record the load; all of it or nothing.

    Raises:
        ClaimLost: a later claim on the date or the run exists; nothing was written.
        adbc_driver_manager.Error: the warehouse refused or was lost; nothing of this load is visible.
    """
    loaded = Loaded(rows=tables.flights.height, rejected=tables.rejects.height, checksum=checksum(tables.flights))
    with _transaction(warehouse_url, tables.logical_date, loaded_by.claim, statement_timeout_seconds) as cursor:
        _replace(cursor, "flights", tables.flights, tables.logical_date)
        _replace(cursor, "daily_carrier_delay", tables.daily_carrier_delay, tables.logical_date)
        _replace(cursor, "daily_origin_delay", tables.daily_origin_delay, tables.logical_date)
        _replace_rejects(cursor, tables, loaded_by)
        _record(cursor, loaded, tables.logical_date, loaded_by, outcome="loaded")
    return loaded


def keep_day(
    warehouse_url: str, logical_date: date, *, loaded_by: LoadedBy, reason: str, statement_timeout_seconds: float
) -> Loaded | None:
    """Record that a run left the date as it was, as a load with the outcome `degraded`; None: it was never loaded.

    Raises:
        ClaimLost: a later claim on the date or the run exists; nothing was written.
        adbc_driver_manager.Error: the warehouse refused or was lost.
    """
    with _transaction(warehouse_url, logical_date, loaded_by.claim, statement_timeout_seconds) as cursor:
        cursor.execute(
            "SELECT rows, rejected, checksum FROM loads WHERE logical_date = $1 ORDER BY id DESC LIMIT 1",
            (logical_date,),
        )
        for rows, rejected, content in cursor.fetch_polars().rows():
            kept = Loaded(rows=rows, rejected=rejected, checksum=content)
            _record(cursor, kept, logical_date, loaded_by, outcome="degraded", note=reason)
            return kept
    return None


def keep_rejects(
    warehouse_url: str, tables: DayTables, *, loaded_by: LoadedBy, statement_timeout_seconds: float
) -> None:
    """Record a refused day's bad rows alone; the date's other tables stay as they were.

    Raises:
        ClaimLost: a later claim on the date or the run exists; nothing was written.
        adbc_driver_manager.Error: the warehouse refused or was lost.
    """
    with _transaction(warehouse_url, tables.logical_date, loaded_by.claim, statement_timeout_seconds) as cursor:
        _replace_rejects(cursor, tables, loaded_by)


@contextmanager
def _transaction(
    warehouse_url: str, logical_date: date, claim: Claim, statement_timeout_seconds: float
) -> Iterator[adbc.Cursor]:
    with adbc.connect(warehouse_url) as connection, closing(connection.cursor()) as cursor:
        # set_config takes a bound value where SET takes none; true makes both settings end with the transaction.
        timeout = f"{int(statement_timeout_seconds * 1000)}ms"
        cursor.execute("SELECT set_config('statement_timeout', $1, true)", (timeout,))
        cursor.execute("SELECT set_config('lock_timeout', $1, true)", (timeout,))
        cursor.execute("SELECT pg_advisory_xact_lock($1::int, $2::int)", (_LOCK_SPACE, logical_date.toordinal()))
        # Only now: whoever held the lock before may have loaded under a later claim. A claim made after this line loads
        # after this transaction, and replaces what it wrote.
        cursor.execute(SUPERSEDED_BY, (claim.fence, str(claim.flow_run_id), logical_date))
        for newer in cursor.fetch_polars().rows():
            raise lost(claim, newer, logical_date=logical_date)
        yield cursor
        connection.commit()


def _replace(cursor: adbc.Cursor, table: str, rows: pl.DataFrame, logical_date: date) -> None:
    cursor.execute(f"DELETE FROM {table} WHERE logical_date = $1", (logical_date,))  # noqa: S608 - a name of ours
    if not rows.is_empty():
        cursor.adbc_ingest(table, rows, mode="append")


def _replace_rejects(cursor: adbc.Cursor, tables: DayTables, loaded_by: LoadedBy) -> None:
    rejects = tables.rejects.with_columns(run_id=pl.lit(str(loaded_by.run_id)))
    _replace(cursor, "rejects", rejects, tables.logical_date)


def _record(
    cursor: adbc.Cursor, loaded: Loaded, logical_date: date, loaded_by: LoadedBy, *, outcome: str, note: str = ""
) -> None:
    # The driver has no way to bind a null.
    cursor.execute(
        "INSERT INTO loads"
        " (run_id, flow_run_id, fence, correlation_id, logical_date, rows, rejected, checksum, outcome, note)"
        " VALUES ($1::uuid, $2::uuid, $3, $4, $5, $6, $7, $8, $9, nullif($10, ''))",
        (
            str(loaded_by.run_id),
            str(loaded_by.claim.flow_run_id),
            loaded_by.claim.fence,
            loaded_by.correlation_id,
            logical_date,
            loaded.rows,
            loaded.rejected,
            loaded.checksum,
            outcome,
            note,
        ),
    )
