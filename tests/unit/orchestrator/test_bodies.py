"""Requests that are too long, too slow or ambiguous, as bytes on a socket where it matters."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from orchestrator import connections
from orchestrator.api import entrance
from orchestrator.connections import Connection

from .conftest import Serve
from .test_api import problem
from .test_events import listening
from .wire import PrefectWire


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"parameters": {"sample": 1}, "parameters": {}}', "'parameters' stands twice"),
        (b'{"parameters": {"sample": 1, "sample": 2}}', "'sample' stands twice"),
        (b'{"parameters": {"a": NaN}}', "holds NaN"),
        (b'{"parameters": {"a": -Infinity}}', "holds -Infinity"),
        (b'{"parameters": {"a": 1e999}}', "too large"),
        (b'{"parameters": {"a": -1e19}}', "too large"),
        (b'{"parameters": {"sample": ' + b"9" * 5000 + b"}}", "beyond 64 bits"),
        (b'{"parameters": {"sample": 9223372036854775808}}', "beyond 64 bits"),
        (b'{"parameters": {"note": "\xff"}}', "not UTF-8"),
        ('{"parameters": {}}'.encode("utf-16"), "not UTF-8"),
        (b'{"parameters": ' + b"[" * 30_000, "nested too deeply"),
        (b'{"parameters": ' + b'{"a":' * 10_000, "nested too deeply"),
        (b'{"parameters": {"options": ' + b"[" * 500 + b"]" * 500 + b"}}", "nested deeper"),
        (b'{"logical_date": "2026-03-01"', "not JSON"),
        (b"\x00", "not JSON"),
        (b'\xef\xbb\xbf{"logical_date": "2026-03-01"}', "not JSON"),
    ],
)
@pytest.mark.parametrize("media", ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"])
async def test_json_that_others_read_otherwise_is_refused(serve: Serve, body: bytes, told: str, media: str) -> None:
    """422 that says what it is, and no run."""
    async with serve(PrefectWire()) as client:
        answer = await client.post("/api/etl/start", content=body, headers={"content-type": media})
        assert told in (await problem(answer, 422, "invalid-request"))["detail"]
        assert (await client.get("/api/etl/runs")).json()["runs"] == []


async def test_the_largest_integers_are_numbers_still(serve: Serve) -> None:
    """64 bits with a sign are what everybody reads alike."""
    async with serve(PrefectWire()) as client:
        parameters: dict[str, Any] = {"sample": 2**63 - 1, "options": {"a": -(2**63 - 1), "b": 2.5e18}}
        answer = await client.post("/api/etl/start", json={"parameters": parameters})
        assert answer.status_code == 202, answer.text
        told = (await client.get(answer.headers["location"])).json()["parameters"]
        assert {name: told[name] for name in parameters} == parameters


async def test_a_request_has_so_many_headers_and_parameters(serve: Serve) -> None:
    """Far more than any client sends; a problem document says how many."""
    async with serve(PrefectWire()) as client:
        many = {f"x-{number}": "a" for number in range(120)}
        await problem(await client.get("/api/etl/runs", headers=many), 431, "head-too-large")
        await problem(await client.get("/api/etl/runs", headers={"x-a": "a" * 40_000}), 431, "head-too-large")
        await problem(await client.get("/api/etl/runs?" + "a" * 40_000), 431, "head-too-large")
        await problem(await client.get("/healthz", headers=many), 431, "head-too-large")
        answer = await client.get("/api/etl/runs?" + "&".join(["limit=1"] * 65))
        assert "64 query parameters" in (await problem(answer, 422, "invalid-request"))["detail"]


async def test_a_body_that_dribbles_is_cut_off(database_url: str) -> None:
    """408 once its time is up, however steadily its bytes come; the connection is closed."""
    async with listening(database_url, PrefectWire(), body_seconds=0.3) as client:

        async def dribble() -> AsyncIterator[bytes]:
            yield b"{"
            while True:
                await asyncio.sleep(0.05)
                yield b" "

        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
            writer.write(b"POST /api/etl/start HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n")
            answer = asyncio.create_task(heard(reader))
            async for piece in dribble():
                if answer.done():
                    break
                writer.write(piece)
        head, _, body = answer.result().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in head.lower()
        assert json.loads(body)["type"] == "urn:pipelines:problem:body-too-slow"
        writer.close()


class Hasty(Connection):
    """A connection without patience."""

    head_seconds = 0.3


async def heard(reader: asyncio.StreamReader) -> bytes:
    """All that comes, until the connection is closed or reset by a server that was still being spoken to."""
    told = b""
    with suppress(ConnectionError):
        while piece := await reader.read(65536):
            told += piece
    return told


async def spoken(client: httpx.AsyncClient, *pieces: bytes, every: float = 0.05) -> bytes:
    """Everything that is answered to these bytes until the connection is closed."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        answer = asyncio.create_task(heard(reader))
        for piece in pieces:
            if answer.done():
                break
            try:
                writer.write(piece)
                await writer.drain()
            except ConnectionError:
                break
            await asyncio.sleep(every)
        told = await answer
        writer.close()
        return told


