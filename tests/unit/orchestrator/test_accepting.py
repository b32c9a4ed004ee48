"""Runs taken in together: one commit for those that wait, each answered after it, and nobody's trouble is another's."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from typing import Any
from uuid import UUID

import pytest
from orchestrator.errors import KeyReused, LedgerUnavailable
from orchestrator.ledger.acceptance import Acceptor, Key, Wish
from orchestrator.ledger.connection import open_ledger
from orchestrator.ledger.reading import Reader
from orchestrator.ledger.tables import run_events, runs
from orchestrator.ledger.together import Together
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine


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
    """A rested one is tried before it is used; one that was just used may fail a request, and never the one after."""
    reader = Reader(db)
    assert await reader.run("etl", UUID(int=1)) is None
    name = db.url.database or (await value(db, text("SELECT current_database()")))
    if not used:
        await asyncio.sleep(1.2)
    postgres.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid();"
    )
    await asyncio.sleep(0.1)
    if used:
        with suppress(LedgerUnavailable):
            await reader.run("etl", UUID(int=1))
    assert await reader.run("etl", UUID(int=1)) is None
