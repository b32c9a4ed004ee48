"""Handing over: once, in order, through outages, and never lost."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import date
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from orchestrator import dispatch
from orchestrator.dispatch import Dispatcher
from orchestrator.ledger import following, handover
from orchestrator.ledger.acceptance import Acceptor, Wish
from orchestrator.ledger.events import Seen
from orchestrator.ledger.tables import run_events, runs
from orchestrator.prefect_api import PrefectApi
from orchestrator.resilience import Guard, Limits, backoff
from orchestrator.tracing import Passing
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from .conftest import Serve, eventually
from .wire import DEPLOYMENT, PrefectWire, refused, saying

NAMES = {"etl": DEPLOYMENT}
NO_WAIT = Limits(attempts=1, failures_to_open=10**6)


@asynccontextmanager
async def prefect_on(wire: PrefectWire, limits: Limits = NO_WAIT) -> AsyncIterator[PrefectApi]:
    async with httpx.AsyncClient(base_url="http://prefect.test/api", transport=wire) as client:
        yield PrefectApi(client, Guard("prefect", limits=limits))


@asynccontextmanager
async def dispatcher(db: AsyncEngine, wire: PrefectWire, limits: Limits = NO_WAIT) -> AsyncIterator[Dispatcher]:
    async with prefect_on(wire, limits) as prefect:
        yield dispatching(db, prefect, NAMES)


def dispatching(
    db: AsyncEngine, prefect: PrefectApi, names: dict[str, str], *, on_seen: Callable[[Seen], None] = lambda _: None
) -> Dispatcher:
    return Dispatcher(
        db=db, prefect=prefect, deployments=names, handed_over=asyncio.Event(), tracing=Passing(), on_seen=on_seen
    )


async def accept(db: AsyncEngine, count: int) -> list[UUID]:
    made = []
    acceptor = Acceptor(db)
    for _ in range(count):
        wish = Wish(
            pipeline="etl",
            logical_date=date(2026, 3, 1),
            parameters={},
            correlation_id="c",
            traceparent=None,
            key=None,
        )
        run_id, is_new = await acceptor.accept(wish)
        assert is_new
        made.append(run_id)
    return made


async def know(db: AsyncEngine, wire: PrefectWire) -> None:
    async with prefect_on(wire) as prefect:
        facts = await prefect.deployment(DEPLOYMENT)
        assert facts is not None
        await following.note_pipeline(db, "etl", facts, ())


async def rows(db: AsyncEngine) -> list[Any]:
    async with db.begin() as connection:
        return list(await connection.execute(select(runs).order_by(runs.c.accepted_at)))


async def due_now(db: AsyncEngine) -> None:
    """As if every wait were over."""
    async with db.begin() as connection:
        await connection.execute(
            update(runs).where(runs.c.next_attempt_at.is_not(None)).values(next_attempt_at=runs.c.accepted_at)
        )


async def test_runs_are_handed_over_in_the_order_of_acceptance(db: AsyncEngine) -> None:
    """Each once, under its own id as key."""
    wire = PrefectWire()
    await know(db, wire)
    made = await accept(db, 20)
    async with dispatcher(db, wire) as one:
        while await one.hand_over_one():
            pass
    assert wire.keys == [str(run_id) for run_id in made]
    assert all(row.dispatched_at and row.flow_run_id and row.dispatch_attempts == 1 for row in await rows(db))


async def test_several_replicas_hand_each_run_over_once(db: AsyncEngine) -> None:
    """A row that one holds is skipped by the others."""
    wire = PrefectWire()
    await know(db, wire)
    made = await accept(db, 30)
    async with dispatcher(db, wire) as one, dispatcher(db, wire) as two, dispatcher(db, wire) as three:

        async def drain(which: Dispatcher) -> int:
            count = 0
            while await which.hand_over_one():
                count += 1
            return count

        shares = await asyncio.gather(drain(one), drain(two), drain(three))
    assert sum(shares) == 30
    assert sorted(one["idempotency_key"] for one in wire.creations) == sorted(map(str, made))


async def test_an_outage_keeps_the_order(db: AsyncEngine) -> None:
    """While Prefect is down the oldest is tried and the others wait behind it; then all follow in order."""
    wire = PrefectWire()
    await know(db, wire)
    made = await accept(db, 5)
    wire.fault = refused
    async with dispatcher(db, wire) as one:
        for _ in range(3):
            await due_now(db)
            assert await one.hand_over_one()
            assert not await one.hand_over_one(), "nobody overtakes the one that waits"
        first, *others = await rows(db)
        assert first.dispatch_attempts == 3
        assert "ConnectError" in first.last_error
        assert not first.steps_aside
        assert {row.dispatch_attempts for row in others} == {0}
        wire.fault = None
        await handover.hurry(db)
        while await one.hand_over_one():
            pass
    assert wire.keys == [str(run_id) for run_id in made]


async def test_one_runs_own_trouble_does_not_hold_up_the_others(db: AsyncEngine) -> None:
    """Where Prefect works and only this run fails, it steps aside and is tried again later."""
    wire = PrefectWire()
    await know(db, wire)
    poison, *others = await accept(db, 4)

    def fault(request: httpx.Request) -> httpx.Response:
        if str(poison).encode() in request.content:
            return httpx.Response(500, json={"exception_message": "Internal Server Error"})
        wire.fault = None
        answer = wire.answer(request)
        wire.fault = fault
        return answer

    wire.fault = fault
    async with dispatcher(db, wire) as one:
        while await one.hand_over_one():
            pass
        assert wire.keys == [str(run_id) for run_id in others]
        first, *_ = await rows(db)
        assert (first.steps_aside, first.dispatched_at) == (True, None)
        wire.fault = None
        await due_now(db)
        assert await one.hand_over_one()
    assert wire.keys[-1] == str(poison)


@pytest.mark.parametrize("status", [400, 409, 422])
async def test_what_prefect_will_never_take_ends_as_failed(db: AsyncEngine, status: int) -> None:
    """The run is not lost: it is Failed, says why, and its end is an event."""
    wire = PrefectWire()
    await know(db, wire)
    (run_id,) = await accept(db, 1)
    wire.fault = saying(status, json={"detail": "Error creating flow run: 0 is less than 1"})
    async with dispatcher(db, wire) as one:
        assert await one.hand_over_one()
        assert not await one.hand_over_one()
    (row,) = await rows(db)
    assert (row.state, row.flow_run_id, row.next_attempt_at) == ("Failed", None, None)
    assert "0 is less than 1" in row.message
    async with db.begin() as connection:
        *_, last = await connection.execute(select(run_events).where(run_events.c.run_id == run_id))
    assert (last.kind, last.state, last.duration_ms) == ("ended", "Failed", 0)
    assert "0 is less than 1" in last.message


async def test_a_deployment_that_is_gone_ends_the_run(db: AsyncEngine) -> None:
    """Gone by id and by name: Failed, naming the registration."""
    wire = PrefectWire()
    await know(db, wire)
    await accept(db, 1)
    wire.deployment = None
    async with dispatcher(db, wire) as one:
        await one.hand_over_one()
    (row,) = await rows(db)
    assert row.state == "Failed"
    assert "registration" in row.message


async def test_a_deployment_registered_anew_is_found_by_name(db: AsyncEngine) -> None:
    """A new id under the old name is where the run goes."""
    wire = PrefectWire()
    await know(db, wire)
    (run_id,) = await accept(db, 1)
    assert wire.deployment is not None
    wire.deployment["id"] = str(uuid4())
    async with dispatcher(db, wire) as one:
        await one.hand_over_one()
    assert wire.keys == [str(run_id)]


@pytest.mark.parametrize(
    "fault",
    [
        saying(401),
        saying(404, text="default backend - 404", json=None),
        saying(200, json={"unexpected": True}),
        saying(502, text="<html>bad gateway</html>", json=None),
        saying(429, headers={"retry-after": "9"}),
    ],
)
async def test_what_is_not_prefects_no_keeps_the_run(db: AsyncEngine, fault: Any) -> None:
    """Wrong credentials, a proxy's page, an answer of another shape: the run waits and says why."""
    wire = PrefectWire()
    await know(db, wire)
    await accept(db, 1)
    wire.fault = fault
    async with dispatcher(db, wire) as one:
        assert await one.hand_over_one()
    (row,) = await rows(db)
    assert (row.state, row.ended_at, row.dispatched_at) == ("Scheduled", None, None)
    assert row.last_error
    assert row.next_attempt_at is not None
    assert not row.steps_aside, "it would be the same for every other run"


