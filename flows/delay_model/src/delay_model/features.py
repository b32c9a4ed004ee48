"""What is known of a flight when the hour of its scheduled departure begins: the columns that a model may look at.

That hour's own weather and delays are not among them, nor is anything that happened later: weather is that of an hour
before, and delays are those of flights that had left by then.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

Matrix = npt.NDArray[np.float64]

_WEATHER = ("temp", "wind_speed", "wind_gust", "precip", "pressure", "visib")
_NAMES = ("carrier", "origin", "dest")
COLUMNS = (
    *(f"usual_of_{name}" for name in _NAMES),
    "usual_of_hour",
    "minute_of_day",
    "weekday",
    "distance",
    "origin_delay_so_far",
    "origin_departures_so_far",
    "carrier_delay_so_far",
    *(f"weather_{name}_before" for name in _WEATHER),
)

# Delays of flights that left in these hours before are what is known of the day so far.
_LOOKING_BACK = "3h"
# A day's few catastrophes shall not decide what is usual. In minutes.
_LEAST_DELAY, _MOST_DELAY = -30, 180
# As many flights with the mean of all are mixed into each name's own.
_MIXED_IN = 50


@dataclass(frozen=True, kw_only=True)
class Usual:
    """Delays as they usually are, by the value of a column: learned from the days that a model is fitted on alone."""

    of_all: float
    of: Mapping[str, Mapping[str, float]]

    @classmethod
    def learn(cls, flights: pl.DataFrame) -> Self:
        """Learn from flights with a delay."""
        delay = pl.col("dep_delay").clip(_LEAST_DELAY, _MOST_DELAY)
        of_all = float(flights.select(delay.mean()).item())
        mixed = (delay.sum() + _MIXED_IN * of_all) / (pl.len() + _MIXED_IN)
        return cls(
            of_all=of_all,
            of={
                name: dict(by.sort("of").rows())
                for name, column in _named().items()
                for by in [flights.group_by(column.alias("of")).agg(mixed)]
            },
        )


def known(flights: pl.DataFrame, usual: Usual) -> Matrix:
    """The columns of COLUMNS for each row, in the rows' order; not a number where something is not known."""
    so_far = _so_far(_before(flights), flights)
    columns = [
        *(_usually(name, column, usual) for name, column in _named().items()),
        (pl.col("sched_dep_time") // 100 * 60 + pl.col("sched_dep_time") % 100).alias("minute_of_day"),
        pl.col("logical_date").dt.weekday().alias("weekday"),
        pl.col("distance"),
        pl.col("^.*_so_far$"),
        pl.col("^weather_.*_before$"),
    ]
    table = so_far.sort("row").select(columns).select(COLUMNS)
    return np.asarray(table.cast(pl.Float64).fill_null(float("nan")).to_numpy(), dtype=np.float64)


def departed(flights: pl.DataFrame, *, since: date | None = None, before: date | None = None) -> pl.Series:
    """Which rows are of flights that left, within the dates; the others have no delay to learn or to judge by."""
    told = pl.col("dep_delay").is_not_null()
    if since is not None:
        told &= pl.col("logical_date") >= since
    if before is not None:
        told &= pl.col("logical_date") < before
    return flights.select(told).to_series()


def _named() -> dict[str, pl.Expr]:
    hour = (pl.col("sched_dep_time") // 100 % 24).cast(pl.String)
    return {**{name: pl.col(name) for name in _NAMES}, "hour": hour}


def _usually(name: str, column: pl.Expr, usual: Usual) -> pl.Expr:
    learned = usual.of[name]
    return column.replace_strict(
        list(learned), list(learned.values()), default=usual.of_all, return_dtype=pl.Float64
    ).alias(f"usual_of_{name}")


def _before(flights: pl.DataFrame) -> pl.DataFrame:
    """Each row with its origin's newest weather that is at least an hour, and at most three, older than its own."""
    place = ["logical_date", "origin"]
    weather = (
        flights.select(
            *place,
            (pl.col("time_hour") + pl.duration(hours=1)).alias("known_at"),
            *(pl.col(f"weather_{name}").alias(f"weather_{name}_before") for name in _WEATHER),
        )
        .unique([*place, "known_at"], keep="first", maintain_order=True)
        .sort("known_at")
    )
    return (
        flights.with_row_index("row")
        .sort("time_hour", maintain_order=True)
        .join_asof(weather, left_on="time_hour", right_on="known_at", by=place, tolerance="2h", check_sortedness=False)
    )


def _so_far(rows: pl.DataFrame, flights: pl.DataFrame) -> pl.DataFrame:
    """Each row with how late flights of its origin, and of its carrier, were that left in the hours before its own.

    Of earlier hours' flights alone: one that left early must not be found among what was known of itself.
    """
    left_at = pl.col("time_hour") + pl.duration(minutes=pl.col("sched_dep_time") % 100 + pl.col("dep_delay"))
    left = (
        flights.filter(departed(flights))
        .with_columns(
            pl.max_horizontal(left_at, pl.col("time_hour") + pl.duration(hours=1)).alias("left_at"),
            pl.col("dep_delay").clip(_LEAST_DELAY, _MOST_DELAY).cast(pl.Float64).alias("late"),
        )
        .sort("left_at", maintain_order=True)
    )
    for of in ("origin", "carrier"):
        by = ["logical_date", of]
        counted = left.select(
            *by,
            "left_at",
            pl.col("late").cum_sum().over(by).alias("sum"),
            pl.int_range(1, pl.len() + 1).over(by).alias("n"),
        )
        now = pl.col("time_hour")
        for when, moment in (("now", now), ("then", now.dt.offset_by(f"-{_LOOKING_BACK}"))):
            rows = (
                rows.with_columns(moment.alias("at"))
                .sort("at", maintain_order=True)
                .join_asof(counted, left_on="at", right_on="left_at", by=by, check_sortedness=False)
                .rename({"sum": f"sum_{when}", "n": f"n_{when}"})
                .drop("at", "left_at")
            )
        number = pl.col("n_now").fill_null(0) - pl.col("n_then").fill_null(0)
        total = pl.col("sum_now").fill_null(0) - pl.col("sum_then").fill_null(0)
        rows = rows.with_columns(
            pl.when(number > 0).then(total / number).alias(f"{of}_delay_so_far"),
            number.alias(f"{of}_departures_so_far"),
        ).drop("sum_now", "sum_then", "n_now", "n_then")
    return rows
