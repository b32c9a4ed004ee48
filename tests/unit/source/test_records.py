"""What is served is what was recorded: counts and values against a second reading of the files."""

import datetime as dt
import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source.records import TABLES, DatasetError, Records, schema
from source.rows import Row

ARROW = {"Accept": "application/vnd.apache.arrow.stream"}
FLIGHTS_OF_2013 = 336_776
SPECIAL_DAYS = [(1, 1), (3, 10), (6, 13), (11, 3), (12, 31)]  # the year's ends, both changes of clocks, a day of storms

CsvRows = Callable[[str], list[list[str]]]
Typed = Callable[[list[str], type[Row]], dict[str, Any]]
DAY_COLUMNS = {"flights": slice(1, 3), "weather": slice(2, 4)}


@pytest.mark.parametrize("table", ["flights", "weather"])
async def test_every_day_has_the_rows_of_the_file(
    client: httpx.AsyncClient, csv_rows: CsvRows, days_of_2013: list[dt.date], table: str
) -> None:
    """Each of 365 days has its own count, and together they are the whole file."""
    expected = Counter(tuple(row[DAY_COLUMNS[table]]) for row in csv_rows(table))
    served = {}
    for day in days_of_2013:
        answer = await client.get(f"/{table}", params={"date": day.isoformat()}, headers=ARROW)
        assert answer.status_code == 200
        height = pl.read_ipc_stream(io.BytesIO(answer.content)).height
        assert answer.headers["X-Row-Count"] == str(height)
        served[str(day.month), str(day.day)] = height
    assert {day: rows for day, rows in served.items() if rows} == dict(expected)
    assert sum(served.values()) == len(csv_rows(table))
    if table == "flights":
        assert sum(served.values()) == FLIGHTS_OF_2013


@pytest.mark.parametrize("special", SPECIAL_DAYS)
@pytest.mark.parametrize("table", ["flights", "weather"])
async def test_a_day_equals_the_file_value_for_value(
    client: httpx.AsyncClient, csv_rows: CsvRows, typed: Typed, table: str, special: tuple[int, int]
) -> None:
    """Rows arrive in the order of the file with nothing changed but NA, which is null."""
    answer = await client.get(f"/{table}", params={"date": dt.date(2013, *special).isoformat()})
    day = [str(number) for number in special]
    expected = [typed(row, TABLES[table]) for row in csv_rows(table) if row[DAY_COLUMNS[table]] == day]
    assert [json.loads(line) for line in answer.text.splitlines()] == expected


@pytest.mark.parametrize("table", ["airlines", "airports", "planes"])
async def test_a_small_table_equals_the_file_value_for_value(
    client: httpx.AsyncClient, csv_rows: CsvRows, typed: Typed, table: str
) -> None:
    """The tables without days are served whole."""
    answer = await client.get(f"/{table}")
    assert [json.loads(line) for line in answer.text.splitlines()] == [
        typed(row, TABLES[table]) for row in csv_rows(table)
    ]
    assert "X-Record-Date" not in answer.headers


@pytest.mark.parametrize("table", TABLES)
async def test_the_documented_schema_holds_for_every_row(records: Records, table: str) -> None:
    """Columns said to be without nulls have none, and those said to have nulls do."""
    frame = records.whole(table)
    assert frame.schema == schema(TABLES[table])
    nullable = {name for name, field in TABLES[table].model_fields.items() if type(None) in _parts(field.annotation)}
    assert {name for name in frame.columns if frame[name].null_count()} == nullable


@pytest.mark.parametrize("table", TABLES)
async def test_the_documented_example_is_a_row_of_the_table(records: Records, table: str) -> None:
    """Nobody learns from a row that does not exist."""
    row = TABLES[table]
    example = row.model_validate(
        {name: field.examples[0] for name, field in row.model_fields.items() if field.examples}
    )
    assert example.model_dump() in records.whole(table).head(5000).to_dicts()


