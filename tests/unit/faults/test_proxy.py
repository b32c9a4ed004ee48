"""The fault proxy between a client and a small server: it passes, and it misbehaves as told."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from ...faults.proxy.proxy import Proxy


class Upstream:
    """A server that notes each request and answers with what it got; an upgraded connection echoes."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"upgrade: websocket" in head.lower():
            self.requests.append(head)
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            while chunk := await reader.read(1000):
                writer.write(chunk)
                await writer.drain()
        else:
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
            )
            body = await reader.readexactly(length)
            self.requests.append(head + body)
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmade")
            await writer.drain()
        writer.close()


class Place:
    """A proxy before an upstream, and a client of both of its ports."""

    def __init__(self, upstream: Upstream, proxy: Proxy, port: int, control: int) -> None:
        self.upstream, self.proxy, self.port = upstream, proxy, port
        self.url, self.control = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{control}/rule"
        self.client = httpx.AsyncClient(timeout=5, trust_env=False)

    async def post(self, path: str = "/apis/batch/v1/namespaces/x/jobs", **more: Any) -> httpx.Response:
        return await self.client.post(f"{self.url}{path}", content=b"body", **more)

    async def tell(self, **rule: Any) -> httpx.Response:
        return await self.client.put(self.control, content=json.dumps(rule))


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    upstream = Upstream()
    async with await asyncio.start_server(upstream.serve, "127.0.0.1", 0) as behind:
        proxy = Proxy(behind.sockets[0].getsockname()[:2])
        async with (
            await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as before,
            await asyncio.start_server(proxy.control, "127.0.0.1", 0) as control,
        ):
            ports = [server.sockets[0].getsockname()[1] for server in (before, control)]
            made = Place(upstream, proxy, *ports)
            async with made.client:
                yield made
            proxy.change(None)


async def test_without_a_rule_everything_passes(place: Place) -> None:
    """Method, path and body arrive, the answer returns; one request a connection."""
    answer = await place.post("/a?b=c")
    assert (answer.status_code, answer.text) == (201, "made")
    [request] = place.upstream.requests
    assert request.startswith(b"POST /a?b=c HTTP/1.1\r\n")
    assert request.endswith(b"\r\nConnection: close\r\n\r\nbody")


async def test_an_upgraded_connection_passes_both_ways(place: Place) -> None:
    """A websocket's bytes go through until one side leaves."""
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    for word in (b"one", b"two"):
        writer.write(word)
        assert await asyncio.wait_for(reader.readexactly(3), 5) == word
    writer.close()
    await writer.wait_closed()


async def test_it_refuses_with_a_status_and_retry_after(place: Place) -> None:
    """The server hears nothing of it."""
    await place.tell(act="refuse", status=429, retry_after=3)
    answer = await place.post()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert place.upstream.requests == []


async def test_it_garbles_in_two_ways(place: Place) -> None:
    """HTTP that is not JSON, then bytes that are not HTTP."""
    await place.tell(act="garble")
    answer = await place.post()
    assert answer.status_code == 200
    with pytest.raises(ValueError, match="Expecting value"):
        answer.json()
    with pytest.raises(httpx.RemoteProtocolError):
        await place.post()


async def test_it_is_late(place: Place) -> None:
    """The answer comes, after the time told."""
    await place.tell(act="late", seconds=0.3)
    began = asyncio.get_running_loop().time()
    assert (await place.post()).status_code == 201
    assert asyncio.get_running_loop().time() - began >= 0.3


async def test_a_lost_answer_was_a_request_carried_out(place: Place) -> None:
    """The server did it, the client never hears; only as many as told, then they pass."""
    await place.tell(act="lose", count=1, method="POST", path="/jobs$")
    with pytest.raises(httpx.RemoteProtocolError):
        await place.post()
    assert (await place.post()).status_code == 201
    assert len(place.upstream.requests) == 2


async def test_what_is_held_never_arrives(place: Place) -> None:
    """Neither while it is held nor when the rule ends; other requests pass meanwhile."""
    await place.tell(act="hold", method="POST", path="/jobs$")
    held = asyncio.create_task(place.post())
    while not (await place.client.get(place.control)).json()["held"]:
        pass
    assert (await place.client.get(f"{place.url}/pods")).status_code == 201
    assert (await place.client.get(place.control)).json() == {"act": "hold", "seen": 2, "hit": 1, "held": 1}
    await place.client.delete(place.control)
    with pytest.raises(httpx.RemoteProtocolError):
        await held
    assert [request[:9] for request in place.upstream.requests] == [b"GET /pods"]


async def test_a_cut_connection_ends_without_a_word(place: Place) -> None:
    """No answer, and the server hears nothing."""
    await place.tell(act="cut")
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await place.post()
    assert place.upstream.requests == []


async def test_a_client_that_leaves_ends_the_request_at_the_server(place: Place) -> None:
    """A watch that nobody follows any more is not kept open behind the proxy."""
    left = asyncio.Event()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfirst")
        await reader.read()
        left.set()
        writer.close()

    async with await asyncio.start_server(watch, "127.0.0.1", 0) as behind:
        proxy = Proxy(behind.sockets[0].getsockname()[:2])
        async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as before:
            _, writer = await asyncio.open_connection("127.0.0.1", before.sockets[0].getsockname()[1])
            writer.write(b"GET /watch HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.sleep(0.1)
            writer.close()
            await asyncio.wait_for(left.wait(), 5)


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ({"act": "explode"}, "act is one of"),
        ({"act": "cut", "often": 1}, "a rule has no often"),
        ({"act": "cut", "path": "("}, "missing )"),
        ({}, "act is one of"),
    ],
)
async def test_a_rule_that_is_none_is_refused(place: Place, rule: dict[str, Any], complaint: str) -> None:
    """With what is wrong; the old rule goes on."""
    await place.tell(act="refuse", status=500)
    answer = await place.tell(**rule)
    assert answer.status_code == 422
    assert complaint in answer.json()["detail"]
    assert (await place.post()).status_code == 500
