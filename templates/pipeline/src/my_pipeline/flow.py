"""The flow `my_pipeline`: a day's flights and delays by carrier, into its own table of the warehouse."""

from datetime import date
from typing import Any

import polars as pl
from etl.daily import DayRun, DayTable, day_run, load_table
from etl.transient import is_transient
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

# The first load makes the table; a column logical_date comes before these.
TABLE = DayTable(
    "my_pipeline_daily",
    columns="""
        carrier text NOT NULL,
        flights bigint NOT NULL,
        mean_delay double precision,
        PRIMARY KEY (logical_date, carrier)
    """,
)


@task(
    retries=3,
    retry_delay_seconds=[2, 5, 15],
    retry_condition_fn=is_transient,
    timeout_seconds=120,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def extract(run: DayRun) -> list[dict[str, Any]]:
    """The day's flights: a path of the source at ETL_SOURCE_URL, or the whole URL of another API."""
    return await run.fetch("/flights", date=run.day.isoformat())


@task(cache_policy=NO_CACHE, persist_result=False)
def transform(flights: list[dict[str, Any]]) -> pl.DataFrame:
    """By carrier: how many flights, and their mean delay at departure in minutes; a flight that never left has none."""
    rows = pl.DataFrame(flights, schema={"carrier": pl.String, "dep_delay": pl.Int64})
    return rows.group_by("carrier").agg(flights=pl.len().cast(pl.Int64), mean_delay=pl.col("dep_delay").mean())


@task(timeout_seconds=600, cache_policy=NO_CACHE, persist_result=False)
def load(rows: pl.DataFrame, run: DayRun) -> int:
    """Replace the day in the table; how many rows it has now."""
    return load_table(TABLE, rows, run).rows


@flow(name="my_pipeline", persist_result=False)
async def my_pipeline(logical_date: date | None = None) -> State[Any]:
    """Load one day.

    Args:
        logical_date: The day to load. Default: the day before the run's scheduled start, in the deployment's timezone.
    """
    async with day_run(logical_date) as run:
        rows = load(transform(await extract(run)), run)
        return Completed(message=f"{run.day}: {rows} rows loaded")