def _parts(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", (annotation,))


@settings(deadline=None, max_examples=60)
@given(day=st.dates(min_value=dt.date(1, 1, 1), max_value=dt.date(9999, 12, 31)))
async def test_any_date_of_any_year_answers_with_2013(client: httpx.AsyncClient, day: dt.date) -> None:
    """Month and day are kept; only 29 February is missing, and says so."""
    answer = await client.get("/flights", params={"date": day.isoformat(), "limit": 1})
    if (day.month, day.day) == (2, 29):
        _assert_no_leap_day(answer)
        return
    assert answer.status_code == 200
    assert answer.headers["X-Record-Date"] == f"2013-{day.month:02}-{day.day:02}"
    row = answer.json()
    assert (row["year"], row["month"], row["day"]) == (2013, day.month, day.day)


@settings(deadline=None, max_examples=30)
@given(year=st.integers(1, 9999))
async def test_29_february_is_no_day_or_a_day_without_records(client: httpx.AsyncClient, year: int) -> None:
    """In a leap year it is a date without data (404), in any other not a date at all (422)."""
    answer = await client.get("/weather", params={"date": f"{year:04}-02-29"})
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if leap:
        _assert_no_leap_day(answer)
    else:
        assert answer.status_code == 422
        assert "YYYY-MM-DD" in answer.json()["detail"]


def _assert_no_leap_day(answer: httpx.Response) -> None:
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert "29 February" in answer.json()["detail"]
    assert "ask for another day" in answer.json()["detail"]


@settings(deadline=None, max_examples=60)
@given(
    text=st.one_of(
        st.text(max_size=12),
        st.builds("{:04}-{:02}-{:02}".format, st.integers(0, 9999), st.integers(0, 13), st.integers(0, 32)),
        st.sampled_from(["2013-1-5", "20130105", "2013-W03-2", "2013-01-05T00:00:00", "1357344000", "0000-01-01"]),
        st.sampled_from(["\u0662\u0660\u0661\u0663-01-05", " 2013-01-05", "2013-01-05\n", "-001-01-01", "today"]),
    )
)
async def test_only_a_calendar_date_is_a_date(client: httpx.AsyncClient, text: str) -> None:
    """Everything that is not YYYY-MM-DD on the calendar is refused with what to write instead."""
    answer = await client.get("/flights", params={"date": text, "limit": 1})
    try:
        valid = dt.date.fromisoformat(text).isoformat() == text
    except ValueError:
        valid = False
    if valid:
        assert answer.status_code in (200, 404)
    else:
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert "YYYY-MM-DD" in answer.json()["detail"]


async def test_a_day_without_records_is_an_empty_day(client: httpx.AsyncClient) -> None:
    """The weather of 31 December was not recorded: no rows, and the columns all the same."""
    ndjson = await client.get("/weather", params={"date": "2025-12-31"})
    assert (ndjson.status_code, ndjson.content, ndjson.headers["X-Row-Count"]) == (200, b"", "0")
    arrow = await client.get("/weather", params={"date": "2025-12-31"}, headers=ARROW)
    frame = pl.read_ipc_stream(io.BytesIO(arrow.content))
    assert frame.height == 0
    assert frame.schema == schema(TABLES["weather"])


def test_days_scattered_through_the_file_are_gathered() -> None:
    """A day's rows keep the order of the file even where other days lie between them."""
    frame = pl.DataFrame({"month": [2, 1, 2], "day": [1, 1, 1], "origin": ["c", "b", "a"]})
    empty = {name: pl.DataFrame(schema=schema(row)) for name, row in TABLES.items()}
    weather = pl.concat([empty["weather"], frame], how="diagonal_relaxed")
    gathered = Records({**empty, "weather": weather}).day("weather", dt.date(2013, 2, 1))
    assert gathered["origin"].to_list() == ["c", "a"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """An incomplete installation does not start."""
    with pytest.raises(DatasetError, match="flights"):
        Records.load(tmp_path)


def test_a_file_with_other_columns_is_refused(tmp_path: Path) -> None:
    """Another release of the data set is not served under the wrong names."""
    with zipfile.ZipFile(tmp_path / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", "year,moon\n2013,1\n")
    with pytest.raises(DatasetError, match="moon"):
        Records.load(tmp_path)


def test_a_value_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """A number that is none stops the start instead of becoming null."""
    columns = list(TABLES["flights"].model_fields)
    values = ["2013", "1", "1", "soon"] + ["1"] * (len(columns) - 5) + ["2013-01-01T10:00:00Z"]
    with zipfile.ZipFile(tmp_path / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", f"{','.join(columns)}\n{','.join(values)}\n")
    with pytest.raises(DatasetError, match="soon"):
        Records.load(tmp_path)
