"""What the artifacts of a day say, from a real warehouse's rows, and the drawing itself."""

import re
from datetime import date, timedelta
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree

import asyncpg
import polars as pl
import pytest
from etl import figures
from etl.artifacts import Artifact
from etl.claim import claim_date
from etl.drawing import Axis, Chart
from etl.extract import Day
from etl.load import LoadedBy, load_day
from etl.showing import BY_HOUR, DELAYS, QUALITY, by_hour, delays, of_warehouse, quality
from etl.spool import Spool
from etl.transform import transform

from .conftest import JANUARY_15

LOGICAL_DATE = date(2026, 1, 15)
SVG = "{http://www.w3.org/2000/svg}"


async def load(warehouse: str, day: date, flights: pl.DataFrame, weather: pl.DataFrame) -> int:
    """Load the real day as `day`, and tell how many flights have no weather."""
    run_id = uuid4()
    claim = await claim_date(warehouse, flow_run_id=run_id, run_id=run_id, logical_date=day)
    tables = transform(
        Day(rows=Spool.of(flights), record_date=JANUARY_15),
        Day(rows=Spool.of(weather), record_date=JANUARY_15),
        logical_date=day,
    )
    by = LoadedBy(run_id=run_id, correlation_id="test", claim=claim)
    load_day(warehouse, tables, loaded_by=by, statement_timeout_seconds=30)
    return tables.without_weather


async def fetch(warehouse: str, query: str, *values: Any) -> list[Any]:
    connection = await asyncpg.connect(warehouse)
    try:
        return [tuple(row) for row in await connection.fetch(query, *values)]
    finally:
        await connection.close()


async def test_the_hours_add_up_to_postgresqls_own_count(
    warehouse: str, january_15: pl.DataFrame, january_15_weather: pl.DataFrame
) -> None:
    """Flights, cancellations, mean and percentile of each scheduled hour; a departure at 2400 is in the first."""
    midnight = january_15.with_row_index().with_columns(
        sched_dep_time=pl.when(pl.col("index") < 3).then(2400).otherwise(pl.col("sched_dep_time"))
    )
    await load(warehouse, LOGICAL_DATE, midnight.drop("index"), january_15_weather)
    counted = """
        SELECT (sched_dep_time / 100 % 24)::smallint, count(*), count(*) - count(dep_delay),
            avg(dep_delay)::numeric(12, 6), percentile_cont(0.95) WITHIN GROUP (ORDER BY dep_delay)::numeric(12, 6)
        FROM flights GROUP BY 1
    """
    stored = (
        "SELECT hour, flights, cancelled, mean_delay::numeric(12, 6), p95_delay::numeric(12, 6) FROM daily_hour_delay"
    )
    rows = await fetch(warehouse, stored)
    assert 0 in {hour for hour, *_ in rows}
    assert sorted(rows) == sorted(await fetch(warehouse, counted))


async def test_the_days_before_are_averaged_over_their_flights(
    warehouse: str, january_15: pl.DataFrame, january_15_weather: pl.DataFrame
) -> None:
    """The mean of every flight of the loaded days before, the newest thirty; neither this day nor later ones."""
    late = january_15.with_columns(dep_delay=pl.col("dep_delay") + 60).head(300)
    before = [LOGICAL_DATE - timedelta(days=40)] + [LOGICAL_DATE - timedelta(days=n) for n in range(30, 0, -1)]
    for number, day in enumerate(before):
        few = late if number in {0, 7} else january_15.slice(number * 10, 200)
        await load(warehouse, day, few, january_15_weather)
    await load(warehouse, LOGICAL_DATE, january_15, january_15_weather)
    await load(warehouse, LOGICAL_DATE + timedelta(days=1), late, january_15_weather)
    found = await figures.read(warehouse, LOGICAL_DATE)
    assert (found.dates_before, found.since) == (30, str(before[1]))
    counted = await fetch(
        warehouse,
        "SELECT sched_dep_time / 100 AS hour, avg(dep_delay)::float FROM flights"
        " WHERE logical_date BETWEEN $1 AND $2 GROUP BY 1 ORDER BY 1",
        before[1],
        before[-1],
    )
    assert [(int(one.name), one.mean_delay) for one in found.usual] == [
        (hour, pytest.approx(delay)) for hour, delay in counted
    ]


async def test_every_part_of_the_query_goes_by_an_index(
    warehouse: str, january_15: pl.DataFrame, january_15_weather: pl.DataFrame
) -> None:
    """However many dates the warehouse holds, no table is read whole."""
    await load(warehouse, LOGICAL_DATE, january_15, january_15_weather)
    await fetch(
        warehouse,
        "INSERT INTO daily_hour_delay SELECT '2010-01-01'::date + n / 24, n % 24, 9, 1, 3, 5"
        " FROM generate_series(0, 80000) n",
    )
    for table, of in (("daily_carrier_delay", "carrier"), ("daily_origin_delay", "origin")):
        await fetch(
            warehouse,
            f"INSERT INTO {table} (logical_date, {of}, flights, cancelled)"
            " SELECT '1990-01-01'::date + n / 5, (n % 5)::text, 9, 1 FROM generate_series(0, 40000) n",
        )
    await fetch(
        warehouse,
        "INSERT INTO rejects SELECT '1990-01-01'::date + n / 5, 'x', '{}', 'y' FROM generate_series(0, 40000) n",
    )
    await fetch(warehouse, "ANALYZE")
    plan = await fetch(warehouse, f"EXPLAIN {figures.QUERY}", LOGICAL_DATE, figures.DATES_BEFORE)
    assert [line for (line,) in plan if "Seq Scan" in line] == []


