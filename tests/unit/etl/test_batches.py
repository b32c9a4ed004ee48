"""A day larger than a batch: figures, rejects and repeats are those of the whole, wherever its batches end."""

import json
from collections import Counter

import polars as pl
import polars.testing
import pytest
from etl.checksum import checksum
from etl.errors import BadData
from etl.extract import Day
from etl.repeats import Repeats
from etl.spool import BATCH_ROWS, Spool
from etl.transform import DayTables, require_mostly_good, transform

from .conftest import JANUARY_15

COPIES = 90


@pytest.fixture(scope="module")
def large(january_15: pl.DataFrame) -> pl.DataFrame:
    """Some 80,000 flights of one day: the real ones, copied under new numbers."""
    return pl.concat(january_15.with_columns(pl.col("flight") + 10_000 * copy) for copy in range(COPIES))


def transformed(flights: pl.DataFrame, weather: pl.DataFrame, *, piece: int = 5_000) -> DayTables:
    return transform(
        Day(rows=Spool.of(flights.clear(), *flights.iter_slices(piece)), record_date=JANUARY_15),
        Day(rows=Spool.of(weather), record_date=JANUARY_15),
        logical_date=JANUARY_15,
    )


def test_the_figures_are_those_of_the_whole_day(large: pl.DataFrame, january_15_weather: pl.DataFrame) -> None:
    """Counts, means and percentiles as one query over all rows gives them."""
    assert large.height > 2 * BATCH_ROWS
    tables = transformed(large, january_15_weather)
    assert (tables.flights.height, tables.rejects.height) == (large.height, 0)
    for by, table in (("carrier", tables.daily_carrier_delay), ("origin", tables.daily_origin_delay)):
        expected = large.group_by(by).agg(
            flights=pl.len(),
            cancelled=pl.col("dep_time").null_count(),
            mean_delay=pl.col("dep_delay").mean(),
            p95_delay=pl.col("dep_delay").quantile(0.95, interpolation="linear"),
        )
        polars.testing.assert_frame_equal(table.drop("logical_date"), expected.sort(by), check_dtypes=False)
    worst = large.drop_nulls("dep_delay").sort("dep_delay", descending=True)["dep_delay"].head(5).to_list()
    assert tables.worst_delays["dep_delay"].to_list() == worst


def test_where_batches_end_makes_no_difference(large: pl.DataFrame, january_15_weather: pl.DataFrame) -> None:
    """The same content, its rows in another order and other pieces, has the same checksum and the same delays."""
    one = transformed(large, january_15_weather)
    other = transformed(large.reverse(), january_15_weather, piece=BATCH_ROWS * 3)
    assert checksum(one.flights) == checksum(other.flights)
    assert one.daily_carrier_delay.equals(other.daily_carrier_delay)
    assert one.daily_origin_delay.equals(other.daily_origin_delay)


def test_a_repeat_is_found_across_batches(large: pl.DataFrame, january_15_weather: pl.DataFrame) -> None:
    """The first row of a flight counts, however far away the second is, and also where the first is a bad one."""
    first_is_bad = large.with_row_index().with_columns(
        distance=pl.when(pl.col("index") == 0).then(-1).otherwise(pl.col("distance"))
    )
    repeated = large.head(3).with_columns(pl.col("dep_delay") + 1)
    tables = transformed(pl.concat([first_is_bad.drop("index"), repeated]), january_15_weather)
    rejects = tables.rejects.read()
    assert Counter(rejects["reason"]) == {"distance is not positive": 1, "a second row for the same flight": 3}
    told = [json.loads(record) for record in rejects["record"]]
    assert [one["dep_delay"] for one in told[1:]] == repeated["dep_delay"].to_list()
    assert tables.flights.height == large.height - 1
    assert tables.reasons.rows()[0] == ("a second row for the same flight", 3)


def test_a_day_sent_twice_is_refused(large: pl.DataFrame, january_15_weather: pl.DataFrame) -> None:
    """Half of its rows repeat the other half, and the refusal says so."""
    tables = transformed(pl.concat([large, large]), january_15_weather)
    with pytest.raises(BadData, match=rf"a second row for the same flight \({large.height}\)"):
        require_mostly_good(tables, max_rejected_ratio=0.05)


def test_equal_hashes_alone_repeat_nothing(large: pl.DataFrame) -> None:
    """Were all hashes doubtful, the keys themselves would still tell the flights apart."""
    spool = Spool.of(*large.iter_slices(5_000))
    keys = large.select(
        pl.struct(pl.col("time_hour").cast(pl.Datetime("us", "UTC")), "carrier", pl.col("flight").cast(pl.Int32)).hash()
    )
    assert len(Repeats.among(spool, keys.to_series().alias("hash"))) == 0


def test_an_empty_day_has_no_figures(january_15: pl.DataFrame, january_15_weather: pl.DataFrame) -> None:
    """Nothing came: nothing is good, nothing is bad, and there is a report."""
    tables = transformed(january_15.clear(), january_15_weather)
    assert (tables.received, tables.rejected_ratio, tables.daily_carrier_delay.height) == (0, 0.0, 0)
    require_mostly_good(tables, max_rejected_ratio=0.05)
