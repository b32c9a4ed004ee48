"""The days that a training learns from: what the warehouse holds of them, and whether that is enough and fresh."""

from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta

import adbc_driver_postgresql.dbapi as adbc
import polars as pl

from delay_model.errors import StaleDays, TooFewDays

# How many logical days before the logical date are looked at.
WINDOW = 90
# The newest loaded day may be this many days older than the logical date: a weekly training survives a bad week's end.
STALE_AFTER = 8
# Of how many of the newest days the model is judged: a seventh, two weeks of the whole window.
_HELD_OUT_SHARE = 7

# In an order that the rows alone decide: the same rows make the same model.
_QUERY = """
SELECT logical_date, time_hour, sched_dep_time, dep_delay, carrier, flight, origin, dest, distance,
    weather_temp, weather_wind_speed, weather_wind_gust, weather_precip, weather_pressure, weather_visib
FROM flights WHERE logical_date >= $1 AND logical_date < $2
ORDER BY logical_date, time_hour, carrier, flight, origin, dest, sched_dep_time
"""


@dataclass(frozen=True, kw_only=True)
class Days:
    """Flights of the loaded days before a logical date; fitted on those before `held_out_from`, judged on the rest."""

    flights: pl.DataFrame
    first: date
    last: date
    held_out_from: date
    number: int


def read(warehouse_url: str, logical_date: date, *, least_days: int, statement_timeout_seconds: float) -> Days:
    """Read the last days before the logical date.

    Raises:
        TooFewDays: fewer than `least_days` of them are loaded.
        StaleDays: the newest of them is too old.
        adbc_driver_manager.Error: the warehouse refused or was lost.
    """
    with adbc.connect(warehouse_url) as connection, closing(connection.cursor()) as cursor:
        timeout = f"{int(statement_timeout_seconds * 1000)}ms"
        cursor.execute("SELECT set_config('statement_timeout', $1, true)", (timeout,))
        cursor.execute(_QUERY, (logical_date - timedelta(days=WINDOW), logical_date))
        flights = cursor.fetch_polars()
    return judge(flights, logical_date, least_days=least_days)


def judge(flights: pl.DataFrame, logical_date: date, *, least_days: int) -> Days:
    """Divide flights, sorted by their logical date, in time; raises TooFewDays, StaleDays as read does."""
    loaded = flights["logical_date"].unique().sort().to_list()
    since = logical_date - timedelta(days=WINDOW)
    if len(loaded) < least_days:
        raise TooFewDays(
            f"{len(loaded)} days from {since} on are loaded before {logical_date}, at least {least_days} are needed:"
            " load more by a backfill of etl, or start the training with a smaller parameter least_days"
        )
    age = (logical_date - loaded[-1]).days
    if age > STALE_AFTER:
        raise StaleDays(
            f"the newest loaded day before {logical_date} is {loaded[-1]}, {age} days older, at most {STALE_AFTER} are"
            " accepted: see why etl loads no more, and load what is missing by a backfill"
        )
    held_out = max(1, len(loaded) // _HELD_OUT_SHARE)
    return Days(flights=flights, first=loaded[0], last=loaded[-1], held_out_from=loaded[-held_out], number=len(loaded))
