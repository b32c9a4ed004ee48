"""A day's figures, added up a batch at a time: delays by carrier, origin and hour, and the flights that left latest."""

from datetime import date

import polars as pl

_WORST = 5
_COUNTS_AT_ONCE = 32
_ALONE = pl.all_horizontal(pl.col("^weather_.*$").is_null())
# By what delays are summed up. A flight belongs to the hour it was scheduled for, 2400 to the first one.
_BY = {
    "carrier": pl.col("carrier"),
    "origin": pl.col("origin"),
    "hour": (pl.col("sched_dep_time") // 100 % 24).alias("hour"),
}
_WORST_COLUMNS = ("carrier", "flight", "origin", "dest", "sched_dep_time", "dep_delay", "time_hour")


class Summary:
    """Delays are whole minutes, so a count of each delay holds all that mean and percentile need, in little memory.

    `without_weather`: how many flights have no weather record of their origin and hour.
    """

    def __init__(self) -> None:
        self._counts: dict[str, list[pl.DataFrame]] = {by: [] for by in _BY}
        self.without_weather = 0
        self.worst = pl.DataFrame()

    def add(self, flights: pl.DataFrame) -> None:
        """Take in a batch of good rows."""
        for by, counts in self._counts.items():
            counts.append(flights.group_by(_BY[by], "dep_delay").agg(number=pl.len().cast(pl.Int64)))
            if len(counts) == _COUNTS_AT_ONCE:
                counts[:] = [_added_up(counts, by)]
        self.without_weather += int(flights.select(_ALONE.sum()).item())
        late = flights.select(_WORST_COLUMNS).filter(pl.col("dep_delay") >= pl.col("dep_delay").top_k(_WORST).min())
        self.worst = worst_delays(pl.concat([self.worst, late]) if self.worst.width else late)

    def delays(self, *, by: str, logical_date: date) -> pl.DataFrame:
        """Flights, cancellations, mean and 95th-percentile departure delay by carrier, origin or hour.

        A flight that never left is cancelled and has no delay. The percentile interpolates linearly, as PostgreSQL's
        percentile_cont does, so that both give the same figure.
        """
        number, delay = pl.col("number"), pl.col("dep_delay")
        counts = _added_up(self._counts[by], by).sort(by, "dep_delay", nulls_last=True)
        departed = number.filter(delay.is_not_null())
        upto = departed.cum_sum()
        rank = 0.95 * (departed.sum() - 1)

        def at(place: pl.Expr) -> pl.Expr:
            return delay.drop_nulls().filter(upto > place).first()

        below, above = at(rank.floor()), at(rank.ceil())
        return (
            counts.group_by(by)
            .agg(
                flights=number.sum(),
                cancelled=number.filter(delay.is_null()).sum(),
                mean_delay=(delay * number).sum() / departed.sum(),
                p95_delay=below + (above - below) * (rank - rank.floor()),
            )
            .with_columns(pl.when(pl.col("flights") > pl.col("cancelled")).then(pl.col("mean_delay", "p95_delay")))
            .select(pl.lit(logical_date).alias("logical_date"), pl.all())
            .sort(by)
        )


def _added_up(counts: list[pl.DataFrame], by: str) -> pl.DataFrame:
    return pl.concat(counts).group_by(by, "dep_delay").agg(pl.col("number").sum())


def worst_delays(flights: pl.DataFrame) -> pl.DataFrame:
    """The five flights that left latest against their schedule, worst first; ties in the order of departure."""
    return (
        flights.drop_nulls("dep_delay")
        .sort(["dep_delay", "time_hour", "carrier", "flight"], descending=[True, False, False, False])
        .head(_WORST)
    )