async def test_a_handover_that_was_not_written_down_is_found_again(db: AsyncEngine) -> None:
    """A replica that dies between Prefect's answer and its own commit leaves one flow run, not two."""
    wire = PrefectWire()
    await know(db, wire)
    (run_id,) = await accept(db, 1)

    async def die_before_the_commit() -> None:
        async with prefect_on(wire) as prefect, handover.claim(db, NAMES) as claim:
            assert claim is not None
            assert claim.deployment_id is not None
            await prefect.create_flow_run(
                claim.deployment_id, key=str(run_id), parameters={}, tags=[], labels={}, job_variables={}
            )
            raise RuntimeError("died")

    with pytest.raises(RuntimeError, match="died"):
        await die_before_the_commit()
    async with dispatcher(db, wire) as one:
        assert await one.hand_over_one()
    assert wire.keys == [str(run_id)]
    (row,) = await rows(db)
    assert str(row.flow_run_id) in wire.flow_runs


async def test_a_run_of_a_pipeline_no_longer_configured_waits(db: AsyncEngine) -> None:
    """It is neither handed over by guess nor lost."""
    wire = PrefectWire()
    await accept(db, 1)
    async with prefect_on(wire) as prefect:
        assert not await dispatching(db, prefect, {"other": "x/y"}).hand_over_one()


