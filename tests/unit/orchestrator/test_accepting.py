"""Runs taken in together: one commit for those that wait, each answered after it, and nobody's trouble is another's."""

import asyncio
from collections.abc import Sequence
from contextlib import closing
from datetime import date
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from orchestrator.errors import KeyReused, LedgerUnavailable
from orchestrator.ledger.acceptance import Acceptor, Key, Wish
from orchestrator.ledger.connection import open_ledger, repeatable, transaction
from orchestrator.ledger.reading import Reader
from orchestrator.ledger.tables import run_events, runs
from orchestrator.ledger.together import Together
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine

from .conftest import eventually


def wish(*, key: Key | None = None, correlation_id: str = "c", parameters: dict[str, Any] | None = None) -> Wish:
    return Wish(
        pipeline="etl",
        logical_date=date(2026, 3, 1),
        parameters=parameters or {},
        correlation_id=correlation_id,
        traceparent=None,
        key=key,
    )


async def value(db: AsyncEngine, query: Any) -> Any:
    async with db.begin() as connection:
        return (await connection.execute(query)).scalar_one()


async def test_those_who_wait_share_a_commit(db: AsyncEngine) -> None:
    """Of a hundred at once none has a transaction of its own, and each run is there with its event, in order."""
    acceptor = Acceptor(db)
    taken = await asyncio.gather(*(acceptor.accept(wish(parameters={"n": n})) for n in range(100)))
    assert all(is_new for _, is_new in taken)
    assert await value(db, text("SELECT count(DISTINCT xmin::text) FROM runs")) <= 3
    async with db.begin() as connection:
        by_age = (await connection.execute(select(runs.c.run_id).order_by(runs.c.accepted_at))).scalars().all()
        told = (await connection.execute(select(run_events.c.run_id).order_by(run_events.c.id))).scalars().all()
    assert by_age == told == [run_id for run_id, _ in taken]


async def test_an_answer_comes_after_the_commit(db: AsyncEngine, database_url: str) -> None:
    """Whoever was answered finds the run by another connection, at once and every time."""
    acceptor, other = Acceptor(db), open_ledger(database_url)

    async def accept_and_look() -> bool:
        run_id, _ = await acceptor.accept(wish())
        found: int = await value(other, select(func.count()).where(runs.c.run_id == run_id))
        return found == 1

    try:
        assert all(await asyncio.gather(*(accept_and_look() for _ in range(50))))
    finally:
        await other.dispose()


async def test_what_the_database_refuses_of_one_hurts_no_other(db: AsyncEngine) -> None:
    """The one with a character that no text can hold fails alone."""
    acceptor = Acceptor(db)
    wishes = [wish(correlation_id="bad \x00" if n == 7 else "good") for n in range(20)]
    answers = await asyncio.gather(*(acceptor.accept(one) for one in wishes), return_exceptions=True)
    assert [n for n, one in enumerate(answers) if isinstance(one, DBAPIError)] == [7]
    assert sum(isinstance(one, tuple) for one in answers) == 19
    assert await value(db, select(func.count()).select_from(runs)) == 19


async def test_one_key_makes_one_run_within_a_group(db: AsyncEngine) -> None:
    """The first of those with one key is new, the others are told of it; one that asks for other things is refused."""
    acceptor = Acceptor(db)
    key, changed = Key.of("k", {"a": 1}), Key.of("k", {"a": 2})
    answers = await asyncio.gather(
        *(acceptor.accept(wish(key=key)) for _ in range(5)),
        acceptor.accept(wish(key=changed)),
        acceptor.accept(wish()),
        return_exceptions=True,
    )
    same, refused, free = answers[:5], answers[5], answers[6]
    assert len({one[0] for one in same if isinstance(one, tuple)}) == 1
    assert [one[1] for one in same if isinstance(one, tuple)] == [True, False, False, False, False]
    assert isinstance(refused, KeyReused)
    assert isinstance(free, tuple)
    assert free[1]


async def test_who_leaves_takes_nobody_along(db: AsyncEngine) -> None:
    """A caller that hangs up while its group is written does not undo the others."""
    acceptor = Acceptor(db)
    asking = [asyncio.create_task(acceptor.accept(wish())) for _ in range(10)]
    await asyncio.sleep(0)
    asking[0].cancel()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert all(isinstance(one, tuple) for one in answers[1:])
    assert (await acceptor.accept(wish()))[1]


async def test_without_the_database_everybody_is_told(free_port: int) -> None:
    """And the next one tries anew."""
    db = open_ledger(f"postgresql://nobody@127.0.0.1:{free_port}/nothing")
    acceptor = Acceptor(db)
    try:
        for _ in range(2):
            answers = await asyncio.gather(*(acceptor.accept(wish()) for _ in range(3)), return_exceptions=True)
            assert [type(one) for one in answers] == [LedgerUnavailable] * 3
    finally:
        await db.dispose()


