"""What the daily job's artifacts show of a date: delays, its hours against those of the dates before, and quality."""

from collections.abc import Sequence
from datetime import date
from typing import Any

from etl import figures
from etl.artifacts import Artifact
from etl.drawing import Axis, Chart
from etl.figures import Delays, Figures
from etl.rows import REPEATED

DELAYS, BY_HOUR, QUALITY = "etl-delays", "etl-delay-by-hour", "etl-quality"


async def of_warehouse(
    warehouse_url: str, day: date, *, without_weather: int | None = None, degraded: str | None = None
) -> Sequence[Artifact]:
    """The three artifacts of a date as it is in the warehouse now.

    Args:
        warehouse_url: postgresql://…
        day: the logical date.
        without_weather: how many of its flights have no weather; None: nobody counted.
        degraded: why the date keeps what an earlier run loaded, where it does.

    Raises:
        OSError, asyncpg's errors: see etl.claim.UNREACHABLE.
    """
    found = await figures.read(warehouse_url, day)
    said = f"Degraded, an earlier load was kept: {degraded}. " if degraded else ""
    return (
        Artifact.table(DELAYS, delays(found), description=f"{said}Flights of {day} by carrier and by origin"),
        Artifact.drawing(
            BY_HOUR, by_hour(found, degraded=degraded is not None), description=f"{said}Delays of {day} by hour"
        ),
        Artifact.table(
            QUALITY,
            quality(found, without_weather=without_weather, degraded=degraded is not None),
            description=f"{said}Rows of {day}: how many came, and what became of them",
        ),
    )


def delays(found: Figures) -> list[dict[str, Any]]:
    """A row a carrier, then a row an origin; delays in minutes."""
    rows = [("carrier", one) for one in found.carriers] + [("origin", one) for one in found.origins]
    return [
        {
            "by": by,
            "of": one.name,
            "flights": one.flights,
            "cancelled": one.cancelled,
            "mean delay (min)": None if one.mean_delay is None else round(one.mean_delay, 1),
        }
        for by, one in rows
    ]


def quality(found: Figures, *, without_weather: int | None, degraded: bool) -> list[dict[str, Any]]:
    """A row a count; of a degraded date, of the load that was kept."""
    good = sum(one.flights for one in found.origins)
    rejected = sum(count for _, count in found.rejects)
    counts: list[tuple[str, int | None]] = [
        ("fetched", good + rejected),
        ("good", good),
        ("rejected", rejected),
        *((f"rejected: {reason}", count) for reason, count in found.rejects),
        ("duplicates", dict(found.rejects).get(REPEATED, 0)),
        ("cancelled", sum(one.cancelled for one in found.origins)),
        ("without weather", without_weather),
    ]
    of = "degraded: kept from an earlier load" if degraded else "this date"
    return [{"rows": rows, "count": count, "of": of} for rows, count in counts if count is not None]


def by_hour(found: Figures, *, degraded: bool) -> str:
    """The mean delay of each hour in which flights departed: this date's as bars, of those before as a line."""
    places = {
        name: float(place)
        for place, name in enumerate(
            sorted({one.name for one in (*found.hours, *found.usual) if one.mean_delay is not None}, key=int)
        )
    }
    mine, usual = _departed(found.hours), _departed(found.usual)
    chart = Chart(
        f"Departure delay by hour, {found.logical_date}{' (degraded: an earlier load)' if degraded else ''}",
        across=Axis(
            label="scheduled hour of departure, local time",
            low=-0.5,
            high=max(len(places), 1) - 0.5,
            ticks=[(place, f"{int(name):02d}") for name, place in places.items()],
        ),
        up=Axis.around([delay for _, delay in (*mine, *usual)], label="mean delay, minutes"),
    )
    for one, delay in mine:
        told = f"{int(one.name):02d}: {delay:.1f} min, {one.flights} flights, {one.cancelled} cancelled"
        chart.bar("a", places[one.name], delay, text=told)
    chart.legend("a", f"{found.logical_date}")
    if usual:
        chart.line("b", [(places[one.name], delay) for one, delay in usual])
        dates = "1 loaded date" if found.dates_before == 1 else f"{found.dates_before} loaded dates"
        chart.legend("b", f"mean of the {dates} before, since {found.since}")
    return chart.svg()


def _departed(hours: Sequence[Delays]) -> list[tuple[Delays, float]]:
    return [(one, one.mean_delay) for one in hours if one.mean_delay is not None]
