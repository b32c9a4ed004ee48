"""What a day of raw records becomes: validated flights with their departure hour's weather, and the delay tables."""

from dataclasses import dataclass
from datetime import date

import polars as pl

from etl.errors import BadData
from etl.extract import Day
from etl.rows import WEATHER_COLUMNS, conform, sort_out

_SORT = ("time_hour", "carrier", "flight")


@dataclass(frozen=True, kw_only=True)
class DayTables:
    """Everything a load writes for one logical date. Delays are in minutes, at departure."""

    logical_date: date
    flights: pl.DataFrame
    daily_carrier_delay: pl.DataFrame
    daily_origin_delay: pl.DataFrame
    rejects: pl.DataFrame

    @property
    def received(self) -> int:
        """Rows that the source delivered: the good ones and the rejects."""
        return self.flights.height + self.rejects.height

    @property
    def rejected_ratio(self) -> float:
        """The share of rows that broke a rule, 0 to 1."""
        return self.rejects.height / self.received if self.received else 0.0


def transform(flights: Day, weather: Day, *, logical_date: date) -> DayTables:
    """Validate a day's flights, join the weather at each departure's origin and hour, and sum up the delays.

    Raises:
        BadData: the flights or the weather lack a column, or two weather rows claim one origin and hour.
    """
    sorted_out = sort_out(flights.rows, record_date=flights.record_date)
    weather_rows = conform(weather.rows, WEATHER_COLUMNS, what="weather records")
    try:
        joined = sorted_out.good.join(
            weather_rows.rename(
                {name: f"weather_{name}" for name in WEATHER_COLUMNS if name not in {"origin", "time_hour"}}
            ),
            on=["origin", "time_hour"],
            how="left",
            validate="m:1",
        )
    except pl.exceptions.ComputeError as exc:
        raise BadData(
            "the source delivered two weather records for one airport and hour: no departure can tell which is its own"
        ) from exc
    dated = joined.sort(_SORT).select(pl.lit(logical_date).alias("logical_date"), pl.all())
    return DayTables(
        logical_date=logical_date,
        flights=dated,
        daily_carrier_delay=_delays(dated, by="carrier"),
        daily_origin_delay=_delays(dated, by="origin"),
        rejects=sorted_out.rejects.select(pl.lit(logical_date).alias("logical_date"), pl.all()),
    )


def require_mostly_good(tables: DayTables, *, max_rejected_ratio: float) -> None:
    """Refuse a day of which too much is bad.

    Raises:
        BadData: more than the given share of rows broke a rule; the text names the commonest reasons.
    """
    if tables.rejected_ratio <= max_rejected_ratio:
        return
    reasons = tables.rejects["reason"].value_counts(sort=True).head(3).rows()
    raise BadData(
        f"{tables.rejects.height} of {tables.received} flights of {tables.logical_date} are bad"
        f" ({tables.rejected_ratio:.1%}, limit {max_rejected_ratio:.1%}): "
        + ", ".join(f"{reason} ({count})" for reason, count in reasons)
        + "; the rows are in the warehouse's table rejects, what was loaded before is untouched"
    )


def _delays(flights: pl.DataFrame, *, by: str) -> pl.DataFrame:
    """Flights, cancellations, mean and 95th-percentile departure delay by carrier or origin.

    A flight that never left is cancelled and has no delay. The percentile interpolates linearly, as PostgreSQL's
    percentile_cont does, so that both give the same figure.
    """
    return (
        flights.group_by("logical_date", by)
        .agg(
            flights=pl.len().cast(pl.Int64),
            cancelled=pl.col("dep_time").is_null().sum().cast(pl.Int64),
            mean_delay=pl.col("dep_delay").mean(),
            p95_delay=pl.col("dep_delay").quantile(0.95, interpolation="linear"),
        )
        .sort(by)
    )
