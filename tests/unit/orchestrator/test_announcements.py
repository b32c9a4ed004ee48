"""The subscription to Prefect's events, with Prefect played by a local websocket server."""

import asyncio
import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from orchestrator.prefect_api.announcements import Announcements
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from .conftest import eventually, settings


class Announcer:
    """Prefect's end: what it was told, and what it says."""

    def __init__(self, *, refusing: bool = False) -> None:
        self.refusing = refusing
        self.told: list[dict[str, Any]] = []
        self.sockets: list[ServerConnection] = []

    async def handle(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        assert socket.request.path == "/api/events/out"
        assert socket.subprotocol == "prefect"
        self.told.append(json.loads(await socket.recv()))
        if self.refusing:
            await socket.close(1008, "no")
            return
        await socket.send(json.dumps({"type": "auth_success"}))
        self.told.append(json.loads(await socket.recv()))
        self.sockets.append(socket)
        await socket.wait_closed()


class Listener:
    """What was heard."""

    def __init__(self) -> None:
        self.hints: list[set[UUID]] = []

    @property
    def count(self) -> int:
        return len(self.hints)

    def heard(self, flow_runs: Collection[UUID]) -> None:
        self.hints.append(set(flow_runs))


def event(flow_run_id: UUID, name: str = "Running") -> str:
    """An announcement as Prefect sends it."""
    resource = {"prefect.resource.id": f"prefect.flow-run.{flow_run_id}", "prefect.resource.role": "flow-run"}
    return json.dumps({"type": "event", "event": {"event": f"prefect.flow-run.{name}", "resource": resource}})


@asynccontextmanager
async def listening(announcer: Announcer, listener: Listener) -> AsyncIterator[None]:
    async with serve(announcer.handle, "127.0.0.1", 0, subprotocols=[Subprotocol("prefect")]) as server:
        port = server.sockets[0].getsockname()[1]
        told = settings("postgresql://h/d", f"http://127.0.0.1:{port}/api", prefect_auth_string="admin:secret")
        work = asyncio.create_task(Announcements(told, heard=listener.heard).work())
        try:
            yield
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


async def until(count: int, listener: Listener) -> None:
    async def heard() -> bool:
        return listener.count >= count

    await eventually(heard, within=5, what=f"{count} hints")


async def subscribed(count: int, announcer: Announcer) -> None:
    """Prefect's end has read that many subscriptions: whoever subscribed goes on before."""

    async def stand() -> bool:
        return len(announcer.sockets) >= count

    await eventually(stand, within=5, what=f"{count} subscriptions stand")


async def test_it_subscribes_to_what_is_still_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials first, then a filter whose end lies ahead; announcements are hints, and so is a lost connection."""
    monkeypatch.setattr("orchestrator.prefect_api.announcements.backoff", lambda attempts: 0.05)
    announcer, listener = Announcer(), Listener()
    async with listening(announcer, listener):
        await until(1, listener)
        await subscribed(1, announcer)
        auth, subscription = announcer.told
        assert auth == {"type": "auth", "token": "admin:secret"}
        assert (subscription["type"], subscription["backfill"]) == ("filter", False)
        assert subscription["filter"]["event"] == {"prefix": ["prefect.flow-run."]}
        ends = datetime.fromisoformat(subscription["filter"]["occurred"]["until"])
        assert ends > datetime.now(UTC) + timedelta(days=365)
        some = [uuid4() for _ in range(20)]
        for one in some * 2:
            await announcer.sockets[0].send(event(one))
        await until(2, listener)
        assert listener.hints == [set(), set(some)], "what comes together is one hint, at those flow runs"
        await announcer.sockets[0].send(event(uuid4(), "heartbeat"))
        await announcer.sockets[0].send(event(uuid4()).replace('"prefect.flow-run.', '"prefect.flow-run.no-', 2))
        await announcer.sockets[0].send(event(some[0]))
        await until(3, listener)
        assert listener.hints[2] == {some[0]}, "a sign of life changes nothing"
        await announcer.sockets[0].close()
        await until(4, listener)
        assert listener.hints[3] == set(), "what happened meanwhile is not known"
        await subscribed(2, announcer)
        assert len(announcer.told) == 4, "it subscribed again"


async def test_what_announces_something_else_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It subscribes anew, and looks at everything meanwhile."""
    monkeypatch.setattr("orchestrator.prefect_api.announcements.backoff", lambda attempts: 0.05)
    announcer, listener = Announcer(), Listener()
    async with listening(announcer, listener):
        for number, said in enumerate(("{}", "no JSON", "[]"), 1):
            await subscribed(number, announcer)
            await announcer.sockets[-1].send(said)
        await until(4, listener)
    assert set(map(frozenset, listener.hints)) == {frozenset()}


async def test_refused_credentials_are_tried_again_and_never_logged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line in the log names the variable; nothing is heard, and the poll goes on without."""
    monkeypatch.setattr("orchestrator.prefect_api.announcements.backoff", lambda attempts: 0.05)
    announcer, listener = Announcer(refusing=True), Listener()
    async with listening(announcer, listener):

        async def tried() -> bool:
            return len(announcer.told) >= 3

        await eventually(tried, within=5, what="it tries again")
    assert listener.count == 0
    said = capsys.readouterr().out
    assert said.count("are not heard") == 1
    assert "ORCHESTRATOR_PREFECT_AUTH_STRING" in said
    assert "secret" not in said
