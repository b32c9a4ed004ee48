"""The checksum of a table's content: equal rows give an equal sum, in whatever order and batches they come.

Each row is hashed on its own: its values as 64-bit words, times a factor for the column, added up and mixed. The sum
over the rows tells tables apart, with odds of 1 in 2^128 against a mistake; it is no protection against forgery. It
depends on the values alone, on no library's idea of a hash.
"""

import hashlib
from collections.abc import Iterable
from functools import cache

import polars as pl

_LANES = range(2)
_WORD_BYTES = 8


class Checksum:
    """Add the batches, then ask for the sum. `rows`: how many there were."""

    def __init__(self) -> None:
        self.rows = 0
        self._sums = [0 for _ in _LANES]

    def add(self, rows: pl.DataFrame) -> None:
        """Take in some rows of the table."""
        words = rows.with_columns(_numbered(column) for column in rows.iter_columns() if column.dtype == pl.String)
        words = words.select(_word(column) for column in words.iter_columns())
        hashes = [_mixed(words, lane).sum() for lane in _LANES]
        self._sums = [(have + int(more)) % 2**64 for have, more in zip(self._sums, hashes, strict=True)]
        self.rows += rows.height

    def hexdigest(self) -> str:
        """64 hexadecimal digits: the SHA-256 over the number of rows and their sum."""
        content = b"".join(number.to_bytes(_WORD_BYTES) for number in (self.rows, *self._sums))
        return hashlib.sha256(content).hexdigest()


def checksum(batches: Iterable[pl.DataFrame]) -> str:
    """The checksum of a table that is there already."""
    total = Checksum()
    for batch in batches:
        total.add(batch)
    return total.hexdigest()


def _numbered(column: pl.Series) -> pl.Series:
    """Text as words: the bytes of each distinct text, eight at a time, mixed into one word."""
    texts = column.unique().drop_nulls()
    longest = texts.str.len_bytes().max()
    padded = pl.col(column.name).cast(pl.Binary) + pl.lit(bytes(_WORD_BYTES))
    places = range(0, max(longest if isinstance(longest, int) else 0, 1), _WORD_BYTES)
    pieces = texts.to_frame().select(
        padded.bin.slice(place, _WORD_BYTES).bin.reinterpret(dtype=pl.UInt64).fill_null(0).alias(f"{place}")
        for place in places
    )
    return column.replace_strict(texts, _mixed(pieces, 0), return_dtype=pl.UInt64).alias(column.name)


def _word(column: pl.Series) -> pl.Expr:
    """A column's values as unsigned words; an absent one is a word of its own."""
    value = pl.col(column.name)
    if column.dtype.is_float():
        value = (value.cast(pl.Float64) + 0.0).reinterpret(dtype=pl.UInt64)  # -0.0 is 0.0
    elif column.dtype != pl.UInt64:
        value = value.to_physical().cast(pl.Int64).reinterpret(dtype=pl.UInt64)
    return value.fill_null(_constant(f"absent {column.name}", 0))


def _mixed(words: pl.DataFrame, lane: int) -> pl.Series:
    """A word for each row that depends on all of its words and on their columns."""
    mixed = words.select(_sum(tuple(words.columns), lane).alias("mixed"))
    for _ in range(2):
        mixed = mixed.select((pl.col("mixed") ^ (pl.col("mixed") // 2**32)) * _constant("mix", lane))
    return mixed.select(pl.col("mixed") ^ (pl.col("mixed") // 2**32)).to_series()


@cache
def _sum(columns: tuple[str, ...], lane: int) -> pl.Expr:
    total: pl.Expr = _constant("start", lane)
    for name in columns:
        total += pl.col(name) * _constant(f"factor {name}", lane)
    return total


@cache
def _constant(what: str, lane: int) -> pl.Expr:
    """An odd number that looks like any other."""
    digest = hashlib.blake2b(f"{lane} {what}".encode(), digest_size=_WORD_BYTES).digest()
    return pl.lit(int.from_bytes(digest) | 1, dtype=pl.UInt64)
