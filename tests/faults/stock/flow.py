"""A plain Prefect flow that does the daily job's work as a tutorial would: fetch a day, insert its rows, note that.

`python flow.py` registers it. It runs in an image of its own, beside nothing of this project's code.
"""

import asyncio
import io
import os
import time
from datetime import date
from uuid import UUID

import asyncpg
import httpx
import polars as pl
import prefect.runtime
from prefect import flow, task
from prefect.exceptions import ObjectNotFound

TABLES = """
CREATE TABLE IF NOT EXISTS flights (logical_date date NOT NULL, carrier text, flight integer, origin text, dest text);
CREATE TABLE IF NOT EXISTS effects (
    id bigint GENERATED ALWAYS AS IDENTITY, flow_run_id uuid, logical_date date, rows bigint,
    loaded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""


@task(retries=3, retry_delay_seconds=2)
async def fetch(day: date) -> pl.DataFrame:
    """The day's flights, as the source has them."""
    headers = {"Accept": "application/vnd.apache.arrow.stream"}
    async with httpx.AsyncClient(base_url=os.environ["SOURCE_URL"], headers=headers, timeout=30) as client:
        answer = await client.get("/flights", params={"date": day.isoformat()})
        return pl.read_ipc_stream(io.BytesIO(answer.raise_for_status().content))


@task
async def load(day: date, flights: pl.DataFrame) -> int:
    """Insert the rows and one row that says so, in one transaction."""
    rows = [(day, *row) for row in flights.select("carrier", "flight", "origin", "dest").rows()]
    connection = await asyncpg.connect(os.environ["WAREHOUSE_URL"])
    try:
        async with connection.transaction():
            await connection.copy_records_to_table("flights", records=rows)
            await connection.execute(
                "INSERT INTO effects (flow_run_id, logical_date, rows) VALUES ($1, $2, $3)",
                UUID(prefect.runtime.flow_run.id),
                day,
                len(rows),
            )
    finally:
        await connection.close()
    return len(rows)


@flow
async def daily(day: date) -> None:
    """Load one day."""
    await load(day, await fetch(day))


async def make_tables() -> None:
    """The warehouse's tables, made once."""
    connection = await asyncpg.connect(os.environ["WAREHOUSE_URL"])
    try:
        await connection.execute(TABLES)
    finally:
        await connection.close()


def register() -> None:
    """Register the deployment once the worker has made its pool. Only what a pod needs to run here is set."""
    deployment = daily.to_deployment(
        name="stock",
        work_pool_name="stock",
        job_variables={
            "image": os.environ["IMAGE"],
            "image_pull_policy": "IfNotPresent",
            "namespace": "stock",
            "cpu_request": "150m",  # as our flow pods have on this cluster, so that no more start at once than can
            "env": {name: os.environ[name] for name in ("SOURCE_URL", "WAREHOUSE_URL")},
        },
    )
    deadline = time.monotonic() + 180
    while True:
        try:
            deployment.apply()
        except (ObjectNotFound, ValueError):
            if time.monotonic() >= deadline:
                raise
            time.sleep(1)
        else:
            return


if __name__ == "__main__":
    asyncio.run(make_tables())
    register()
