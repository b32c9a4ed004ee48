"""Rows on disk: what goes in comes out, in batches, whatever made the stream; and what is no stream has a name."""

import gc
import io
import os
import warnings
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from etl.spool import BATCH_ROWS, NotArrow, Spool, ahead
from hypothesis import given, settings
from hypothesis import strategies as st

FRAME = pl.DataFrame(
    {
        "number": [1, None, -3],
        "text": ["a", None, "longer than an inlined string view"],
        "when": pl.Series([0, 1, None], dtype=pl.Datetime("us", "UTC")),
        "kind": pl.Series(["x", "y", "x"], dtype=pl.Categorical),
    }
)


def stream(frame: pl.DataFrame, compat_level: pl.CompatLevel) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc_stream(buffer, compat_level=compat_level)
    return buffer.getvalue()


def received(data: bytes, *, piece: int = 7) -> Spool:
    spool = Spool()
    for at in range(0, len(data), piece):
        spool.write(data[at : at + piece])
    spool.count()
    return spool


@pytest.mark.parametrize("compat_level", [pl.CompatLevel.oldest(), pl.CompatLevel.newest()], ids=["oldest", "newest"])
def test_a_stream_is_read_as_it_was_written(compat_level: pl.CompatLevel) -> None:
    """In pieces of any size, with text of either layout, dictionaries, and columns where there are no rows."""
    spool = received(stream(FRAME, compat_level))
    assert spool.height == 3
    assert spool.read().equals(FRAME)
    empty = received(stream(FRAME.clear(), compat_level))
    assert empty.height == 0
    assert [frame.schema for frame in empty] == [FRAME.schema]


@settings(max_examples=30, deadline=None)
@given(heights=st.lists(st.integers(0, 3 * BATCH_ROWS), min_size=1, max_size=5))
def test_batches_are_of_even_size_and_in_order(heights: list[int]) -> None:
    """However many rows came at once: nothing is lost, doubled or moved, and no batch is larger than allowed."""
    total = sum(heights)
    numbers = pl.int_range(0, total, eager=True).alias("number").to_frame()
    places = [0, *(sum(heights[: n + 1]) for n in range(len(heights)))]
    spool = Spool.of(*(numbers[start:end] for start, end in pairwise(places)))
    assert spool.height == total
    for batches in (list(spool), list(ahead(spool))):
        assert all(batch.height <= BATCH_ROWS for batch in batches)
        assert pl.concat(batches)["number"].to_list() == list(range(total))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00garbage that is long enough",
        b"\xff\xff\xff\xff\x08\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff",
        stream(FRAME, pl.CompatLevel.oldest())[:60],
        stream(FRAME, pl.CompatLevel.oldest())[:-20],
        stream(FRAME, pl.CompatLevel.oldest()) + b"more",
    ],
    ids=["nothing", "garbage", "wild numbers", "cut in the schema", "cut in a batch", "more behind it"],
)
def test_what_is_no_stream_is_refused(data: bytes) -> None:
    """A body that ends early or is something else never passes for a shorter day."""
    with pytest.raises(NotArrow):
        received(data, piece=1000)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 400), value=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(at: int, value: int) -> None:
    """Whatever the head of the stream claims, the walk through it ends, in NotArrow at worst."""
    data = bytearray(stream(FRAME.select("number"), pl.CompatLevel.oldest()))
    data[at % len(data)] = value
    spool = Spool()
    spool.write(bytes(data))
    try:
        spool.count()
    except NotArrow:
        return
    assert spool.height >= 0


def test_a_forgotten_spool_leaves_no_file_and_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect keeps results as long as it likes, and closes nothing."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def open_files() -> int:
        return sum(str(tmp_path) in os.path.realpath(one) for one in Path("/proc/self/fd").iterdir())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spool = Spool.of(*[pl.DataFrame({"number": range(200_000)})] * 3)
        assert open_files() == 1
        del spool
        gc.collect()
    assert open_files() == 0
    assert list(tmp_path.iterdir()) == []
