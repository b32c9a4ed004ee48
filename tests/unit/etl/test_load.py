"""Loads into a real PostgreSQL: whole, once, repeatable, and nothing on failure."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from typing import Any
from uuid import uuid4

import adbc_driver_manager
import asyncpg
import polars as pl
import pytest
from etl.claim import claim_date
from etl.errors import ClaimLost
from etl.extract import Day
from etl.load import LoadedBy, find_load, keep_day, keep_rejects, load_day
from etl.migrate import migrate
from etl.spool import Spool
from etl.transform import DayTables, transform

from .conftest import JANUARY_15

LOGICAL_DATE = date(2026, 1, 15)
TABLES = ("flights", "daily_carrier_delay", "daily_origin_delay", "rejects")


async def somebody(warehouse: str, day: date = LOGICAL_DATE) -> LoadedBy:
    """A run that has just claimed the day."""
    run_id = uuid4()
    claim = await claim_date(warehouse, flow_run_id=run_id, run_id=run_id, logical_date=day)
    return LoadedBy(run_id=run_id, correlation_id="test", claim=claim)


async def again(warehouse: str, run: LoadedBy, *, completions: int = 0) -> LoadedBy:
    """The same run, executed once more after Prefect called it Completed that often."""
    claim = await claim_date(warehouse, flow_run_id=run.claim.flow_run_id, run_id=run.run_id, logical_date=LOGICAL_DATE)
    return replace(run, claim=claim, completions=completions)


@pytest.fixture(scope="module")
def tables(january_15: pl.DataFrame, january_15_weather: pl.DataFrame) -> DayTables:
    first_is_bad = january_15.with_row_index().with_columns(
        distance=pl.when(pl.col("index") == 0).then(-1).otherwise(pl.col("distance"))
    )
    return transform(
        Day(rows=Spool.of(first_is_bad.drop("index")), record_date=JANUARY_15),
        Day(rows=Spool.of(january_15_weather), record_date=JANUARY_15),
        logical_date=LOGICAL_DATE,
    )


def first_three(tables: DayTables) -> Spool:
    return Spool.of(tables.flights.read().head(3))


async def fetch(url: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row.values()) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def contents(url: str) -> dict[str, list[Any]]:
    """Everything but who loaded it and when."""
    skip = {"rejects": "logical_date, reason, record"}
    return {
        table: sorted(map(repr, await fetch(url, f"SELECT {skip.get(table, '*')} FROM {table}"))) for table in TABLES
    }


async def test_a_load_writes_every_table(warehouse: str, tables: DayTables, january_15: pl.DataFrame) -> None:
    """Flights, delays, rejects and the loads row are there, and the delays agree with PostgreSQL's own arithmetic."""
    by = await somebody(warehouse)
    loaded = load_day(warehouse, tables, loaded_by=by, statement_timeout_seconds=30)
    assert (loaded.rows, loaded.rejected) == (january_15.height - 1, 1)
    assert await fetch(warehouse, "SELECT count(*) FROM flights") == [(loaded.rows,)]
    assert await fetch(warehouse, "SELECT reason FROM rejects") == [("distance is not positive",)]
    assert await fetch(warehouse, "SELECT run_id, logical_date, rows, rejected, checksum FROM loads") == [
        (by.run_id, LOGICAL_DATE, loaded.rows, 1, loaded.checksum)
    ]
    difference = await fetch(
        warehouse,
        """
        SELECT carrier, count(*), count(*) FILTER (WHERE dep_time IS NULL), avg(dep_delay)::numeric(12,6),
               percentile_cont(0.95) WITHIN GROUP (ORDER BY dep_delay)::numeric(12,6)
        FROM flights GROUP BY carrier
        EXCEPT
        SELECT carrier, flights, cancelled, mean_delay::numeric(12,6), p95_delay::numeric(12,6) FROM daily_carrier_delay
        """,
    )
    assert difference == []


async def test_a_rerun_leaves_the_same_tables(warehouse: str, tables: DayTables) -> None:
    """Loading a date again replaces it: same rows, same checksum, one more loads row."""
    first = load_day(warehouse, tables, loaded_by=await somebody(warehouse), statement_timeout_seconds=30)
    before = await contents(warehouse)
    again = load_day(warehouse, tables, loaded_by=await somebody(warehouse), statement_timeout_seconds=30)
    assert again == first
    assert await contents(warehouse) == before
    assert await fetch(warehouse, "SELECT count(*) FROM loads") == [(2,)]


