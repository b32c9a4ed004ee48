"""Rows: what is kept, what is rejected and why, and that nothing is dropped silently."""

import json
from typing import Any

import polars as pl
import pytest
from etl.errors import BadData
from etl.rows import FLIGHT_COLUMNS, sort_out
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import JANUARY_15

GOOD: dict[str, Any] = {
    "year": 2013,
    "month": 1,
    "day": 15,
    "dep_time": 517,
    "sched_dep_time": 515,
    "dep_delay": 2,
    "arr_time": 830,
    "sched_arr_time": 819,
    "arr_delay": 11,
    "carrier": "UA",
    "flight": 1545,
    "tailnum": "N14228",
    "origin": "EWR",
    "dest": "IAH",
    "air_time": 227,
    "distance": 1400,
    "hour": 5,
    "minute": 15,
    "time_hour": "2013-01-15T10:00:00Z",
}


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), infer_schema_length=None, strict=False).with_columns(
        pl.col("time_hour").str.to_datetime(time_zone="UTC", strict=False)
    )


def test_a_real_day_is_good_throughout(january_15: pl.DataFrame) -> None:
    """The recorded flights of a day keep every rule."""
    sorted_out = sort_out(january_15, record_date=JANUARY_15)
    assert sorted_out.good.height == january_15.height
    assert sorted_out.rejects.is_empty()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"carrier": None}, "carrier is missing"),
        ({"origin": None}, "origin is missing"),
        ({"time_hour": None}, "time_hour is missing"),
        ({"day": 16}, "another day's record"),
        ({"carrier": "United"}, "carrier is not a two-character code"),
        ({"origin": "ewr"}, "origin is not a three-letter airport code"),
        ({"dest": "?"}, "dest is not a three-character airport code"),
        ({"flight": 0}, "flight number is not positive"),
        ({"distance": -1}, "distance is not positive"),
        ({"sched_dep_time": 2575}, "sched_dep_time is not a clock time"),
        ({"dep_time": 961}, "dep_time is not a clock time"),
        ({"dep_time": None}, "a delay without a departure"),
        ({"dep_delay": None}, "a departure without a delay"),
        ({"dep_delay": -5000}, "delay is out of range"),
        ({"distance": "far"}, "distance is not Int32"),
        ({"sched_dep_time": 100_000}, "sched_dep_time is not Int16"),
    ],
)
def test_a_bad_row_is_kept_with_its_reason(change: dict[str, Any], reason: str) -> None:
    """A row that breaks a rule goes to the rejects, as it came, with the rule's name."""
    bad = {**GOOD, "flight": 99, **change}
    sorted_out = sort_out(frame(GOOD, bad), record_date=JANUARY_15)
    assert sorted_out.good.height == 1
    assert sorted_out.rejects["reason"].to_list() == [reason]
    record = json.loads(sorted_out.rejects["record"][0])
    changed = next(iter(change))
    assert str(record[changed]) == str(change[changed])


def test_a_second_row_for_the_same_flight_is_rejected() -> None:
    """The first row of a flight counts; the next is a reject."""
    sorted_out = sort_out(frame(GOOD, {**GOOD, "dep_delay": 40}), record_date=JANUARY_15)
    assert sorted_out.good["dep_delay"].to_list() == [2]
    assert sorted_out.rejects["reason"].to_list() == ["a second row for the same flight"]


def test_an_absent_column_is_named() -> None:
    """Without a column no row can be judged: the whole day is refused, and the column named."""
    with pytest.raises(BadData, match="lack the column\\(s\\) carrier"):
        sort_out(frame(GOOD).drop("carrier"), record_date=JANUARY_15)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "flight": st.none() | st.integers(-5, 5),
                "carrier": st.sampled_from(["UA", "AA", "", "toolong", None]),
                "dep_time": st.none() | st.integers(-10, 2500),
                "dep_delay": st.none() | st.integers(-(2**40), 2**40),
                "day": st.integers(14, 16),
            }
        ),
        min_size=1,
        max_size=30,
    )
)
def test_every_row_is_in_exactly_one_place(rows: list[dict[str, Any]]) -> None:
    """Good rows and rejects add up to what came, each reject has a reason, and good rows pass again."""
    raw = frame(*({**GOOD, **row} for row in rows))
    sorted_out = sort_out(raw, record_date=JANUARY_15)
    assert sorted_out.good.height + sorted_out.rejects.height == raw.height
    assert sorted_out.rejects["reason"].null_count() == 0
    assert sort_out(sorted_out.good, record_date=JANUARY_15).rejects.is_empty()
    assert dict(sorted_out.good.schema) == FLIGHT_COLUMNS
