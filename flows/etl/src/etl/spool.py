"""Rows on disk: Arrow streams in a temporary file, written once and read a batch at a time, however many they are."""

import struct
import weakref
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from tempfile import SpooledTemporaryFile
from typing import Self

import polars as pl

# Rows to work on at once: enough that a batch's fixed cost is lost among them, few enough to stay small in memory.
BATCH_ROWS = 32_768

# An ordinary day stays in memory; only what is larger goes to the disk.
_MEMORY_BYTES = 2 << 20

# A stream is a sequence of messages: a marker, the length of the metadata, that metadata, and a body whose length it
# tells: https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format
_MARKER = 0xFFFFFFFF
_END = struct.pack("<II", _MARKER, 0)
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3  # fields of a message
_LENGTH = 0  # of a record batch
_RECORD_BATCH = 3


class NotArrow(ValueError):
    """The bytes are no Arrow stream, or one that ends in the middle."""


class Spool:
    """A table on disk. Iterating gives its rows in order, as frames of about BATCH_ROWS rows.

    A table without rows gives one empty frame, which has its columns. One iteration at a time; the file is gone once
    the spool is closed or forgotten, and with the process in any case.
    """

    def __init__(self) -> None:
        file = SpooledTemporaryFile(max_size=_MEMORY_BYTES, prefix="etl-")  # noqa: SIM115 - closed by `close`
        self._file = file
        self._bytes = 0  # in all
        self._at = 0
        self.height = 0
        # Prefect keeps a task's result for as long as it likes, and closes nothing.
        self.close = weakref.finalize(self, file.close)

    @classmethod
    def of(cls, *frames: pl.DataFrame) -> Self:
        """These frames' rows, one after another."""
        spool = cls()
        for frame in frames:
            spool.append(frame)
        return spool

    def append(self, frame: pl.DataFrame) -> None:
        """Add a frame's rows."""
        if frame.is_empty() and self._bytes:
            return
        self._go(self._bytes)
        frame.write_ipc_stream(self._file)
        self._at = self._bytes = self._file.tell()
        self.height += frame.height

    def write(self, data: bytes) -> None:
        """Add bytes of an Arrow stream as they come; call `count` when all are there."""
        self._go(self._bytes)
        self._file.write(data)
        self._bytes += len(data)
        self._at = self._bytes

    def count(self) -> None:
        """Walk through what `write` added, from message to message, and set `height`. Raises NotArrow.

        The columns are read too; what is in the batches shows when they are.
        """
        at, height = 0, 0
        while at < self._bytes:
            length, metadata = self._message(at)
            if metadata and _type(metadata) == _RECORD_BATCH:
                height += _rows(metadata)
            at += length
        self.height = height
        if next(self._frames(), None) is None:
            raise NotArrow("there are no bytes")

    def __iter__(self) -> Iterator[pl.DataFrame]:
        pending: list[pl.DataFrame] = []
        rows, columns = 0, None
        for frame in self._frames():
            columns = frame.clear()
            for piece in frame.iter_slices(BATCH_ROWS):
                if pending and rows + piece.height > BATCH_ROWS:
                    yield pl.concat(pending)
                    pending, rows = [], 0
                pending.append(piece)
                rows += piece.height
        if rows:
            yield pl.concat(pending)
        elif not self.height and columns is not None:
            yield columns

    def read(self) -> pl.DataFrame:
        """All rows at once, for those who know that they are few."""
        return pl.concat(self)

    def _frames(self) -> Iterator[pl.DataFrame]:
        """What each message holds, whatever its size. Raises NotArrow."""
        at = 0
        try:
            while at < self._bytes:
                at = yield from self._stream(at)
        except (pl.exceptions.PolarsError, OSError) as exc:
            raise NotArrow(str(exc)) from exc

    def _stream(self, at: int) -> Generator[pl.DataFrame, None, int]:
        """The record batches of the stream that begins at a place; returns where it ends."""
        known, batches = b"", 0
        while at < self._bytes:
            length, metadata = self._message(at)
            place, at = at, at + length
            if not metadata:
                break
            if _type(metadata) != _RECORD_BATCH:  # the schema, dictionaries: what the batches after it need
                known += self._read(place, length)
                continue
            batches += 1
            yield pl.read_ipc_stream(b"".join((known, self._read(place, length), _END)))
        if not batches:
            yield pl.read_ipc_stream(known + _END)
        return at

    def _message(self, at: int) -> tuple[int, bytes]:
        """The message that begins at a place: its length and its metadata, which a stream's end has not."""
        marker, length = struct.unpack("<II", self._read(at, 8))
        if marker != _MARKER:
            raise NotArrow(f"there is no message at byte {at}")
        if not length:
            return 8, b""
        metadata = self._read(at + 8, length)
        body_length = _number(metadata, _table(metadata), _BODY_LENGTH, "<q")
        if not 0 <= body_length <= self._bytes - at - 8 - length:
            raise NotArrow(f"it ends in the middle of a message, after {self._bytes} bytes")
        return 8 + length + body_length, metadata

    def _read(self, at: int, length: int) -> bytes:
        if at + length > self._bytes:
            raise NotArrow(f"it ends in the middle of a message, after {self._bytes} bytes")
        self._go(at)
        self._at = at + length
        return self._file.read(length)

    def _go(self, place: int) -> None:
        """Be at a place of the file. Where it is already, nothing is asked of the file, which would lose its buffer."""
        if self._at != place:
            self._file.seek(place)
            self._at = place


def ahead(batches: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The same batches, each made in a thread of its own while the one before is worked on."""
    source = iter(batches)
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        coming = thread.submit(next, source, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, source, None)
            yield batch


# Of the metadata, which is FlatBuffers (https://flatbuffers.dev/internals/), a few numbers are needed.


def _type(metadata: bytes) -> int:
    return _number(metadata, _table(metadata), _HEADER_TYPE, "<B")


def _rows(metadata: bytes) -> int:
    """How many rows a record batch says that it has."""
    message = _table(metadata)
    place = _place(metadata, message, _HEADER)
    return _number(metadata, place + _unpacked("<I", metadata, place), _LENGTH, "<q")


def _table(metadata: bytes) -> int:
    return _unpacked("<I", metadata, 0)


def _number(metadata: bytes, table: int, field: int, form: str) -> int:
    """A number in a table; 0 where it is left out."""
    place = _place(metadata, table, field)
    return _unpacked(form, metadata, place) if place else 0


def _place(metadata: bytes, table: int, field: int) -> int:
    """Where a table keeps a field; 0 where it is left out."""
    fields = table - _unpacked("<i", metadata, table)
    entry = 4 + 2 * field
    offset = _unpacked("<H", metadata, fields + entry) if entry < _unpacked("<H", metadata, fields) else 0
    return table + offset if offset else 0


def _unpacked(form: str, metadata: bytes, place: int) -> int:
    if not 0 <= place <= len(metadata) - struct.calcsize(form):
        raise NotArrow("a message's metadata is none")
    value: int = struct.unpack_from(form, metadata, place)[0]
    return value
