"""The source's answers, good and bad, at the wire."""

import io
from collections.abc import Callable
from datetime import date

import httpx
import polars as pl
import pytest
from etl.errors import EtlError, SourceRefused, SourceUnavailable
from etl.extract import ARROW_STREAM, fetch_day
from opentelemetry import context, propagate

DAY = date(2026, 1, 15)
PROBLEM = "application/problem+json"

Answer = Callable[[httpx.Request], httpx.Response]


def client(answer: Answer) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url="http://source", transport=httpx.MockTransport(answer))


def arrow() -> bytes:
    stream = io.BytesIO()
    pl.DataFrame({"a": [1, 2]}).write_ipc_stream(stream)
    return stream.getvalue()


async def test_a_day_is_read_with_the_date_its_records_carry() -> None:
    """The rows come with the record date that the source states."""

    def answer(request: httpx.Request) -> httpx.Response:
        assert str(request.url) == "http://source/flights?date=2026-01-15"
        return httpx.Response(
            200, content=arrow(), headers={"content-type": ARROW_STREAM, "x-record-date": "2013-01-15"}
        )

    async with client(answer) as source:
        day = await fetch_day(source, "flights", DAY)
    assert day.rows.height == 2
    assert day.rows.read()["a"].to_list() == [1, 2]
    assert day.record_date == date(2013, 1, 15)


async def test_a_request_carries_the_trace_where_there_is_one() -> None:
    """The caller's own, where nothing is exported and no span of ours stands between."""
    told: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        told.append(request.headers.get("traceparent"))
        return httpx.Response(200, content=arrow(), headers={"content-type": ARROW_STREAM})

    async with client(answer) as source:
        await fetch_day(source, "flights", DAY)
        traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        token = context.attach(propagate.extract({"traceparent": traceparent}))
        try:
            await fetch_day(source, "flights", DAY)
        finally:
            context.detach(token)
    assert told == [None, traceparent]


def refuse_connection(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


def cut_off(request: httpx.Request) -> httpx.Response:
    raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")


def answering(status: int, *, content: bytes = b"", media_type: str = ARROW_STREAM) -> Answer:
    return lambda request: httpx.Response(status, content=content, headers={"content-type": media_type})


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (refuse_connection, SourceUnavailable, "ConnectError: refused"),
        (cut_off, SourceUnavailable, "RemoteProtocolError"),
        (answering(500, content=b"boom", media_type="text/plain"), SourceUnavailable, "answered 500: boom"),
        (answering(503), SourceUnavailable, "answered 503: no reason given"),
        (answering(429), SourceUnavailable, "answered 429"),
        (answering(200, content=b"\x00garbage"), SourceUnavailable, "not an Arrow stream"),
        (answering(200, content=arrow()[:60]), SourceUnavailable, "not an Arrow stream"),
        (answering(200, content=b"{}", media_type="application/json"), SourceRefused, "answered application/json"),
        (
            answering(404, content=b'{"detail": "no data"}', media_type=PROBLEM),
            SourceRefused,
            "404: no data",
        ),
        (answering(422, content=b"{broken", media_type=PROBLEM), SourceRefused, r"422: \{broken"),
    ],
)
async def test_a_bad_answer_has_a_named_error(answer: Answer, error: type[EtlError], says: str) -> None:
    """What may pass is SourceUnavailable; what cannot is SourceRefused; the text names the request."""
    async with client(answer) as source:
        with pytest.raises(error, match=says) as raised:
            await fetch_day(source, "flights", DAY)
    assert "GET http://source/flights?date=2026-01-15" in str(raised.value)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("soon", None), ("", None), ("-3", None)],
)
async def test_what_the_source_asks_us_to_wait_is_kept(header: str, seconds: float | None) -> None:
    """Retry-After in seconds or as a date; a moment in the past is no wait, nonsense is no wish."""
    busy = httpx.Response(503, headers={"retry-after": header})
    async with client(lambda _: busy) as source:
        with pytest.raises(SourceUnavailable) as raised:
            await fetch_day(source, "flights", DAY)
    assert raised.value.retry_after == seconds
