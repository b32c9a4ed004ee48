"""What a good row is: the columns the source must deliver, their types, and the rules each row must keep."""

from dataclasses import dataclass
from datetime import date

import polars as pl

from etl.errors import BadData

FLIGHT_COLUMNS: dict[str, pl.DataType] = {
    "year": pl.Int16(),
    "month": pl.Int16(),
    "day": pl.Int16(),
    "dep_time": pl.Int16(),
    "sched_dep_time": pl.Int16(),
    "dep_delay": pl.Int32(),
    "arr_time": pl.Int16(),
    "sched_arr_time": pl.Int16(),
    "arr_delay": pl.Int32(),
    "carrier": pl.String(),
    "flight": pl.Int32(),
    "tailnum": pl.String(),
    "origin": pl.String(),
    "dest": pl.String(),
    "air_time": pl.Int32(),
    "distance": pl.Int32(),
    "hour": pl.Int16(),
    "minute": pl.Int16(),
    "time_hour": pl.Datetime("us", "UTC"),
}

WEATHER_COLUMNS: dict[str, pl.DataType] = {
    "origin": pl.String(),
    "time_hour": pl.Datetime("us", "UTC"),
    "temp": pl.Float64(),
    "humid": pl.Float64(),
    "wind_speed": pl.Float64(),
    "wind_gust": pl.Float64(),
    "precip": pl.Float64(),
    "pressure": pl.Float64(),
    "visib": pl.Float64(),
}

FLIGHT_KEY = ("time_hour", "carrier", "flight")
REPEATED = "a second row for the same flight"

_REQUIRED = ("sched_dep_time", "carrier", "flight", "origin", "dest", "distance", "time_hour")


@dataclass(frozen=True, kw_only=True)
class SortedOut:
    """Flights, divided: `good` rows with the columns above, and `rejects` with `reason` and `record` (JSON)."""

    good: pl.DataFrame
    rejects: pl.DataFrame


def _is_clock_time(column: str) -> pl.Expr:
    """HHMM local time; 2400 is the dataset's midnight at a day's end."""
    value = pl.col(column)
    return value.is_between(0, 2400) & (value % 100 < 60)


def _rules(record_date: date, repeats: pl.Expr) -> list[tuple[str, pl.Expr]]:
    """Each rule as (reason, true where a row breaks it), in the order in which a row's reason is chosen."""
    missing = [(f"{column} is missing", pl.col(column).is_null()) for column in _REQUIRED]
    return [
        *missing,
        (
            "another day's record",
            (pl.col("month") != record_date.month) | (pl.col("day") != record_date.day),
        ),
        ("carrier is not a two-character code", ~pl.col("carrier").str.contains(r"^[A-Z0-9]{2}$")),
        ("origin is not a three-letter airport code", ~pl.col("origin").str.contains(r"^[A-Z]{3}$")),
        ("dest is not a three-character airport code", ~pl.col("dest").str.contains(r"^[A-Z0-9]{3}$")),
        ("flight number is not positive", pl.col("flight") <= 0),
        ("distance is not positive", pl.col("distance") <= 0),
        ("sched_dep_time is not a clock time", ~_is_clock_time("sched_dep_time")),
        ("dep_time is not a clock time", ~_is_clock_time("dep_time")),
        ("arr_time is not a clock time", ~_is_clock_time("arr_time")),
        ("a delay without a departure", pl.col("dep_time").is_null() & pl.col("dep_delay").is_not_null()),
        ("a departure without a delay", pl.col("dep_time").is_not_null() & pl.col("dep_delay").is_null()),
        ("delay is out of range", ~pl.col("dep_delay").is_between(-24 * 60, 7 * 24 * 60)),
        (REPEATED, repeats),
    ]


def conform(frame: pl.DataFrame, columns: dict[str, pl.DataType], *, what: str) -> pl.DataFrame:
    """Bring the source's frame to our columns and types; a value that does not fit its type becomes null.

    Raises:
        BadData: a column is absent, so that no row can be judged.
    """
    absent = [column for column in columns if column not in frame.columns]
    if absent:
        raise BadData(f"the source's {what} lack the column(s) {', '.join(absent)}; compare its schema with etl.rows")
    return frame.select(pl.col(column).cast(dtype, strict=False) for column, dtype in columns.items())


def sort_out(raw: pl.DataFrame, *, record_date: date, repeats: pl.Series | None = None) -> SortedOut:
    """Divide raw flights into good rows and rejects; every row is in exactly one of the two.

    Args:
        raw: flights as the source delivered them.
        record_date: the day that the records themselves carry (month and day are compared).
        repeats: for each row, whether one before it was of the same flight; where absent, only these rows are compared.

    Raises:
        BadData: the frame lacks a column.
    """
    flights = conform(raw, FLIGHT_COLUMNS, what="flights")
    repeated = ~pl.struct(FLIGHT_KEY).is_first_distinct() if repeats is None else pl.lit(repeats)
    unreadable = [
        (raw[column].is_not_null() & flights[column].is_null()).alias(f"{column} is not {dtype}")
        for column, dtype in FLIGHT_COLUMNS.items()
        if raw[column].null_count() < flights[column].null_count()
    ]
    rules = [breaks.fill_null(value=False).alias(reason) for reason, breaks in _rules(record_date, repeated)]
    broken = flights.select(*unreadable, *rules)
    is_bad = broken.select(pl.any_horizontal(pl.all())).to_series()
    # Most rows break no rule: only of the others it is asked which one is the first that they break.
    first = pl.coalesce(pl.when(pl.col(reason)).then(pl.lit(reason)) for reason in broken.columns)
    records = raw.filter(is_bad).write_ndjson().splitlines()
    return SortedOut(
        good=flights.filter(~is_bad),
        rejects=broken.filter(is_bad).select(first.alias("reason"), record=pl.Series(records, dtype=pl.String)),
    )
