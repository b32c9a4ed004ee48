"""The one place that writes the warehouse: a logical date's tables replaced whole, in one transaction, over Arrow.

A pod may die after its load's commit and before Prefect hears of it; then the run is executed again, and must not load
a second time. Who asks for a load again, on the other hand, by Prefect's Retry of a run that is Completed, shall get
one. The two are told apart by counting: Prefect called the run Completed once for each load (or degraded keep) that it
heard of, so a row of the run beyond that number is one that Prefect did not hear of.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date
from uuid import UUID

import adbc_driver_postgresql.dbapi as adbc
import polars as pl

from etl.checksum import Checksum
from etl.claim import SUPERSEDED_BY, Claim, lost
from etl.spool import ahead
from etl.transform import DayTables

# Every load of a date holds this advisory lock until it commits, so that two runs of one date never mix their rows.
_LOCK_SPACE = 0x65746C  # "etl"

# The outcomes in `loads`.
LOADED = "loaded"
DEGRADED = "degraded"


@dataclass(frozen=True, kw_only=True)
class LoadedBy:
    """Whose load it is: the pipeline's run, the id that ties the logs together, and the claim it is made under.

    `completions`: how often Prefect has called the run Completed so far.
    """

    run_id: UUID
    correlation_id: str
    claim: Claim
    completions: int = 0


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a load left: rows of `flights`, rows of `rejects`, and the checksum of the flights' content.

    `by_earlier_attempt`: one of the same run wrote it before this one, which wrote nothing.
    """

    rows: int
    rejected: int
    checksum: str
    by_earlier_attempt: bool = False


@dataclass(frozen=True, kw_only=True)
class _Unheard:
    """A row of `loads` that an earlier attempt wrote and Prefect did not hear of."""

    id: int
    outcome: str
    left: Loaded


def find_load(
    warehouse_url: str, logical_date: date, *, loaded_by: LoadedBy, statement_timeout_seconds: float
) -> Loaded | None:
    """The load that an earlier attempt of this run committed without Prefect hearing of it, if there is one.

    An earlier attempt that is committing right now is waited for; from then on this one's claim keeps it from writing.

    Raises:
        ClaimLost: a later claim on the date or the run exists.
        adbc_driver_manager.Error: the warehouse refused or was lost.
    """
    with _transaction(warehouse_url, logical_date, loaded_by.claim, statement_timeout_seconds) as cursor:
        unheard = _unheard(cursor, logical_date, loaded_by)
    return unheard.left if unheard is not None and unheard.outcome == LOADED else None


def load_day(warehouse_url: str, tables: DayTables, *, loaded_by: LoadedBy, statement_timeout_seconds: float) -> Loaded:
    """Replace the logical date in every table and record the load; all of it or nothing.

    Where an earlier attempt of the run loaded it already, nothing is written and what that one left is returned. Where
    one only kept the day, its row is replaced: a run leaves one row each time it is asked for.

    Raises:
        ClaimLost: a later claim on the date or the run exists; nothing was written.
        adbc_driver_manager.Error: the warehouse refused or was lost; nothing of this load is visible.
    """
    content = Checksum()
    with _transaction(warehouse_url, tables.logical_date, loaded_by.claim, statement_timeout_seconds) as cursor:
        unheard = _unheard(cursor, tables.logical_date, loaded_by)
        if unheard is not None:
            if unheard.outcome == LOADED:
                return unheard.left
            cursor.execute("DELETE FROM loads WHERE id = $1", (unheard.id,))
        _replace(cursor, "flights", ahead(_summed(tables.flights, content)), tables.logical_date)
        _replace(cursor, "daily_carrier_delay", [tables.daily_carrier_delay], tables.logical_date)
        _replace(cursor, "daily_origin_delay", [tables.daily_origin_delay], tables.logical_date)
        _replace(cursor, "daily_hour_delay", [tables.daily_hour_delay], tables.logical_date)
        _replace_rejects(cursor, tables, loaded_by)
        loaded = Loaded(rows=content.rows, rejected=tables.rejects.height, checksum=content.hexdigest())
        _record(cursor, loaded, tables.logical_date, loaded_by, outcome=LOADED)
    return loaded


def keep_day(
    warehouse_url: str, logical_date: date, *, loaded_by: LoadedBy, reason: str, statement_timeout_seconds: float
) -> Loaded | None:
    """Record that a run left the date as it was, as a load with the outcome `degraded`; None: it was never loaded.

    What an earlier attempt of the run recorded without Prefect hearing of it is returned, and nothing is written.

    Raises:
        ClaimLost: a later claim on the date or the run exists; nothing was written.
        adbc_driver_manager.Error: the warehouse refused or was lost.
    """
    with _transaction(warehouse_url, logical_date, loaded_by.claim, statement_timeout_seconds) as cursor:
        unheard = _unheard(cursor, logical_date, loaded_by)
        if unheard is not None:
            return unheard.left
        cursor.execute(
            "SELECT rows, rejected, checksum FROM loads WHERE logical_date = $1 ORDER BY id DESC LIMIT 1",
            (logical_date,),
        )
        for rows, rejected, content in cursor.fetch_polars().rows():
            kept = Loaded(rows=rows, rejected=rejected, checksum=content)
            _record(cursor, kept, logical_date, loaded_by, outcome=DEGRADED, note=reason)
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


def _unheard(cursor: adbc.Cursor, logical_date: date, loaded_by: LoadedBy) -> _Unheard | None:
    """The run's newest row beyond those that Prefect called Completed."""
    cursor.execute(
        "SELECT id, outcome, rows, rejected, checksum FROM"
        " (SELECT * FROM loads WHERE run_id = $1::uuid AND logical_date = $2 ORDER BY id OFFSET $3) AS unheard"
        " ORDER BY id DESC LIMIT 1",
        (str(loaded_by.run_id), logical_date, loaded_by.completions),
    )
    for row_id, outcome, rows, rejected, content in cursor.fetch_polars().rows():
        left = Loaded(rows=rows, rejected=rejected, checksum=content, by_earlier_attempt=True)
        return _Unheard(id=row_id, outcome=outcome, left=left)
    return None


def _summed(batches: Iterable[pl.DataFrame], content: Checksum) -> Iterator[pl.DataFrame]:
    """The batches as they are, each added to the checksum on its way."""
    for batch in batches:
        content.add(batch)
        yield batch


def _replace(cursor: adbc.Cursor, table: str, batches: Iterable[pl.DataFrame], logical_date: date) -> None:
    cursor.execute(f"DELETE FROM {table} WHERE logical_date = $1", (logical_date,))  # noqa: S608 - a name of ours
    for batch in batches:
        if not batch.is_empty():
            cursor.adbc_ingest(table, batch, mode="append")


def _replace_rejects(cursor: adbc.Cursor, tables: DayTables, loaded_by: LoadedBy) -> None:
    run_id = pl.lit(str(loaded_by.run_id)).alias("run_id")
    _replace(cursor, "rejects", (batch.with_columns(run_id) for batch in tables.rejects), tables.logical_date)


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
