"""The stream of changes: nothing missed, nothing twice, and an end that says so."""

import asyncio
import json
import random
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import uvicorn
from orchestrator.__main__ import Server
from orchestrator.api import events as route
from orchestrator.app import create_app
from orchestrator.connections import Connection
from orchestrator.ledger.connection import connect
from orchestrator.ledger.events import append, submission
from orchestrator.ledger.feed import Feed, TooSlow
from orchestrator.ledger.tables import run_events
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import ASGIApp

from .conftest import eventually, settings
from .test_api import problem
from .test_command import serving, wait_for
from .test_dispatch import accept
from .wire import PrefectWire, refused


@asynccontextmanager
async def listening(
    database_url: str,
    wire: PrefectWire,
    *,
    connection: type[Connection] = Connection,
    around: Callable[[ASGIApp], ASGIApp] = lambda app: app,
    **more: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application on a real socket: a stream has to flow while it is read."""
    app = create_app(settings(database_url, **more), transport=wire)
    server = Server(
        uvicorn.Config(around(app), http=connection, ws="none", log_config=None, timeout_graceful_shutdown=5)
    )
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve(sockets=[listener]))

    async def started() -> bool:
        return server.started

    await eventually(started, within=10, what="the server listens")
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        await serving


async def received(answer: httpx.Response) -> AsyncIterator[dict[str, str]]:
    """The events of a stream, as a browser would see them; comments come as `comment`."""
    event: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line.startswith(":"):
            yield {"comment": line[1:].strip()}
        elif line:
            name, _, value = line.partition(": ")
            event[name] = value
        elif event:
            told, event = event, {}
            if "data" in told:
                yield told


async def take(answer: httpx.Response, count: int) -> list[dict[str, str]]:
    """The next events."""
    found = []
    async with asyncio.timeout(10):
        async for event in received(answer):
            found.append(event)
            if len(found) == count:
                break
    return found


async def note(db: AsyncEngine, run_id: UUID, *, pause: float = 0) -> int:
    """Record an event and commit it after a pause; its id."""
    async with db.begin() as connection:
        new = insert(run_events).values(submission(run_id, "etl", await now(connection))).returning(run_events.c.id)
        made = int((await connection.execute(new)).scalar_one())
        await asyncio.sleep(pause)
    return made


async def now(connection: Any) -> Any:
    return (await connection.execute(select(func.clock_timestamp()))).scalar_one()


async def test_an_event_arrives_as_it_is_recorded(database_url: str) -> None:
    """Its id, its name and everything about the change; at once, not at the next poll."""
    wire = PrefectWire()
    async with listening(database_url, wire) as client, client.stream("GET", "/api/etl/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        began = time.monotonic()
        run_id = (await client.post("/api/etl/start", json={"logical_date": "2026-03-01"})).json()["run_id"]
        (event,) = await take(answer, 1)
        assert time.monotonic() - began < 3
        assert event["event"] == "state"
        data = json.loads(event["data"])
        assert data.pop("at")
        assert data.pop("correlation_id")
        assert data == {
            "run_id": run_id,
            "kind": "submitted",
            "state": "Scheduled",
            "state_name": "Scheduled",
            "message": None,
            "logical_date": "2026-03-01",
            "duration_ms": None,
            "reason": None,
        }
        assert int(event["id"]) > 0


async def test_it_resumes_after_the_last_event(database_url: str, db: AsyncEngine) -> None:
    """What came while nobody listened is told first, in order, then what comes; from any place."""
    made = await accept(db, 1200)
    wire = PrefectWire()
    wire.fault = refused  # so that acceptance is all that happens
    async with listening(database_url, wire) as client:
        async with client.stream("GET", "/api/etl/events", headers={"Last-Event-ID": "0"}) as answer:
            first = await take(answer, 700)
        places = [int(one["id"]) for one in first]
        async with client.stream("GET", "/api/etl/events", headers={"Last-Event-ID": str(places[-1])}) as answer:
            rest = await take(answer, 500)
        async with client.stream("GET", "/api/etl/events", headers={"Last-Event-ID": rest[-1]["id"]}) as answer:
            (last,) = await accept(db, 1)
            (live,) = await take(answer, 1)
    told = [json.loads(one["data"])["run_id"] for one in [*first, *rest, live]]
    assert told == [str(run_id) for run_id in [*made, last]]


@pytest.mark.parametrize("place", ["x", "-1", "1.5", "99999", "9" * 19, "9" * 30])
async def test_a_place_that_cannot_be_is_refused(database_url: str, db: AsyncEngine, place: str) -> None:
    """Not a number, or an event that never was: waiting for it would be silence for ever."""
    await accept(db, 1)
    async with listening(database_url, PrefectWire()) as client:
        answer = await client.get("/api/etl/events", headers={"Last-Event-ID": place})
        await problem(answer, 422, "invalid-request")
        await problem(await client.get("/api/elt/events"), 404, "unknown-pipeline")


async def test_only_the_pipelines_own_events(database_url: str, db: AsyncEngine) -> None:
    """Another pipeline's changes move the place on and are not told."""
    (run_id,) = await accept(db, 1)
    async with listening(database_url, PrefectWire()) as client, client.stream("GET", "/api/etl/events") as answer:
        async with db.begin() as connection:
            other = submission(run_id, "other", await now(connection))
            await append(connection, [other, other | {"pipeline": "etl", "message": "mine"}])
        (event,) = await take(answer, 1)
        assert json.loads(event["data"])["message"] == "mine"


async def test_a_silent_stream_says_that_it_lives(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment now and then keeps proxies from closing it."""
    monkeypatch.setattr(route, "HEARTBEAT_SECONDS", 0.2)
    async with listening(database_url, PrefectWire()) as client, client.stream("GET", "/api/etl/events") as answer:
        assert await take(answer, 2) == [{"comment": "still here"}] * 2


async def test_events_become_visible_in_the_order_of_their_ids(db: AsyncEngine) -> None:
    """One who draws a higher id commits later, whatever their transactions do in between."""
    (run_id,) = await accept(db, 1)
    slow = asyncio.create_task(note(db, run_id, pause=0.3))
    await asyncio.sleep(0.1)
    quick = asyncio.create_task(note(db, run_id))
    done, _ = await asyncio.wait({slow, quick}, return_when=asyncio.FIRST_COMPLETED)
    assert slow in done
    assert await slow < await quick


async def test_an_id_is_drawn_by_whoever_may_commit_next(db: AsyncEngine, database_url: str) -> None:
    """One who waits for its turn has no id yet: it could be overtaken by a higher one."""
    (run_id,) = await accept(db, 1)
    admin = await connect(database_url)
    drawn = "SELECT last_value FROM run_events_id_seq"
    try:
        before = await admin.fetchval(drawn)
        turn = await admin.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'run_events_in_order'")
        await admin.execute(turn[turn.index("pg_advisory") : turn.index(";")].join(("BEGIN; SELECT ", "")))
        waiting = asyncio.create_task(note(db, run_id))

        async def waits() -> bool:
            return bool(
                await admin.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            )

        await eventually(waits, within=5, what="an insert waits for its turn")
        assert await admin.fetchval(drawn) == before
        await admin.execute("COMMIT")
        assert await waiting == before + 1
    finally:
        await admin.close()


async def test_no_follower_misses_or_repeats_a_change(db: AsyncEngine, database_url: str) -> None:
    """Many writers with commits of every length; followers that begin anywhere see each change once, in order."""
    (run_id,) = await accept(db, 1)
    dice = random.Random(7)  # noqa: S311 -- not a secret
    feed = Feed(db=db, url=database_url)
    reading = asyncio.create_task(feed.work())
    try:
        first = await feed.place()

        async def write() -> list[int]:
            return [await note(db, run_id, pause=dice.choice((0, 0, 0.001, 0.01))) for _ in range(25)]

        async def follow(start: float) -> list[int]:
            await asyncio.sleep(start)
            place, live, seen = first, False, []
            while len(seen) < 150:
                stretch = await feed.after(place, "etl", live=live, within=5)
                place, live = stretch.place, stretch.live
                seen += [row.id for row in stretch.changes]
            return seen

        async with asyncio.timeout(30):
            followers = [asyncio.create_task(follow(start)) for start in (0, 0.05, 0.2, 0.4)]
            written = sorted(chain(*await asyncio.gather(*(write() for _ in range(6)))))
            for seen in await asyncio.gather(*followers):
                assert seen == written
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def test_a_follower_that_falls_behind_is_told_so(db: AsyncEngine, database_url: str) -> None:
    """Nothing is kept for it alone; it may come back from its place and finds everything in the ledger."""
    (run_id,) = await accept(db, 1)
    feed = Feed(db=db, url=database_url, kept=5)
    reading = asyncio.create_task(feed.work())
    try:
        place = await feed.place()
        written = [await note(db, run_id) for _ in range(12)]

        async def read() -> bool:
            return await feed.place() == written[-1]

        await eventually(read, within=5, what="the feed has read all")
        with pytest.raises(TooSlow):
            await feed.after(place, "etl", live=True, within=1)
        again = await feed.after(place, "etl", live=False, within=1)
        assert [row.id for row in again.changes] == written
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def test_the_reader_outlives_its_connection(db: AsyncEngine, database_url: str) -> None:
    """The database drops it; it comes back to where it was."""
    (run_id,) = await accept(db, 1)
    feed = Feed(db=db, url=database_url)
    reading = asyncio.create_task(feed.work())
    try:
        place = await feed.place()
        admin = await connect(database_url)

        async def dropped() -> bool:
            return bool(
                await admin.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND pid <> pg_backend_pid() AND query LIKE 'LISTEN%'"
                )
            )

        await eventually(dropped, within=5, what="the reader's connection is dropped")
        await admin.close()
        made = await note(db, run_id)
        stretch = await feed.after(place, "etl", live=True, within=10)
        assert [row.id for row in stretch.changes] == [made]
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def test_one_that_takes_nothing_is_given_up() -> None:
    """A caller that does not read holds one piece, not all that ever come."""
    made = 0

    async def pieces() -> Any:
        nonlocal made
        while True:
            made += 1
            yield b"x"

    never = asyncio.Event()

    async def receive() -> Any:
        await never.wait()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await never.wait()

    async with asyncio.timeout(5):
        await route.EventStream(pieces(), stalled_seconds=0.1)({"type": "http", "path": "/"}, receive, send)
    assert made == 1


def test_sigterm_ends_the_streams_first(tmp_path: Path, database_url: str, free_port: int) -> None:
    """The caller is told why; the process does not wait for callers that would stay for ever."""
    base = f"http://127.0.0.1:{free_port}"
    changes = {"ORCHESTRATOR_DATABASE_URL": database_url, "ORCHESTRATOR_PREFECT_API_URL": "http://127.0.0.1:1/api"}
    process: subprocess.Popen[bytes]
    with serving(tmp_path, free_port, **changes) as process:
        wait_for(f"{base}/healthz", within=90)
        with httpx.stream("GET", f"{base}/api/etl/events", trust_env=False, timeout=15) as answer:
            assert answer.status_code == 200
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            text = "".join(answer.iter_text())
        assert text.endswith('event: end\ndata: {"reason": "shutting down: another replica goes on"}\n\n')
        assert process.wait(timeout=15) == 0
        assert time.monotonic() - began < 10
    assert "Traceback" not in (tmp_path / "log").read_text()
