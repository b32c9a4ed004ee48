"""A day of any size, made of real flights: as the source would send it, and as the rows that come of it."""

import struct
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
from etl.extract import Day
from etl.spool import Spool
from etl.transform import transform
from source.records import Records
from source.wire import Media, encode

RECORDED = date(2013, 7, 10)
LOGICAL = date(2026, 7, 10)

# Room for flight numbers: the real ones are below it, so each day of the month and each copy gets numbers of its own.
_NUMBERS = 10_000
_DAYS = 31
_END_BYTES = 8


def write(records: Records, rows: int, folder: Path, *, seed: int) -> None:
    """Write flights.arrow and weather.arrow: answers of a source whose day has that many flights.

    The flights of a whole month become one day's, with flight numbers of their own for each day and each copy, in an
    order drawn anew for each copy. It is one Arrow stream of batches of some 30,000 rows, in the source's own types.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weather.arrow").write_bytes(encode(records.day("weather", RECORDED), Media.ARROW))
    with (folder / "flights.arrow").open("wb") as file:
        end = b""
        for number, copy in enumerate(_copies(records, rows, seed)):
            stream = encode(copy, Media.ARROW)
            file.write(stream[_schema_bytes(stream) if number else 0 : -_END_BYTES])
            end = stream[-_END_BYTES:]
        file.write(end)


def write_csv(folder: Path, file: Path) -> None:
    """What the ETL makes of that day, as CSV without a head, for `\\copy`."""
    flights, weather = Spool(), Spool()
    for spool, name in ((flights, "flights"), (weather, "weather")):
        with (folder / f"{name}.arrow").open("rb") as stream:
            for data in iter(lambda stream=stream: stream.read(1 << 20), b""):  # type: ignore[misc]
                spool.write(data)
        spool.count()
    tables = transform(
        Day(rows=flights, record_date=RECORDED), Day(rows=weather, record_date=RECORDED), logical_date=LOGICAL
    )
    with file.open("wb") as out:
        for batch in tables.flights:
            batch.write_csv(out, include_header=False)
    tables.close()


def write_ndjson(folder: Path) -> None:
    """The same answers as JSON lines, for who wants them so; all in memory, for small days."""
    for name in ("flights", "weather"):
        rows = pl.read_ipc_stream(folder / f"{name}.arrow")
        (folder / f"{name}.ndjson").write_bytes(encode(rows, Media.NDJSON))


def _copies(records: Records, rows: int, seed: int) -> Iterator[pl.DataFrame]:
    first = RECORDED.replace(day=1)
    month = [records.day("flights", first + timedelta(days=day)) for day in range(_DAYS)]
    moved = pl.concat(
        frame.with_columns(
            pl.lit(RECORDED.day, dtype=pl.Int64).alias("day"),
            pl.col("flight") + _NUMBERS * number,
            pl.col("time_hour") + (_midnight(RECORDED) - _midnight(first + timedelta(days=number))),
        )
        for number, frame in enumerate(month)
    )
    left, number = rows, 0
    while left > 0:
        copy = moved.with_columns(pl.col("flight") + _NUMBERS * _DAYS * number).head(left)
        yield copy.sample(fraction=1, shuffle=True, seed=seed + number)
        left -= copy.height
        number += 1


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _schema_bytes(stream: bytes) -> int:
    """How long the stream's first message is, which tells the columns and has no body."""
    (length,) = struct.unpack_from("<I", stream, 4)
    return 8 + int(length)
