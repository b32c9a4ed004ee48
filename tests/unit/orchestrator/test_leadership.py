"""Who follows Prefect when a leader is gone without a word: killed, frozen, or cut off."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from orchestrator.ledger.leadership import Leadership

from .conftest import eventually

# What is promised is ten; the rest is for a busy machine.
TAKEN_OVER_WITHIN = 20

LEADER = """
import asyncio, sys
from orchestrator.ledger.leadership import Leadership

async def lead():
    leadership = Leadership(sys.argv[1])
    while True:
        print("leads" if await leadership.held() else "waits", flush=True)
        await asyncio.sleep(0.5)

asyncio.run(lead())
"""


@contextmanager
def leader(database_url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that leads."""
    command = [sys.executable, "-c", LEADER, database_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "leads\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_leader_that_is_killed_or_frozen_is_replaced(database_url: str, number: signal.Signals) -> None:
    """A dead process's connection ends at once; a frozen one's kernel would answer for it for ever."""
    other = Leadership(database_url)
    try:
        with leader(database_url) as process:
            assert not await other.held()
            process.send_signal(number)
            await eventually(other.held, within=TAKEN_OVER_WITHIN, what="another one leads")
            if number is signal.SIGSTOP:
                process.send_signal(signal.SIGCONT)
                assert process.stdout is not None
                await eventually(lambda: _waits(process), within=10, what="who wakes up leads no more")
            assert await other.held()
    finally:
        await other.release()


async def _waits(process: subprocess.Popen[str]) -> bool:
    assert process.stdout is not None
    return await asyncio.to_thread(process.stdout.readline) == "waits\n"


class Cut:
    """A way to the database that stays open and carries nothing once `cut` is set."""

    def __init__(self, socket: str) -> None:
        self.cut = asyncio.Event()
        self._socket = socket
        self._tasks: list[asyncio.Task[None]] = []

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._socket)
        self._tasks += [
            asyncio.create_task(self._pump(reader, far_writer)),
            asyncio.create_task(self._pump(far_reader, writer)),
        ]

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            while data := await reader.read(65536):
                if self.cut.is_set():
                    await asyncio.Event().wait()
                writer.write(data)
                await writer.drain()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def way(database_url: str) -> AsyncIterator[tuple[str, Cut]]:
    """The database by TCP, through something that can be cut."""
    told = urlsplit(database_url)
    [folder] = parse_qs(told.query)["host"]
    cut = Cut(f"{folder}/.s.PGSQL.5432")
    server = await asyncio.start_server(cut.carry, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"postgresql://{told.username}:@127.0.0.1:{port}{told.path}", cut
    finally:
        server.close()
        await cut.end()


async def test_a_leader_that_is_cut_off_is_replaced_and_knows(database_url: str) -> None:
    """Nothing arrives any more, and nothing says so: who is cut off steps down, who is not takes over."""
    other = Leadership(database_url)
    async with way(database_url) as (url, cut):
        one = Leadership(url)
        try:
            assert await one.held()
            assert not await other.held()
            cut.cut.set()
            assert not await one.held(), "it cannot ask, so it does not lead"
            await eventually(other.held, within=TAKEN_OVER_WITHIN, what="another one leads")
        finally:
            await one.release()
            await other.release()


async def test_a_long_look_keeps_the_lead(database_url: str) -> None:
    """What counts as silence is that of the process, not the time between two looks."""
    one, other = Leadership(database_url), Leadership(database_url)
    try:
        assert await one.held()
        await asyncio.sleep(8)
        assert not await other.held()
        assert await one.held()
    finally:
        await one.release()
        await other.release()


async def test_one_of_several_leads_and_another_takes_over(database_url: str) -> None:
    """The lock is one; losing the connection loses it at once, and the loser notices."""
    one, two = Leadership(database_url), Leadership(database_url)
    try:
        assert await one.held()
        assert not await two.held()
        assert await one.held(), "asking again changes nothing"
        assert not await two.held()
        admin = await asyncpg.connect(database_url)
        await admin.execute(
            "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
            "WHERE l.locktype = 'advisory' AND d.datname = current_database()"
        )
        await admin.close()

        async def taken_over() -> bool:
            return await two.held()

        await eventually(taken_over, within=5, what="the other one leads")
        assert not await one.held()
        await two.release()

        async def back() -> bool:
            return await one.held()

        await eventually(back, within=5, what="the first one leads again")
    finally:
        await one.release()
        await two.release()


async def test_a_connection_that_ends_while_it_is_used_leads_no_longer(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncpg then says that it is in no state for a question, by an error of its own kind: the lead is lost."""
    one = Leadership(database_url)
    try:
        assert await one.held()

        async def ended(*_: object, **__: object) -> None:
            raise asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress")

        with monkeypatch.context() as patched:
            patched.setattr(asyncpg.Connection, "execute", ended)
            assert not await one.held()
        assert await one.held()
    finally:
        await one.release()


async def test_without_a_database_nobody_leads() -> None:
    """Not knowing is not leading."""
    assert not await Leadership("postgresql://nobody@127.0.0.1:1/none").held()
