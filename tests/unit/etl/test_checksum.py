"""The checksum: the same for the same content, however it comes, and another for any other."""

from typing import Any

import polars as pl
import pytest
from etl.checksum import checksum
from hypothesis import given, settings
from hypothesis import strategies as st

TABLE = pl.DataFrame(
    {
        "number": pl.Series([1, 2, None, -4], dtype=pl.Int32),
        "text": ["a", None, "", "more than eight bytes of text"],
        "share": [0.5, -0.0, None, 1e300],
        "day": pl.Series([0, 1, 2, None], dtype=pl.Date),
    }
)


def test_order_and_batches_do_not_matter() -> None:
    """Nor does a batch without rows, nor a narrower type for the same number, nor the sign of a zero."""
    whole = checksum([TABLE])
    assert checksum([TABLE.reverse()]) == whole
    assert checksum([TABLE[2:], TABLE.clear(), TABLE[:2]]) == whole
    assert checksum([TABLE.with_columns(pl.col("number").cast(pl.Int64), pl.col("share") + 0.0)]) == whole


def test_it_is_the_same_everywhere() -> None:
    """A number written down: what another release or machine says of the same content."""
    assert checksum([TABLE]) == "6ad663466d45cb91adbfd10f094bc06d7d91da38137abfb0eeb0cd50a5962c6c"


VALUES = {
    "number": st.none() | st.integers(-(2**31), 2**31 - 1),
    "text": st.none() | st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=20),
    "share": st.none() | st.floats(allow_nan=False),
}


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.fixed_dictionaries(VALUES), min_size=1, max_size=5),
    data=st.data(),
)
def test_any_change_is_seen(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    """One value of one row, a row more, a row less."""
    schema = {"number": pl.Int32, "text": pl.String, "share": pl.Float64}
    before = checksum([pl.DataFrame(rows, schema=schema)])
    place = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.sampled_from(sorted(VALUES)))
    value = data.draw(VALUES[column])
    changed = [dict(row) for row in rows]
    changed[place][column] = value
    if value == rows[place][column]:
        assert checksum([pl.DataFrame(changed, schema=schema)]) == before
    else:
        assert checksum([pl.DataFrame(changed, schema=schema)]) != before
    assert checksum([pl.DataFrame([*rows, rows[0]], schema=schema)]) != before
    assert checksum([pl.DataFrame(rows[1:], schema=schema)]) != before


@pytest.mark.parametrize(
    "swapped",
    [
        TABLE.with_columns(pl.Series("number", [2, 1, None, -4], dtype=pl.Int32)),
        TABLE.rename({"number": "other"}),
        TABLE.with_columns(pl.Series("text", ["a", "", None, "more than eight bytes of text"])),
    ],
    ids=["values of two rows", "a column's name", "absent and empty"],
)
def test_what_is_swapped_is_seen(swapped: pl.DataFrame) -> None:
    """The sums of the columns alone would be the same."""
    assert checksum([swapped]) != checksum([TABLE])
