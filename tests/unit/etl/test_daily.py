"""A table of a flow of one's own: its day replaced whole, under the newest claim, beside the daily job."""

import asyncio
from datetime import date
from typing import Any
from uuid import uuid4

import adbc_driver_manager
import asyncpg
import httpx
import polars as pl
import pytest
from etl import claim
from etl.daily import DayRun, DayTable, load_table
from etl.errors import BadData, ClaimLost, SourceRefused, SourceUnavailable
from etl.extract import fetch_rows
from etl.identity import RunIdentity
from etl.settings import EtlSettings

DAY = date(2026, 1, 15)
TABLE = DayTable("delays_daily", "carrier text NOT NULL, minutes bigint, PRIMARY KEY (logical_date, carrier)")
ROWS = pl.DataFrame({"carrier": ["AA", "UA"], "minutes": [12, 30]})


class Run(DayRun):
    """A run outside Prefect: its log lines go nowhere."""

    def log(self, step: str, **facts: Any) -> None:
        pass


async def somebody(warehouse: str, *, of: DayRun | None = None) -> DayRun:
    """A run that has just claimed, or another attempt at the run `of`."""
    run_id = of.identity.run_id if of else uuid4()
    mine = await claim.claim_date(warehouse, flow_run_id=run_id, run_id=run_id, logical_date=None)
    return Run(
        day=DAY,
        identity=RunIdentity(run_id=run_id, flow_run_id=run_id, correlation_id="test"),
        claim=mine,
        settings=EtlSettings(warehouse_url=warehouse, source_url="http://source"),
    )


async def fetch(url: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row.values()) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def test_a_rerun_replaces_the_day(warehouse: str) -> None:
    """The second run's rows are the day's, another day's stay, and both loads are on record."""
    other_day = await somebody(warehouse)
    load_table(TABLE, ROWS, Run(**{**vars(other_day), "day": date(2026, 1, 14)}))
    for rows in (ROWS, ROWS.head(1)):
        assert load_table(TABLE, rows, await somebody(warehouse)).rows == rows.height
    assert await fetch(warehouse, "SELECT logical_date, carrier FROM delays_daily ORDER BY 1, 2") == [
        (date(2026, 1, 14), "AA"),
        (date(2026, 1, 14), "UA"),
        (DAY, "AA"),
    ]
    recorded = (
        "SELECT rows FROM day_loads WHERE table_name = 'delays_daily' AND logical_date = '2026-01-15' ORDER BY id"
    )
    assert await fetch(warehouse, recorded) == [(2,), (1,)]


async def test_who_wakes_up_late_writes_nothing(warehouse: str) -> None:
    """Neither a run that claimed before the one that loaded, nor an earlier attempt of a run."""
    late = await somebody(warehouse)
    load_table(TABLE, ROWS, await somebody(warehouse))
    with pytest.raises(ClaimLost, match="2026-01-15 of delays_daily was loaded by flow run"):
        load_table(TABLE, ROWS.head(1), late)
    given_up = await somebody(warehouse)
    await somebody(warehouse, of=given_up)
    with pytest.raises(ClaimLost, match="a later attempt of this run"):
        load_table(TABLE, ROWS.head(1), given_up)
    assert await fetch(warehouse, "SELECT count(*) FROM delays_daily") == [(2,)]


async def test_first_loads_at_once_make_one_table(warehouse: str) -> None:
    """Runs of several days meet where there is no table yet; each finds it made or makes it."""
    runs = [Run(**{**vars(await somebody(warehouse)), "day": date(2026, 1, day)}) for day in range(1, 7)]
    await asyncio.gather(*(asyncio.to_thread(load_table, TABLE, ROWS, run) for run in runs))
    assert await fetch(warehouse, "SELECT count(*) FROM delays_daily") == [(12,)]


async def test_rows_that_do_not_fit_change_nothing(warehouse: str) -> None:
    """A column that the table lacks, or the same key twice: the day stays as it was, and no load is recorded."""
    load_table(TABLE, ROWS, await somebody(warehouse))
    with pytest.raises(adbc_driver_manager.Error):
        load_table(TABLE, ROWS.rename({"minutes": "hours"}), await somebody(warehouse))
    with pytest.raises(adbc_driver_manager.Error):
        load_table(TABLE, pl.concat([ROWS, ROWS]), await somebody(warehouse))
    with pytest.raises(BadData, match="leave it out"):
        load_table(TABLE, ROWS.with_columns(logical_date=pl.lit(DAY)), await somebody(warehouse))
    assert await fetch(warehouse, "SELECT sum(minutes)::int FROM delays_daily") == [(42,)]
    assert await fetch(warehouse, "SELECT count(*) FROM day_loads") == [(1,)]


async def test_the_daily_jobs_claim_of_the_day_stands(warehouse: str) -> None:
    """Another flow that works on the same day, later, does not outdate it."""
    run_id = uuid4()
    daily = await claim.claim_date(warehouse, flow_run_id=run_id, run_id=run_id, logical_date=DAY)
    load_table(TABLE, ROWS, await somebody(warehouse))
    newer = await fetch(
        warehouse,
        claim.SUPERSEDED_BY.replace("$1", str(daily.fence)).replace("$2", f"'{run_id}'").replace("$3", f"'{DAY}'"),
    )
    assert newer == []


def test_a_tables_name_is_checked() -> None:
    """It is put into statements."""
    with pytest.raises(ValueError, match="no name of a table"):
        DayTable("delays; DROP TABLE loads", "n int")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (httpx.Response(200, json=[{"a": 1}, {"a": 2}]), [{"a": 1}, {"a": 2}]),
        (
            httpx.Response(200, text='{"a": 1}\n{"a": 2}\n', headers={"content-type": "application/x-ndjson"}),
            [{"a": 1}, {"a": 2}],
        ),
        (httpx.Response(200, json=[]), []),
        (httpx.Response(503, json={"detail": "closed"}, headers={"retry-after": "3"}), SourceUnavailable),
        (httpx.Response(404, json={"detail": "no such day"}), SourceRefused),
        (httpx.Response(200, text="<html>"), SourceUnavailable),
        (httpx.Response(200, json={"rows": []}), SourceRefused),
    ],
)
async def test_rows_are_fetched_or_the_failure_is_named(answer: httpx.Response, expected: Any) -> None:
    """An array or a line each; what may pass is told from what will not."""
    transport = httpx.MockTransport(lambda _request: answer)
    async with httpx.AsyncClient(base_url="http://source", transport=transport) as client:
        if isinstance(expected, list):
            assert await fetch_rows(client, "/x", {"date": "2026-01-15"}) == expected
        else:
            with pytest.raises(expected, match=r"GET http://source/x\?date=2026-01-15 answered"):
                await fetch_rows(client, "/x", {"date": "2026-01-15"})
