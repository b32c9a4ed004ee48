"""Which rows repeat a flight that came before, over a day of any size: memory holds a part of the keys at a time."""

from collections.abc import Iterable

import polars as pl

from etl.rows import FLIGHT_COLUMNS, FLIGHT_KEY, conform
from etl.spool import Spool

# How many hashes are compared, and how many doubtful ones looked up, at once.
_AT_ONCE = 1_000_000

_KEY_COLUMNS = {name: FLIGHT_COLUMNS[name] for name in FLIGHT_KEY}


class Keys:
    """Which keys there are: their hashes, on disk."""

    def __init__(self) -> None:
        self._hashes = Spool()

    def add(self, batch: pl.DataFrame) -> None:
        """Take in a batch of raw rows. Raises BadData: it lacks a column."""
        self._hashes.append(_hashed(batch).select("hash"))

    def doubtful(self) -> pl.Series:
        """The hashes that came more than once; they are compared a part of them at a time."""
        parts = self._hashes.height // _AT_ONCE + 1
        return pl.concat(_doubtful(self._hashes, part, parts) for part in range(parts))

    def close(self) -> None:
        """Give back the room on the disk."""
        self._hashes.close()


class Repeats:
    """The numbers of the rows, counted over the day, that are not the first of their flight.

    They are kept in memory, four bytes each: a day of which most rows repeat is one that will be refused.
    """

    def __init__(self, numbers: pl.Series | None = None) -> None:
        self._numbers = pl.Series(dtype=pl.UInt32) if numbers is None else numbers.cast(pl.UInt32).sort()

    @classmethod
    def among(cls, batches: Iterable[pl.DataFrame], doubtful: pl.Series) -> "Repeats":
        """Compare the rows themselves whose keys' hash came more than once."""
        found = [_found(batches, some) for some in doubtful.to_frame().iter_slices(_AT_ONCE)]
        return cls(pl.concat(found) if found else None)

    def within(self, start: int, length: int) -> pl.Series:
        """For each row of a batch whose first has the number `start`: whether it is one of them."""
        first, behind = self._numbers.search_sorted(pl.Series([start, start + length]))
        mine = self._numbers.slice(first, behind - first)
        if mine.is_empty():
            return pl.repeat(value=False, n=length, eager=True)
        return pl.int_range(start, start + length, dtype=pl.UInt32, eager=True).is_in(mine.implode())

    def __len__(self) -> int:
        return self._numbers.len()


def _hashed(batch: pl.DataFrame) -> pl.DataFrame:
    keys = conform(batch, _KEY_COLUMNS, what="flights")
    return keys.with_columns(hash=pl.struct(FLIGHT_KEY).hash())


def _doubtful(hashes: Spool, part: int, parts: int) -> pl.Series:
    """The hashes that come more than once, of those that fall into one of the parts."""
    mine = pl.concat(frame.filter(pl.col("hash") % parts == part) for frame in hashes)["hash"]
    return mine.filter(mine.is_duplicated()).unique() if mine.n_unique() < mine.len() else mine.clear()


def _found(batches: Iterable[pl.DataFrame], doubtful: pl.DataFrame) -> pl.Series:
    """The rows with one of these hashes whose key has come before."""
    wanted = doubtful["hash"].implode()
    suspects, numbered = [], 0
    for batch in batches:
        rows = _hashed(batch).with_row_index("number", offset=numbered).filter(pl.col("hash").is_in(wanted))
        numbered += batch.height
        suspects.append(rows)
    return pl.concat(suspects).filter(~pl.struct(FLIGHT_KEY).is_first_distinct())["number"]