def shouted(where: tuple[str, int], start: bytes, piece: bytes) -> tuple[bytes, int]:
    """What is answered to a piece repeated for as long as it is taken, and how many bytes were."""
    with socket.create_connection(where, timeout=10) as caller:
        caller.sendall(start)
        sent = 0
        try:
            while sent < 64 * 1024 * 1024:
                caller.sendall(piece)
                sent += len(piece)
        except ConnectionError:
            pass
        return caller.recv(4096), sent


@pytest.fixture
async def hasty(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """The application on a socket whose connections wait 0.3 s for a head."""
    async with listening(database_url, PrefectWire(), connection=Hasty) as client:
        yield client


async def test_a_head_that_dribbles_is_cut_off(hasty: httpx.AsyncClient) -> None:
    """Of the first request and of a later one, and line ends before a request are none."""
    dribble = [b"x-a: b\r\n"] * 100
    assert (await spoken(hasty, b"GET /healthz HTTP/1.1\r\n", *dribble)).startswith(b"HTTP/1.1 408 ")
    whole = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
    both = await spoken(hasty, whole, b"GET /healthz HTTP/1.1\r\n", *dribble)
    assert both.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 408 " in both
    assert b"HTTP/1.1 408 " in await spoken(hasty, whole, *[b"\r\n"] * 100)


async def test_who_says_nothing_is_hung_up_on(hasty: httpx.AsyncClient) -> None:
    """Without a word: nothing was asked."""
    assert await spoken(hasty) == b""


async def test_a_head_without_end_is_cut_off(database_url: str) -> None:
    """In one line or in many: it is not kept in memory."""
    async with listening(database_url, PrefectWire()) as client:
        for piece in (b"a" * 8192, b"x-a: " + b"b" * 1000 + b"\r\n"):
            start = b"GET /healthz HTTP/1.1\r\nx-a: b\r\n"
            if piece.startswith(b"a"):
                start += b"x-long: "
            where = (client.base_url.host, client.base_url.port)
            told, sent = await asyncio.to_thread(shouted, where, start, piece)
            assert told.startswith(b"HTTP/1.1 431 "), told[:100]
            assert sent < 8 * 1024 * 1024


async def test_a_stream_is_not_disturbed_by_what_its_caller_says(hasty: httpx.AsyncClient) -> None:
    """Half a next request on a connection that streams ends it, and nothing foreign is written into the stream."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(hasty.base_url.host, hasty.base_url.port)
        writer.write(b"GET /api/etl/events HTTP/1.1\r\nhost: a\r\n\r\n")
        told = await reader.readuntil(b"retry: 2000")
        writer.write(b"GET /heal")
        told += await reader.read()
        writer.close()
    assert told.startswith(b"HTTP/1.1 200 OK")
    assert b"408" not in told


async def test_a_pipelined_request_is_answered_in_turn(hasty: httpx.AsyncClient) -> None:
    """Patience is for heads: what came whole is not hurried."""
    whole = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    assert (await spoken(hasty, whole + whole + last)).count(b"HTTP/1.1 200 OK") == 3


async def test_a_websocket_is_no_way_in(hasty: httpx.AsyncClient) -> None:
    """An upgrade is read as the plain request it also is."""
    upgrade = (
        b"GET /api/etl/runs HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    )
    assert b"101" not in (await spoken(hasty, upgrade)).partition(b"\r\n")[0]


def test_the_heads_limit_is_above_the_requests() -> None:
    """What the application refuses with a problem document is not cut off before it gets there."""
    assert connections.HEAD_BYTES > entrance.HEAD_BYTES