async def test_quality_counts_what_became_of_every_row(
    warehouse: str, january_15: pl.DataFrame, january_15_weather: pl.DataFrame
) -> None:
    """Good and rejected make what was fetched; reasons, duplicates, cancellations and missing weather are counted."""
    bad = january_15.with_row_index().with_columns(
        distance=pl.when(pl.col("index") < 3).then(-1).otherwise(pl.col("distance"))
    )
    twice = pl.concat([bad.drop("index"), january_15.slice(10, 5)])
    newark = january_15_weather.filter(pl.col("origin") != "EWR")
    without = await load(warehouse, LOGICAL_DATE, twice, newark)
    found = await figures.read(warehouse, LOGICAL_DATE)
    counts = {row["rows"]: row["count"] for row in quality(found, without_weather=without, degraded=False)}
    [(good, cancelled, bare)] = await fetch(
        warehouse,
        "SELECT count(*), count(*) - count(dep_time), count(*) FILTER (WHERE weather_temp IS NULL) FROM flights",
    )
    assert counts == {
        "fetched": twice.height,
        "good": good,
        "rejected": 8,
        "rejected: a second row for the same flight": 5,
        "rejected: distance is not positive": 3,
        "duplicates": 5,
        "cancelled": cancelled,
        "without weather": bare,
    }
    assert good + 8 == twice.height
    assert bare > 100


async def test_a_degraded_day_says_so_in_every_artifact(
    warehouse: str, january_15: pl.DataFrame, january_15_weather: pl.DataFrame
) -> None:
    """Who sees only one of them shall not take an earlier load for today's."""
    await load(warehouse, LOGICAL_DATE, january_15, january_15_weather)
    artifacts = await of_warehouse(warehouse, LOGICAL_DATE, degraded="the source moves")
    assert [one.key for one in artifacts] == [DELAYS, BY_HOUR, QUALITY]
    assert [one for one in artifacts if not one.description.startswith("Degraded")] == []
    found = await figures.read(warehouse, LOGICAL_DATE)
    assert "degraded" in by_hour(found, degraded=True)
    assert {row["of"] for row in quality(found, without_weather=None, degraded=True)} == {
        "degraded: kept from an earlier load"
    }
    assert sum(row["flights"] for row in delays(found) if row["by"] == "origin") == january_15.height


async def test_hours_without_flights_are_left_out(
    warehouse: str, january_15: pl.DataFrame, january_15_weather: pl.DataFrame
) -> None:
    """A bar and a place on the axis for hours with departures alone; title and axes are named; no script, no link."""
    some = january_15.filter((pl.col("sched_dep_time") // 100).is_in([7, 8, 21]))
    await load(warehouse, LOGICAL_DATE, some, january_15_weather)
    svg = by_hour(await figures.read(warehouse, LOGICAL_DATE), degraded=False)
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own
    texts = [text.text or "" for text in root.iter(f"{SVG}text")]
    places = [text.text or "" for text in root.iter(f"{SVG}text") if text.get("text-anchor") == "middle"]
    assert [place for place in places if re.fullmatch(r"\d\d", place)] == ["07", "08", "21"]
    assert len([bar for bar in root.iter(f"{SVG}rect") if bar.find(f"{SVG}title") is not None]) == 3
    assert {"scheduled hour of departure, local time", "mean delay, minutes"} <= set(texts)
    assert "Departure delay by hour, 2026-01-15" in texts
    assert "prefers-color-scheme:dark" in svg
    assert len(svg) < 8000
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg",
        "title",
        "style",
        "rect",
        "text",
        "line",
        "polyline",
        "circle",
    }


async def test_a_day_of_which_nothing_departed_is_drawn(warehouse: str) -> None:
    """An empty frame: no figure is made up, and nothing fails."""
    found = await figures.read(warehouse, LOGICAL_DATE)
    assert (found.dates_before, found.since, delays(found)) == (0, None, [])
    assert "polyline" not in by_hour(found, degraded=False)


@pytest.mark.parametrize("values", [[0.0], [-3.0, 12.5], [0.001], [1400.0, -20.0], [7.0, 9.0]])
def test_an_axis_holds_its_values_at_round_ticks(values: list[float]) -> None:
    """Zero and every value are between its ends, at three to twelve ticks."""
    axis = Axis.around(values, label="minutes")
    assert [value for value in (0.0, *values) if not 0 <= axis.share(value) <= 1] == []
    assert 2 <= len(axis.ticks) <= 12
    assert axis.ticks[0][0] == axis.low


def test_texts_in_a_drawing_are_escaped() -> None:
    """A name out of somebody's data is text, and no markup."""
    axis = Axis.around([1.0], label="<b>")
    chart = Chart("a & b", across=axis, up=axis)
    chart.dot("a", 0.5, 0.5, text="</title><script>")
    [title, *_] = ElementTree.fromstring(chart.svg()).iter(f"{SVG}title")  # noqa: S314 - our own
    assert title.text == "a & b"
    assert "<script" not in chart.svg()
    assert Artifact.drawing("k", chart.svg(), description="").data.startswith("data:image/svg+xml;base64,")
