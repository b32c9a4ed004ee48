"""The delay tables and the weather join, against a count made without polars."""

import math
import statistics
from collections import defaultdict
from datetime import date

import polars as pl
import pytest
from etl.checksum import checksum
from etl.errors import BadData
from etl.extract import Day
from etl.load import Loaded
from etl.report import markdown
from etl.spool import Spool
from etl.transform import DayTables, require_mostly_good, transform

from .conftest import JANUARY_15

LOGICAL_DATE = date(2026, 1, 15)


@pytest.fixture(scope="module")
def tables(january_15: pl.DataFrame, january_15_weather: pl.DataFrame) -> DayTables:
    return transform(
        Day(rows=Spool.of(january_15), record_date=JANUARY_15),
        Day(rows=Spool.of(january_15_weather), record_date=JANUARY_15),
        logical_date=LOGICAL_DATE,
    )


def percentile(values: list[int], fraction: float) -> float:
    """Linear interpolation between the two nearest ranks."""
    ordered = sorted(values)
    rank = fraction * (len(ordered) - 1)
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


@pytest.mark.parametrize("by", ["carrier", "origin"])
def test_delays_equal_an_independent_count(tables: DayTables, flights_csv: list[dict[str, str]], by: str) -> None:
    """Flights, cancellations, mean and 95th percentile by carrier and by origin, as counted from the CSV itself."""
    groups: dict[str, list[str]] = defaultdict(list)
    for row in flights_csv:
        if (row["month"], row["day"]) == ("1", "15"):
            groups[row[by]].append(row["dep_delay"])
    table = tables.daily_carrier_delay if by == "carrier" else tables.daily_origin_delay
    assert table[by].to_list() == sorted(groups)
    for row in table.iter_rows(named=True):
        delays = [int(delay) for delay in groups[row[by]] if delay != "NA"]
        assert row["logical_date"] == LOGICAL_DATE
        assert row["flights"] == len(groups[row[by]])
        assert row["cancelled"] == len(groups[row[by]]) - len(delays)
        assert row["mean_delay"] == pytest.approx(statistics.fmean(delays))
        assert row["p95_delay"] == pytest.approx(percentile(delays, 0.95))


def test_each_departure_has_its_hours_weather(tables: DayTables, january_15_weather: pl.DataFrame) -> None:
    """The weather joined is the one of the origin in the departure's hour, and the join adds no row."""
    weather = {(row["origin"], row["time_hour"]): row["temp"] for row in january_15_weather.iter_rows(named=True)}
    assert tables.flights.height == tables.received
    for row in tables.flights.read().iter_rows(named=True):
        assert row["weather_temp"] == weather.get((row["origin"], row["time_hour"]))


def test_a_flight_without_weather_stays(january_15: pl.DataFrame, january_15_weather: pl.DataFrame) -> None:
    """No weather is no reason to lose a flight."""
    without = transform(
        Day(rows=Spool.of(january_15), record_date=JANUARY_15),
        Day(rows=Spool.of(january_15_weather.clear()), record_date=JANUARY_15),
        logical_date=LOGICAL_DATE,
    )
    assert without.flights.height == january_15.height
    assert without.flights.read()["weather_temp"].null_count() == january_15.height


def test_two_weather_records_for_one_hour_are_refused(
    january_15: pl.DataFrame, january_15_weather: pl.DataFrame
) -> None:
    """A doubled weather record would double flights: the day is refused instead."""
    doubled = pl.concat([january_15_weather, january_15_weather.head(1)])
    with pytest.raises(BadData, match="two weather records"):
        transform(
            Day(rows=Spool.of(january_15), record_date=JANUARY_15),
            Day(rows=Spool.of(doubled), record_date=JANUARY_15),
            logical_date=LOGICAL_DATE,
        )


@pytest.mark.parametrize(("bad", "refused"), [(5, False), (6, True)])
def test_more_than_five_percent_bad_refuses_the_day(
    january_15: pl.DataFrame, january_15_weather: pl.DataFrame, bad: int, refused: bool
) -> None:
    """5 of 100 bad rows are accepted, 6 of 100 are not, and the message says which rules were broken."""
    hundred = (
        january_15.head(100)
        .with_row_index()
        .with_columns(distance=pl.when(pl.col("index") < bad).then(-1).otherwise(pl.col("distance")))
    )
    tables = transform(
        Day(rows=Spool.of(hundred.drop("index")), record_date=JANUARY_15),
        Day(rows=Spool.of(january_15_weather), record_date=JANUARY_15),
        logical_date=LOGICAL_DATE,
    )
    assert tables.rejects.height == bad
    if not refused:
        require_mostly_good(tables, max_rejected_ratio=0.05)
        return
    with pytest.raises(BadData, match=r"6 of 100 flights .* \(6\.0%, limit 5\.0%\): distance is not positive \(6\)"):
        require_mostly_good(tables, max_rejected_ratio=0.05)


def test_the_report_shows_counts_and_worst_delays(tables: DayTables, flights_csv: list[dict[str, str]]) -> None:
    """The artifact names the day, the counts and the five latest departures, worst first."""
    delays = sorted(
        (int(r["dep_delay"]) for r in flights_csv if (r["month"], r["day"]) == ("1", "15") and r["dep_delay"] != "NA"),
        reverse=True,
    )
    assert tables.worst_delays["dep_delay"].to_list() == delays[:5]
    text = markdown(tables, Loaded(rows=tables.flights.height, rejected=0, checksum=checksum(tables.flights)))
    assert "# Flights of 2026-01-15" in text
    assert f"{tables.flights.height} flights loaded" in text
    assert f"| {delays[0]} |" in text
