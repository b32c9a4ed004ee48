"""What the warehouse holds of a date, and of the hours of the dates before it: one query, each part by an index."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import date

from etl.claim import connected

# How many dates before the date its hours are compared with, at most.
DATES_BEFORE = 30

QUERY = """
WITH before AS (
    SELECT logical_date FROM daily_hour_delay WHERE logical_date < $1
    GROUP BY logical_date ORDER BY logical_date DESC LIMIT $2
)
SELECT 'carrier' AS of, carrier AS name, flights, cancelled, mean_delay FROM daily_carrier_delay WHERE logical_date = $1
UNION ALL
SELECT 'origin', origin, flights, cancelled, mean_delay FROM daily_origin_delay WHERE logical_date = $1
UNION ALL
SELECT 'hour', hour::text, flights, cancelled, mean_delay FROM daily_hour_delay WHERE logical_date = $1
UNION ALL
SELECT 'usual', hour::text, sum(flights)::bigint, sum(cancelled)::bigint,
    sum(mean_delay * (flights - cancelled)) / nullif(sum(flights - cancelled), 0)
FROM daily_hour_delay WHERE logical_date IN (SELECT logical_date FROM before) GROUP BY hour
UNION ALL
SELECT 'before', min(logical_date)::text, count(*), 0, NULL FROM before
UNION ALL
SELECT 'reject', reason, count(*), 0, NULL FROM rejects WHERE logical_date = $1 GROUP BY reason
"""


@dataclass(frozen=True, kw_only=True)
class Delays:
    """Flights of one carrier, origin or hour; `mean_delay` at departure, in minutes, None where none departed."""

    name: str
    flights: int
    cancelled: int
    mean_delay: float | None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A date's figures. `usual`: by hour, of the `dates_before` loaded dates before it, the first of which is `since`.

    `rejects`: how many rows were rejected for each reason, the commonest first.
    """

    logical_date: date
    carriers: tuple[Delays, ...]
    origins: tuple[Delays, ...]
    hours: tuple[Delays, ...]
    usual: tuple[Delays, ...]
    dates_before: int
    since: str | None
    rejects: tuple[tuple[str, int], ...]


async def read(warehouse_url: str, logical_date: date) -> Figures:
    """Ask the warehouse.

    Raises:
        OSError, asyncpg's errors: see etl.claim.UNREACHABLE.
    """
    async with connected(warehouse_url) as connection:
        rows = await connection.fetch(QUERY, logical_date, DATES_BEFORE)
    found = defaultdict[str, list[Delays]](list)
    for of, name, flights, cancelled, mean_delay in rows:
        found[of].append(Delays(name=name, flights=flights, cancelled=cancelled, mean_delay=mean_delay))
    [before] = found["before"]
    return Figures(
        logical_date=logical_date,
        carriers=tuple(sorted(found["carrier"], key=lambda one: one.name)),
        origins=tuple(sorted(found["origin"], key=lambda one: one.name)),
        hours=tuple(sorted(found["hour"], key=lambda one: int(one.name))),
        usual=tuple(sorted(found["usual"], key=lambda one: int(one.name))),
        dates_before=before.flights,
        since=before.name,
        rejects=tuple(sorted(((one.name, one.flights) for one in found["reject"]), key=lambda r: (-r[1], r[0]))),
    )
