"""The Markdown artifact of a run: the day's counts and its worst delays, for people."""

from datetime import date

import polars as pl

from etl.load import Loaded
from etl.transform import DayTables


def markdown(tables: DayTables, loaded: Loaded) -> str:
    """The whole report."""
    cancelled = tables.daily_origin_delay["cancelled"].sum()
    counts = f"{loaded.rows} flights loaded, {cancelled} cancelled, {loaded.rejected} rejected."
    worst = [
        _row(
            f"{f['carrier']} {f['flight']}",
            f"{f['origin']} → {f['dest']}",
            f"{f['sched_dep_time']:04d}",
            f["dep_delay"],
        )
        for f in tables.worst_delays.iter_rows(named=True)
    ]
    return "\n".join(
        [
            f"# Flights of {tables.logical_date}",
            "",
            f"{counts} Checksum `{loaded.checksum[:12]}`.",
            "",
            "## Worst delays",
            "| flight | route | scheduled | minutes late |",
            "|---|---|---|---|",
            *worst,
            "",
            *_table("carrier", tables.daily_carrier_delay),
            "",
            *_table("origin", tables.daily_origin_delay),
            "",
        ]
    )


def degraded(logical_date: date, kept: Loaded, reason: str) -> str:
    """The report of a run that could not ask the source and left the day as it was."""
    held = f"{kept.rows} flights, {kept.rejected} rejected, checksum `{kept.checksum[:12]}`"
    return "\n".join(
        [
            f"# Flights of {logical_date}: degraded",
            "",
            f"The day still holds what an earlier run loaded: {held}. The source was not read.",
            "",
            f"Reason: {reason}",
            "",
        ]
    )


def loaded_already(logical_date: date, found: Loaded) -> str:
    """The report of a run whose earlier attempt had loaded the day and did not live to say so."""
    return "\n".join(
        [
            f"# Flights of {logical_date}",
            "",
            f"{found.rows} flights loaded, {found.rejected} rejected. Checksum `{found.checksum[:12]}`.",
            "",
            "Already loaded by an earlier attempt of this run: nothing was written again.",
            "",
        ]
    )


def _table(by: str, delays: pl.DataFrame) -> list[str]:
    head = [f"## By {by}", f"| {by} | flights | cancelled | mean delay | 95 % below |", "|---|---|---|---|---|"]
    return head + [
        _row(d[by], d["flights"], d["cancelled"], _minutes(d["mean_delay"]), _minutes(d["p95_delay"]))
        for d in delays.iter_rows(named=True)
    ]


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _clock(hhmm: int) -> str:
    return f"{hhmm // 100:02d}:{hhmm % 100:02d}"


def _minutes(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} min"