async def test_an_attempt_after_a_commit_that_nobody_heard_of_writes_nothing(warehouse: str, tables: DayTables) -> None:
    """The run is executed again, its source by then another: what the first attempt left is found, and stays."""
    first_attempt = await somebody(warehouse)
    assert find_load(warehouse, LOGICAL_DATE, loaded_by=first_attempt, statement_timeout_seconds=30) is None
    loaded = load_day(warehouse, tables, loaded_by=first_attempt, statement_timeout_seconds=30)
    before = await contents(warehouse)
    rerun = await again(warehouse, first_attempt)
    found = find_load(warehouse, LOGICAL_DATE, loaded_by=rerun, statement_timeout_seconds=30)
    changed = replace(tables, flights=first_three(tables))
    assert load_day(warehouse, changed, loaded_by=rerun, statement_timeout_seconds=30) == found
    assert keep_day(warehouse, LOGICAL_DATE, loaded_by=rerun, reason="down", statement_timeout_seconds=30) == found
    assert found == replace(loaded, by_earlier_attempt=True)
    assert await contents(warehouse) == before
    assert await fetch(warehouse, "SELECT fence FROM loads") == [(first_attempt.claim.fence,)]


async def test_a_completed_run_that_is_asked_for_again_loads_again(warehouse: str, tables: DayTables) -> None:
    """Prefect heard of the first load, so a retry is a new wish; its own second attempt is none."""
    run = await somebody(warehouse)
    load_day(warehouse, tables, loaded_by=run, statement_timeout_seconds=30)
    wished = await again(warehouse, run, completions=1)
    assert find_load(warehouse, LOGICAL_DATE, loaded_by=wished, statement_timeout_seconds=30) is None
    assert not load_day(warehouse, tables, loaded_by=wished, statement_timeout_seconds=30).by_earlier_attempt
    rerun = await again(warehouse, run, completions=1)
    assert load_day(warehouse, tables, loaded_by=rerun, statement_timeout_seconds=30).by_earlier_attempt
    assert await fetch(warehouse, "SELECT fence FROM loads ORDER BY id") == [(run.claim.fence,), (wished.claim.fence,)]


async def test_a_run_that_kept_the_day_and_died_leaves_one_row(warehouse: str, tables: DayTables) -> None:
    """Executed again it keeps the day without a second row, or loads it and replaces the row."""
    load_day(warehouse, tables, loaded_by=await somebody(warehouse), statement_timeout_seconds=30)
    run = await somebody(warehouse)
    keep_day(warehouse, LOGICAL_DATE, loaded_by=run, reason="down", statement_timeout_seconds=30)
    rerun = await again(warehouse, run)
    kept = keep_day(warehouse, LOGICAL_DATE, loaded_by=rerun, reason="still down", statement_timeout_seconds=30)
    assert kept is not None
    assert kept.by_earlier_attempt
    assert find_load(warehouse, LOGICAL_DATE, loaded_by=rerun, statement_timeout_seconds=30) is None
    of_the_run = f"SELECT outcome, note FROM loads WHERE run_id = '{run.run_id}'"
    assert await fetch(warehouse, of_the_run) == [("degraded", "down")]
    rerun = await again(warehouse, run)
    assert not load_day(warehouse, tables, loaded_by=rerun, statement_timeout_seconds=30).by_earlier_attempt
    assert await fetch(warehouse, of_the_run) == [("loaded", None)]


async def test_other_dates_are_untouched(warehouse: str, tables: DayTables) -> None:
    """A load replaces its own date only."""
    other = date(2026, 1, 16)
    there = pl.lit(other).alias("logical_date")
    moved = replace(
        tables,
        logical_date=other,
        flights=Spool.of(tables.flights.read().with_columns(there)),
        daily_carrier_delay=tables.daily_carrier_delay.with_columns(there),
        daily_origin_delay=tables.daily_origin_delay.with_columns(there),
        rejects=Spool.of(tables.rejects.read().with_columns(there)),
    )
    load_day(warehouse, moved, loaded_by=await somebody(warehouse, other), statement_timeout_seconds=30)
    load_day(warehouse, tables, loaded_by=await somebody(warehouse), statement_timeout_seconds=30)
    counts = await fetch(warehouse, "SELECT logical_date, count(*) FROM flights GROUP BY 1 ORDER BY 1")
    assert counts == [(LOGICAL_DATE, tables.flights.height), (other, tables.flights.height)]


async def test_a_load_that_fails_midway_changes_nothing(warehouse: str, tables: DayTables) -> None:
    """The flights are copied, then the next table refuses: what was loaded before is still all there."""
    load_day(warehouse, tables, loaded_by=await somebody(warehouse), statement_timeout_seconds=30)
    before = await contents(warehouse)
    carriers = tables.daily_carrier_delay
    doubled = replace(tables, flights=first_three(tables), daily_carrier_delay=pl.concat([carriers, carriers]))
    with pytest.raises(adbc_driver_manager.Error, match="duplicate key"):
        load_day(warehouse, doubled, loaded_by=await somebody(warehouse), statement_timeout_seconds=30)
    assert await contents(warehouse) == before
    assert await fetch(warehouse, "SELECT count(*) FROM loads") == [(1,)]