async def test_groups_follow_each_other_and_are_limited() -> None:
    """Who comes while a group is on its way is in the next; none is larger than it may be; each gets its own answer."""
    groups: list[list[int]] = []
    going = asyncio.Event()

    async def double(numbers: Sequence[int]) -> list[int]:
        groups.append(list(numbers))
        await going.wait()
        return [2 * number for number in numbers]

    together = Together(double, most=3)
    first = asyncio.create_task(together.ask(0))
    await asyncio.sleep(0.01)
    later = [asyncio.create_task(together.ask(number)) for number in range(1, 6)]
    await asyncio.sleep(0.01)
    going.set()
    assert await asyncio.gather(first, *later) == [0, 2, 4, 6, 8, 10]
    assert groups == [[0], [1, 2, 3], [4, 5]]


async def test_reads_of_one_moment_are_one_statement(db: AsyncEngine) -> None:
    """Each gets its own run or none, also by another pipeline's name, and sees what was committed before it asked."""
    acceptor, reader = Acceptor(db), Reader(db)
    made = [run_id for run_id, _ in await asyncio.gather(*(acceptor.accept(wish()) for _ in range(20)))]
    unknown = UUID(int=1)
    found = await asyncio.gather(
        *(reader.run("etl", run_id) for run_id in made), reader.run("etl", unknown), reader.run("other", made[0])
    )
    assert [row and row.run_id for row in found] == [*made, None, None]


@pytest.mark.parametrize("used", [False, True], ids=["rested", "just used"])
async def test_a_connection_that_was_lost_is_replaced(db: AsyncEngine, postgres: Any, used: bool) -> None:
    """Each is tried before it is used: the request does not notice, however short ago the connection was good."""
    acceptor, reader = Acceptor(db), Reader(db)
    assert await reader.run("etl", UUID(int=1)) is None
    name = db.url.database or (await value(db, text("SELECT current_database()")))
    if not used:
        await asyncio.sleep(1.2)
    cut = (
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid();"
    )
    postgres.execute(cut)
    assert await reader.run("etl", UUID(int=1)) is None
    postgres.execute(cut)
    assert (await acceptor.accept(wish()))[1]


async def test_connections_that_are_lost_again_and_again_lose_nothing(db: AsyncEngine, postgres: Any) -> None:
    """Neither who accepts nor who reads notices, also where a connection ends while it is used."""
    acceptor, reader = Acceptor(db), Reader(db)
    name = await value(db, text("SELECT current_database()"))
    cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    over = asyncio.Event()
    made = list[UUID]()

    async def caller() -> None:
        while not over.is_set():
            run_id, new = await acceptor.accept(wish())
            assert new
            row = await reader.run("etl", run_id)
            assert row is not None
            made.append(run_id)

    async with asyncio.TaskGroup() as callers:
        for _ in range(4):
            callers.create_task(caller())
        for _ in range(20):
            await asyncio.sleep(0.05)
            await asyncio.to_thread(postgres.execute, cut)
        over.set()
    assert len(made) > 20
    assert await value(db, select(func.count()).select_from(runs)) == len(set(made)) == len(made)


@pytest.mark.parametrize(("sqlstate", "asked"), [("57P01", 2), ("57P02", 2), ("57P05", 2), ("53300", 1)])
async def test_what_a_closing_connection_kept_from_being_done_is_asked_again(sqlstate: str, asked: int) -> None:
    """Also where it is closed for want of use at the very moment at which it is used; any other refusal stays one."""
    tries = 0

    class Refused(Exception):
        pass

    Refused.sqlstate = sqlstate  # type: ignore[attr-defined]

    async def ask() -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise LedgerUnavailable("it is closed", retry_after=1) from DBAPIError("SELECT 1", {}, Refused())
        return tries

    if asked == 1:
        with pytest.raises(LedgerUnavailable):
            await repeatable(ask)
    else:
        assert await repeatable(ask) == asked
    assert tries == asked


async def test_a_connection_that_is_lost_twice_is_a_database_that_is_away(db: AsyncEngine) -> None:
    """It answers 503, not 500; a mistake of ours stays one."""
    made = list[Any]()

    def lost(connection: Any, *_: Any) -> None:
        made.append(connection)
        connection.driver_connection.terminate()

    event.listen(db.sync_engine, "connect", lost)
    with pytest.raises(LedgerUnavailable, match="cannot be reached now"):
        async with transaction(db):
            pass
    event.remove(db.sync_engine, "connect", lost)
    assert len(made) >= 2
    with pytest.raises(InvalidRequestError):
        async with transaction(db) as connection:
            await connection.begin()