async def test_an_accepted_run_is_handed_over_at_once(serve: Serve) -> None:
    """Nobody waits for a timer: acceptance wakes the dispatcher."""
    wire = PrefectWire()
    async with serve(wire, poll_seconds=60) as client:
        await client.post("/api/etl/start")
        loop = asyncio.get_running_loop()
        began = loop.time()
        for count in range(2, 5):
            await client.post("/api/etl/start")

            async def created(count: int = count) -> bool:
                return len(wire.creations) == count

            await eventually(created, within=2, what=f"{count} flow runs")
        assert loop.time() - began < dispatch.IDLE_SECONDS


def test_backoff_grows_with_full_jitter_to_a_cap() -> None:
    """Any wait from none to the cap, on average twice as long each time."""
    for attempts, most in ((0, 0.5), (1, 1.0), (4, 8.0), (5, 15.0), (10**6, 15.0)):
        waits = [backoff(attempts) for _ in range(400)]
        assert 0 <= min(waits) < most * 0.1
        assert most * 0.9 < max(waits) <= most


async def test_requests_carry_only_what_prefect_knows(db: AsyncEngine) -> None:
    """Prefect answers 422 to a field it does not know."""
    wire = PrefectWire()
    await know(db, wire)
    (run_id,) = await accept(db, 1)
    async with dispatcher(db, wire) as one:
        await one.hand_over_one()
    sent = json.loads(wire.requests[-1].content)
    assert sent == {
        "idempotency_key": str(run_id),
        "parameters": {},
        "tags": [f"run-id:{run_id}", "correlation-id:c"],
        "labels": {"pipelines.run-id": str(run_id), "pipelines.correlation-id": "c"},
        "job_variables": {
            "labels.pipelines/run-id": str(run_id),
            "labels.pipelines/correlation-id": "c",
            "annotations.pipelines/correlation-id": "c",
        },
    }