async def test_loads_of_one_date_take_turns(warehouse: str, tables: DayTables) -> None:
    """Four runs that claimed one date load it at once: one copy of the day, loaded under the newest claim."""
    runs = [await somebody(warehouse) for _ in range(4)]
    fences = [run.claim.fence for run in runs]
    assert fences == sorted(set(fences))

    def attempt(by: LoadedBy) -> bool:
        try:
            load_day(warehouse, tables, loaded_by=by, statement_timeout_seconds=30)
        except ClaimLost:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        loop = asyncio.get_running_loop()
        done = await asyncio.gather(*(loop.run_in_executor(pool, attempt, by) for by in reversed(runs)))
    assert done == [True, False, False, False]
    assert await fetch(warehouse, "SELECT count(*) FROM flights") == [(tables.flights.height,)]
    assert await fetch(warehouse, "SELECT run_id, fence FROM loads") == [(runs[-1].run_id, fences[-1])]


async def test_an_older_claim_writes_nothing(warehouse: str, tables: DayTables) -> None:
    """Who claimed before the date's newest claim can neither load nor leave rejects, and is told who did."""
    older = await somebody(warehouse)
    newer = await somebody(warehouse)
    load_day(warehouse, tables, loaded_by=newer, statement_timeout_seconds=30)
    before = await contents(warehouse)
    says = f"claimed by the later flow run {newer.claim.flow_run_id}"
    with pytest.raises(ClaimLost, match=says):
        load_day(warehouse, tables, loaded_by=older, statement_timeout_seconds=30)
    with pytest.raises(ClaimLost, match=says):
        keep_rejects(warehouse, tables, loaded_by=older, statement_timeout_seconds=30)
    assert await contents(warehouse) == before
    assert await fetch(warehouse, "SELECT fence FROM loads") == [(newer.claim.fence,)]


async def test_a_refused_days_rejects_are_kept(warehouse: str, tables: DayTables) -> None:
    """Keeping a refused day's bad rows leaves the loaded tables as they were."""
    load_day(warehouse, tables, loaded_by=await somebody(warehouse), statement_timeout_seconds=30)
    before = await contents(warehouse)
    keep_rejects(warehouse, tables, loaded_by=await somebody(warehouse), statement_timeout_seconds=30)
    assert await contents(warehouse) == before
    assert await fetch(warehouse, "SELECT count(*) FROM loads") == [(1,)]


async def test_a_kept_day_stays_and_says_so(warehouse: str, tables: DayTables) -> None:
    """Keeping a day adds a loads row that repeats what is there, named degraded, with its reason; the tables stay."""
    loaded = load_day(warehouse, tables, loaded_by=await somebody(warehouse), statement_timeout_seconds=30)
    before = await contents(warehouse)
    by = await somebody(warehouse)
    kept = keep_day(warehouse, LOGICAL_DATE, loaded_by=by, reason="down", statement_timeout_seconds=30)
    assert kept == loaded
    assert await contents(warehouse) == before
    assert await fetch(warehouse, "SELECT run_id, fence, outcome, note FROM loads WHERE id > 1") == [
        (by.run_id, by.claim.fence, "degraded", "down")
    ]
    assert await fetch(warehouse, "SELECT outcome, note FROM loads WHERE id = 1") == [("loaded", None)]


async def test_a_day_never_loaded_cannot_be_kept(warehouse: str) -> None:
    """There is nothing to keep, and nothing is recorded."""
    by = await somebody(warehouse)
    assert keep_day(warehouse, LOGICAL_DATE, loaded_by=by, reason="down", statement_timeout_seconds=30) is None
    assert await fetch(warehouse, "SELECT count(*) FROM loads") == [(0,)]


async def test_an_older_claim_keeps_nothing(warehouse: str, tables: DayTables) -> None:
    """A degraded run is fenced as a loading one is."""
    older = await somebody(warehouse)
    load_day(warehouse, tables, loaded_by=await somebody(warehouse), statement_timeout_seconds=30)
    with pytest.raises(ClaimLost):
        keep_day(warehouse, LOGICAL_DATE, loaded_by=older, reason="down", statement_timeout_seconds=30)
    assert await fetch(warehouse, "SELECT count(*) FROM loads") == [(1,)]


async def test_migrating_again_changes_nothing(warehouse: str) -> None:
    """Two more migrations at once find the schema there."""
    await asyncio.gather(migrate(warehouse), migrate(warehouse))
    assert await fetch(warehouse, "SELECT version_num FROM alembic_version") == [("0007",)]
