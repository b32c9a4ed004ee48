"""Crashed runs are rerun: each crash once, by any leader, through outages, up to the pipeline's attempts."""

import asyncio
from datetime import date
from typing import Any

import httpx
import pytest
from orchestrator.backfills import Mode, Range, Wanted
from orchestrator.ledger import backfilling, cancellation
from orchestrator.ledger.tables import cancellations
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from .conftest import Serve, eventually
from .recovering import Recovering, following, hurried, messages, recovering, requests
from .test_dispatch import dispatcher, know, rows
from .test_sync import Follow, events, follow, handed_over_run
from .wire import PrefectWire, refused

__all__ = ["follow", "hurried", "recovering"]  # fixtures, used here by name


async def test_a_crashed_run_is_rerun_until_its_attempts_are_used_up(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """It is never recorded as over in between; the last crash is its end, with Prefect's word on it."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    async with recovering(wire) as watched:
        for attempt in (1, 2, 3):
            wire.move(flow_run_id, "RUNNING")
            await following(follow, wire)
            wire.move(flow_run_id, "CRASHED", message=f"killed {attempt}")
            await following(follow, wire)
            await following(follow, wire)
            await watched.look()
            await watched.look()
            (row,) = await rows(db)
            assert row.attempt == min(attempt + 1, 3)
    assert await messages(db, run_id) == [
        ("Running", "Running", None),
        ("Scheduled", "AwaitingRetry", "attempt 2 of 3: killed 1"),
        ("Running", "Running", None),
        ("Scheduled", "AwaitingRetry", "attempt 3 of 3: killed 2"),
        ("Running", "Running", None),
        ("Crashed", "Crashed", "killed 3"),
    ]
    assert watched.acted == ["rerun", "rerun"]
    assert requests(wire) == 2


@pytest.mark.parametrize("end", ["FAILED", "COMPLETED", "CANCELLED"])
async def test_only_a_crash_is_rerun(db: AsyncEngine, recovering: Recovering, follow: Follow, end: str) -> None:
    """A flow that raised has said what it had to say."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, end)
    await following(follow, wire)
    async with recovering(wire) as watched:
        await watched.look()
    assert (await rows(db))[0].state == end.title()
    assert requests(wire) == 0


async def test_where_one_attempt_is_allowed_a_crash_is_the_end(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """maxAttempts: 1."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "CRASHED")
    await following(follow, wire, attempts=1)
    async with recovering(wire, max_attempts=1) as watched:
        await watched.look()
    (row,) = await rows(db)
    assert (row.state, row.attempt, requests(wire)) == ("Crashed", 1, 0)


async def test_a_run_that_completes_before_its_rerun_stays_completed(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """The pod was only slow: Prefect's Crashed → Completed stands, and nothing is rerun."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "CRASHED")
    await following(follow, wire)
    wire.move(flow_run_id, "COMPLETED")
    async with recovering(wire) as watched:
        await watched.look()
        await watched.look()
    assert [state for _, state in await events(db, run_id)] == ["Scheduled", "Completed"]
    assert (watched.acted, requests(wire)) == ([], 0)


async def test_a_crash_is_counted_once_however_often_it_is_seen(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """Two that lead at once, looks that overlap, and a request whose answer was lost: one attempt."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "CRASHED")
    await asyncio.gather(*(following(follow, wire) for _ in range(4)))
    async with recovering(wire) as one, recovering(wire) as two:
        await asyncio.gather(*(each.look() for each in (one, two, one, two)))
    (row,) = await rows(db)
    assert (row.attempt, row.state_name, row.rerun_due) == (2, "AwaitingRetry", False)
    assert requests(wire) == 1


@pytest.mark.parametrize("dies", ["before Prefect is told", "after Prefect was told"])
async def test_a_rerun_outlives_whoever_began_it(
    db: AsyncEngine, recovering: Recovering, follow: Follow, dies: str
) -> None:
    """The attempt is in the ledger first; the next look does, or finds done, what is left."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "CRASHED", message="killed")
    await following(follow, wire)
    if dies == "after Prefect was told":
        wire.move(flow_run_id, "SCHEDULED", name="AwaitingRetry", message="attempt 2 of 3: killed")
    async with recovering(wire) as watched:
        await watched.look()
        await watched.look()
    assert await messages(db, run_id) == [("Scheduled", "AwaitingRetry", "attempt 2 of 3: killed")]
    (row,) = await rows(db)
    assert (row.attempt, row.rerun_due) == (2, False)


async def test_while_prefect_is_away_nothing_is_lost(db: AsyncEngine, recovering: Recovering, follow: Follow) -> None:
    """The rerun waits, however often it is tried."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "CRASHED")
    await following(follow, wire)
    wire.fault = refused
    async with recovering(wire) as watched:
        for _ in range(3):
            with pytest.raises(Exception, match="Prefect"):
                await watched.look()
        wire.fault = None
        await watched.look()
    assert (await rows(db))[0].state_name == "AwaitingRetry"


async def test_a_run_that_prefect_does_not_take_again_ends(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """Its deployment is gone: it is Crashed, not due for ever."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "CRASHED", message="killed")
    await following(follow, wire)
    wire.flow_runs[flow_run_id]["deployment_id"] = None
    async with recovering(wire) as watched:
        await watched.look()
    (row,) = await rows(db)
    assert (row.state, row.rerun_due, watched.acted) == ("Crashed", False, [])
    assert "does not let it be rerun" in row.given_up


async def test_a_run_that_is_to_be_cancelled_is_not_rerun(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """Whether the wish came before the crash was seen or after."""
    wire = PrefectWire()
    first, first_flow_run = await handed_over_run(db, wire)
    wire.move(first_flow_run, "CRASHED")
    await following(follow, wire)
    await cancellation.ask(db, "etl", first)
    async with recovering(wire) as watched:
        await watched.look()
        assert requests(wire) == 0
        await following(follow, wire)
    (row,) = await rows(db)
    assert row.state == "Crashed"


async def test_a_wish_that_comes_during_the_rerun_is_carried_out(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """The canceller found the run over while its rerun was on its way: it begins anew, the run does not go on."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "CRASHED")
    await following(follow, wire)

    async def asked_meanwhile(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/set_state"):
            # another replica takes the wish, finds the run crashed, and has nothing more to do
            async with db.begin() as connection:
                await cancellation.wish(connection, [run_id])
                await connection.execute(update(cancellations).values(settled_at=func.now()))
        wire.fault = None
        answered = wire.answer(request)
        wire.fault = asked_meanwhile
        return answered

    wire.fault = asked_meanwhile
    async with recovering(wire) as watched:
        await watched.look()
    async with db.begin() as connection:
        assert (await connection.execute(select(cancellations.c.settled_at))).scalar_one() is None


async def test_the_ledger_stays_what_it_was_while_a_rerun_is_due(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """Nobody who reads the ledger sees the run as over; a backfill keeps its place for it."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "RUNNING")
    await following(follow, wire)
    wire.move(flow_run_id, "CRASHED")
    await following(follow, wire)
    (row,) = await rows(db)
    assert (row.state, row.ended_at, row.rerun_due) == ("Running", None, True)
    assert [state for _, state in await events(db, run_id)] == ["Scheduled", "Running"]


async def test_a_crash_is_rerun_within_a_moment(serve: Serve) -> None:
    """The sync wakes the recovery; status shows the attempt, the metrics count it, a follower is told."""
    wire = PrefectWire()
    async with serve(wire) as client:
        run_id = (await client.post("/api/etl/start")).json()["run_id"]

        async def told() -> Any:
            return (await client.get(f"/api/etl/status/{run_id}")).json()

        async def flow_run() -> Any:
            return (await told())["flow_run_id"]

        flow_run_id = await eventually(flow_run, within=5, what="a flow run")
        assert ((await told())["attempt"], (await told())["max_attempts"]) == (1, 3)
        wire.move(flow_run_id, "CRASHED", message="killed")

        async def again() -> Any:
            now = await told()
            return now if now["state_name"] == "AwaitingRetry" else None

        now = await eventually(again, within=30, what="the next attempt")
        assert (now["attempt"], now["message"], now["ended_at"]) == (2, "attempt 2 of 3: killed", None)
        count = 'orchestrator_recovery_actions_total{action="rerun",pipeline="etl"} 1.0'

        async def counted() -> bool:
            return count in (await client.get("/metrics")).text

        await eventually(counted, within=30, what="the rerun is counted")


async def test_a_rerun_keeps_its_place_in_a_backfill(db: AsyncEngine, recovering: Recovering, follow: Follow) -> None:
    """The limit counts it as going on, and its date is not failed."""
    wire = PrefectWire()
    await know(db, wire)
    days = Range(first=date(2026, 3, 1), last=date(2026, 3, 2))
    asked = Wanted(pipeline="etl", range=days, mode=Mode.MISSING, max_concurrent=1)
    plan = await backfilling.shown(db, asked)
    backfill_id, _ = await backfilling.create(
        db,
        asked,
        digest=plan.digest,
        parameters={},
        correlation_id="c",
        traceparent=None,
    )
    await backfilling.admit(db)
    async with dispatcher(db, wire) as one:
        while await one.hand_over_one():
            pass
    (flow_run_id,) = wire.flow_runs
    wire.move(flow_run_id, "RUNNING")
    wire.move(flow_run_id, "CRASHED")
    await following(follow, wire)
    async with recovering(wire) as watched:
        assert await backfilling.admit(db) == 0
        await watched.look()
        assert await backfilling.admit(db) == 0
    progress = await backfilling.progress(db, "etl", backfill_id)
    assert progress is not None
    assert (progress.counts, progress.queued, progress.first_failed) == ({"Scheduled": 2}, 1, None)
    wire.move(flow_run_id, "COMPLETED")
    await following(follow, wire)
    assert await backfilling.admit(db) == 1