async def test_connections_that_nobody_uses_are_closed(postgres: Any) -> None:
    """Each is a process of the database's. What is asked afterwards does not notice."""
    url = postgres.create_database()
    db = open_ledger(url, unused_seconds=0.5)
    own = open_ledger(postgres.create_database())
    name = urlsplit(url).path.lstrip("/")
    open_now = text(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'")
    async with db.begin(), db.begin(), db.begin():
        assert await value(own, open_now) == 3

    async def closed() -> bool:
        return await value(own, open_now) == 0

    await eventually(closed, within=10, what="no connection open")
    assert await value(db, text("SELECT 1")) == 1
    for one in (db, own):
        await one.dispose()


class Cut:
    """A way to the database that is cut once, as runs are committed: before that arrives, or before its answer does."""

    def __init__(self, socket: str, *, at: bytes, arrives: bool) -> None:
        """`at`: by what the statement's values are known."""
        self.done = False
        self._socket = socket
        self._at = at
        self._arrives = arrives

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._socket)
        back = asyncio.create_task(self._back(far_reader, writer))
        with closing(writer), closing(far_writer):
            while data := await reader.read(65536):
                if self._at in data and not self.done:
                    self.done = True
                    if self._arrives:
                        back.cancel()
                        await asyncio.gather(back, return_exceptions=True)
                        far_writer.write(data)
                        await far_reader.read(65536)
                    return
                far_writer.write(data)
        await asyncio.gather(back, return_exceptions=True)

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            while data := await reader.read(65536):
                writer.write(data)


@pytest.mark.parametrize("arrives", [False, True], ids=["not committed", "committed"])
async def test_a_commit_that_nobody_hears_of_is_looked_for(db: AsyncEngine, database_url: str, arrives: bool) -> None:
    """Cut off at the commit, nobody knows what became of it: all are answered, and each run is there once."""
    told = urlsplit(database_url)
    [folder] = parse_qs(told.query)["host"]
    key = Key.of("k", {})
    asked = [wish(), wish(), wish(key=key), wish(key=key)]
    cut = Cut(f"{folder}/.s.PGSQL.5432", at=str(asked[0].run_id).encode(), arrives=arrives)
    async with await asyncio.start_server(cut.carry, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        far = open_ledger(f"postgresql://{told.username}:@127.0.0.1:{port}{told.path}")
        try:
            acceptor = Acceptor(far)
            answers = await asyncio.gather(*(acceptor.accept(one) for one in asked))
        finally:
            await far.dispose()
    assert cut.done
    ids = [one.run_id for one in asked]
    assert answers == [(ids[0], True), (ids[1], True), (ids[2], True), (ids[2], False)]
    async with db.begin() as connection:
        made = (await connection.execute(select(runs.c.run_id))).scalars().all()
        events = (await connection.execute(select(run_events.c.run_id))).scalars().all()
    assert sorted(made) == sorted(events) == sorted(ids[:3])


async def test_what_is_wrong_with_one_costs_the_others_little() -> None:
    """It is found by halves, so a large group is not done one by one; the others are each done once."""
    asked = 0
    done: list[int] = []

    async def act(numbers: Sequence[int]) -> list[int]:
        nonlocal asked
        asked += 1
        if 77 in numbers:
            raise StatementError("not this one", "", {}, ValueError())
        done.extend(numbers)
        return list(numbers)

    together = Together(act, most=128)
    answers = await asyncio.gather(*(together.ask(number) for number in range(128)), return_exceptions=True)
    assert [n for n, one in enumerate(answers) if isinstance(one, StatementError)] == [77]
    assert done == [number for number in range(128) if number != 77]
    assert asked == 1 + 2 * 7


async def test_an_interrupted_group_is_told_and_the_next_goes_on() -> None:
    """A driver that gives up a connection may raise what a cancelled task raises; nobody asked for an end."""
    interrupted = False

    async def act(numbers: Sequence[int]) -> list[int]:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            raise asyncio.CancelledError
        return list(numbers)

    together = Together(act, most=2)
    answers = await asyncio.gather(*(together.ask(number) for number in range(4)), return_exceptions=True)
    assert [type(one) for one in answers[:2]] == [LedgerUnavailable] * 2
    assert answers[2:] == [2, 3]


async def test_whoever_waits_when_it_ends_is_told() -> None:
    """The loop that ends cancels what goes on: those of the group and those behind it are all answered."""
    going = asyncio.Event()

    async def act(_: Sequence[int]) -> list[int]:
        going.set()
        await asyncio.Event().wait()
        return []

    together = Together(act, most=1)
    asking = [asyncio.create_task(together.ask(number)) for number in range(3)]
    await going.wait()
    for task in asyncio.all_tasks():
        if task.get_name() == "together":
            task.cancel()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one) for one in answers] == [LedgerUnavailable] * 3
