"""How rows travel: which representation a client gets, its bytes, its ETag, and where the next page is."""

import datetime as dt
import hashlib
import io
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import polars as pl
import polars.selectors as cs

from source.errors import BadPageError, NotAcceptableError
from source.records import Records

MAX_PAGE_ROWS = 10_000
WEIGHT = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


class Media(StrEnum):
    """The representations, the preferred one first."""

    NDJSON = "application/x-ndjson"
    ARROW = "application/vnd.apache.arrow.stream"


@dataclass(frozen=True)
class Selection:
    """Rows somebody asked for: a table, of a daily one a day of 2013, and a page of it."""

    table: str
    day: dt.date | None = None
    cursor: int = 0
    limit: int | None = None


@dataclass(frozen=True)
class Encoded:
    """A selection as bytes. `rows` counts this body, `total` the day or table; `next_cursor` is None at its end."""

    body: bytes
    media: Media
    etag: str
    rows: int
    total: int
    next_cursor: int | None


class Encoder:
    """Turns selections into bytes and keeps the ones asked for last."""

    def __init__(self, records: Records, *, keep: int = 32) -> None:
        self._records = records
        self.encode = lru_cache(maxsize=keep)(self._encode)

    def _encode(self, selection: Selection, media: Media) -> Encoded:
        """Raises BadPageError for a cursor past the last row."""
        table, cursor = selection.table, selection.cursor
        frame = self._records.whole(table) if selection.day is None else self._records.day(table, selection.day)
        if cursor > frame.height:
            raise BadPageError(
                f"cursor {cursor} is past the last of {frame.height} rows: follow the Link header, or start at 0"
            )
        page = frame.slice(cursor, selection.limit)
        after = cursor + page.height
        body = encode(page, media)
        return Encoded(
            body=body,
            media=media,
            etag=f'"{hashlib.sha256(media.encode() + body).hexdigest()[:32]}"',
            rows=page.height,
            total=frame.height,
            next_cursor=after if after < frame.height else None,
        )


def encode(frame: pl.DataFrame, media: Media) -> bytes:
    """The frame's rows as NDJSON (times as ISO 8601 in UTC) or as one Arrow IPC stream."""
    if media is Media.NDJSON:
        return frame.with_columns(cs.datetime().dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_ndjson().encode()
    buffer = io.BytesIO()
    # Arrow readers from before string views are still in use.
    frame.write_ipc_stream(buffer, compat_level=pl.CompatLevel.oldest())
    return buffer.getvalue()


def negotiate(accept: str | None) -> Media:
    """The representation an Accept header prefers (RFC 9110, 12.5.1).

    The most specific range that matches a representation gives its weight. Among equal weights the one named more
    specifically wins, then the order of Media. Raises NotAcceptableError where nothing is left.
    """
    if accept is None or not accept.strip():
        return Media.NDJSON
    weights = _weights(accept)
    best: tuple[float, int] = (0.0, 0)
    chosen: Media | None = None
    for media in Media:
        ranges = (media, f"{media.partition('/')[0]}/*", "*/*")
        specificity, weight = next(
            ((-step, weights[range_]) for step, range_ in enumerate(ranges) if range_ in weights), (0, 0.0)
        )
        if weight > 0 and (chosen is None or (weight, specificity) > best):
            best, chosen = (weight, specificity), media
    if chosen is None:
        raise NotAcceptableError(f"send Accept: {' or '.join(Media)}; this answer has no other representation")
    return chosen


def _weights(accept: str) -> dict[str, float]:
    """The ranges of an Accept header with their q-values; a range with a malformed weight does not count."""
    weights: dict[str, float] = {}
    for entry in accept.split(","):
        range_, *parameters = (part.strip().lower() for part in entry.split(";"))
        q = next(
            (value.strip() for name, _, value in (p.partition("=") for p in parameters) if name.strip() == "q"), "1"
        )
        if range_ and WEIGHT.fullmatch(q):
            weights[range_] = max(float(q), weights.get(range_, 0.0))
    return weights


def is_current(if_none_match: str | None, etag: str) -> bool:
    """Whether a client that sent this If-None-Match already holds the representation."""
    if if_none_match is None:
        return False
    known = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in known or etag in known
