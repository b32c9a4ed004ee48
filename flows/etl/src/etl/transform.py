"""What a day of raw records becomes: validated flights with their departure hour's weather, and the delay tables.

A batch at a time, so that memory does not grow with the day.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import date

import polars as pl

from etl.errors import BadData
from etl.extract import Day
from etl.repeats import Keys, Repeats
from etl.rows import WEATHER_COLUMNS, conform, sort_out
from etl.spool import Spool, ahead
from etl.summary import Summary


@dataclass(frozen=True, kw_only=True)
class DayTables:
    """Everything a load writes for one logical date, and what its report tells. Delays are in minutes, at departure.

    `reasons`: how many rejects there are for each reason, the commonest first.
    `without_weather`: how many flights have no weather record of their origin and hour.
    """

    logical_date: date
    flights: Spool
    daily_carrier_delay: pl.DataFrame
    daily_origin_delay: pl.DataFrame
    daily_hour_delay: pl.DataFrame
    rejects: Spool
    reasons: pl.DataFrame
    worst_delays: pl.DataFrame
    without_weather: int

    @property
    def received(self) -> int:
        """Rows that the source delivered: the good ones and the rejects."""
        return self.flights.height + self.rejects.height

    @property
    def rejected_ratio(self) -> float:
        """The share of rows that broke a rule, 0 to 1."""
        return self.rejects.height / self.received if self.received else 0.0

    def close(self) -> None:
        """Give back the room on the disk; the rows cannot be read any more."""
        self.flights.close()
        self.rejects.close()


def transform(flights: Day, weather: Day, *, logical_date: date) -> DayTables:
    """Validate a day's flights, join the weather at each departure's origin and hour, and sum up the delays.

    Raises:
        BadData: the flights or the weather lack a column, or two weather rows claim one origin and hour.
    """
    hours = conform(weather.rows.read(), WEATHER_COLUMNS, what="weather records").rename(
        {name: f"weather_{name}" for name in WEATHER_COLUMNS if name not in {"origin", "time_hour"}}
    )
    with closing(Keys()) as keys:
        tables = _judged(flights, hours, logical_date, repeats=Repeats(), seen=keys.add)
        doubtful = keys.doubtful()
    repeats = Repeats.among(flights.rows, doubtful)
    if not len(repeats):
        return tables
    # Now that it is known which rows repeat a flight, once more: hardly any day has to come here.
    tables.close()
    return _judged(flights, hours, logical_date, repeats=repeats)


def _judged(
    flights: Day,
    hours: pl.DataFrame,
    logical_date: date,
    *,
    repeats: Repeats,
    seen: Callable[[pl.DataFrame], None] = lambda _: None,
) -> DayTables:
    dated = pl.lit(logical_date).alias("logical_date")
    good, rejects, summary = Spool(), Spool(), Summary()
    reasons = list[pl.DataFrame]()
    number = 0
    for raw in ahead(flights.rows):
        seen(raw)
        batch = sort_out(raw, record_date=flights.record_date, repeats=repeats.within(number, raw.height))
        number += raw.height
        joined = _with_weather(batch.good, hours).select(dated, pl.all())
        summary.add(joined)
        good.append(joined)
        rejects.append(batch.rejects.select(dated, pl.all()))
        if not batch.rejects.is_empty() or not reasons:
            reasons.append(batch.rejects["reason"].value_counts())
    return DayTables(
        logical_date=logical_date,
        flights=good,
        daily_carrier_delay=summary.delays(by="carrier", logical_date=logical_date),
        daily_origin_delay=summary.delays(by="origin", logical_date=logical_date),
        daily_hour_delay=summary.delays(by="hour", logical_date=logical_date),
        rejects=rejects,
        reasons=pl.concat(reasons).group_by("reason").agg(pl.col("count").sum()).sort("count", descending=True),
        worst_delays=summary.worst,
        without_weather=summary.without_weather,
    )


def _with_weather(flights: pl.DataFrame, hours: pl.DataFrame) -> pl.DataFrame:
    try:
        return flights.join(hours, on=["origin", "time_hour"], how="left", validate="m:1")
    except pl.exceptions.ComputeError as exc:
        raise BadData(
            "the source delivered two weather records for one airport and hour: no departure can tell which is its own"
        ) from exc


def require_mostly_good(tables: DayTables, *, max_rejected_ratio: float) -> None:
    """Refuse a day of which too much is bad.

    Raises:
        BadData: more than the given share of rows broke a rule; the text names the commonest reasons.
    """
    if tables.rejected_ratio <= max_rejected_ratio:
        return
    raise BadData(
        f"{tables.rejects.height} of {tables.received} flights of {tables.logical_date} are bad"
        f" ({tables.rejected_ratio:.1%}, limit {max_rejected_ratio:.1%}): "
        + ", ".join(f"{reason} ({count})" for reason, count in tables.reasons.head(3).rows())
        + "; the rows are in the warehouse's table rejects, what was loaded before is untouched"
    )
