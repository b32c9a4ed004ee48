"""What callers ask is answered by an index: PostgreSQL's own plans of the statements as they are sent, 20,000 runs."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest
from orchestrator import migrations
from orchestrator.ledger import acceptance, reading
from orchestrator.ledger.acceptance import Key
from orchestrator.ledger.connection import connect, open_ledger
from orchestrator.ledger.reading import Reader, Wanted
from orchestrator.runs import State
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from ...bench.api.ledgers import many_runs

RUNS = 20_000
PLACE = (datetime(2026, 1, 1, tzinfo=UTC), UUID(int=0))


@pytest.fixture(scope="module")
async def large(postgres: Any) -> AsyncIterator[AsyncEngine]:
    """A ledger of four pipelines' runs, with statistics about them."""
    url = postgres.create_database()
    db = open_ledger(url)
    await migrations.upgrade(db, seconds=10)
    connection = await connect(url, statement_seconds=None)
    for statement in many_runs(RUNS, pipelines=("etl", "other", "third", "fourth")):
        await connection.execute(statement)
    await connection.close()
    yield db
    await db.dispose()


@contextmanager
def sent(db: AsyncEngine) -> Iterator[list[tuple[str, Any]]]:
    """Every statement that goes to the database meanwhile, as it goes."""
    found: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        found.append((statement, parameters))

    event.listen(db.sync_engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(db.sync_engine, "before_cursor_execute", note)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


ASKED = {
    "a run": (lambda db: Reader(db).run("etl", UUID(int=7)), "runs_pkey"),
    "the newest runs": (lambda db: reading.recent(db, Wanted(pipeline="etl"), None), "runs_recent"),
    "a later page": (lambda db: reading.recent(db, Wanted(pipeline="etl"), PLACE), "runs_recent"),
    "failed runs": (lambda db: reading.recent(db, Wanted(pipeline="etl", state=State.FAILED), None), "runs_by_state"),
    "a day's runs": (
        lambda db: reading.recent(db, Wanted(pipeline="etl", logical_date=date(2021, 3, 4)), None),
        "runs_by_day",
    ),
    # of the latest events, some are enough for a page: from the newest down, whichever of these says which they are
    "the newest reports": (lambda db: reading.reports(db, Wanted(pipeline="etl"), None), "run_events_"),
    "a later page of reports": (lambda db: reading.reports(db, Wanted(pipeline="etl"), 16_000), "run_events_"),
    "the last run of each": (lambda db: reading.last_runs(db, ["etl", "other"]), "runs_recent"),
    "the last success of each": (lambda db: reading.last_successes(db, ["etl", "other"]), "runs_succeeded"),
    "the run of a key": (lambda db: acceptance.known(db, "etl", Key.of("k", {})), "runs_by_key"),
    "what is not over": (reading.backlog, "runs_unfinished"),
}


@pytest.mark.parametrize("asked", ASKED)
async def test_the_plan_uses_an_index(large: AsyncEngine, asked: str) -> None:
    """Never a look at every row of runs or of their events."""
    ask, index = ASKED[asked]
    with sent(large) as statements:
        await ask(large)
    assert statements
    plans = []
    async with large.connect() as connection:
        for statement, parameters in statements:
            explained = await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
            told = explained.scalar_one()
            plans.append((json.loads(told) if isinstance(told, str) else told)[0]["Plan"])
    every = [node for plan in plans for node in nodes(plan)]
    whole = {node["Relation Name"] for node in every if node["Node Type"] == "Seq Scan"}
    assert not whole & {"runs", "run_events"}, plans
    assert any(node.get("Index Name", "").startswith(index) for node in every), plans
