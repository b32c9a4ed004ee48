"""Cancelling: in every state, through outages, against a dispatcher, and never a run that nobody ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from orchestrator.cancel import Canceller
from orchestrator.ledger import cancellation, handover
from orchestrator.ledger.events import Seen
from orchestrator.ledger.tables import cancellations, runs
from orchestrator.runs import State
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from .cluster import ClusterWire, saying, speaking_to
from .conftest import Serve, eventually
from .test_api import problem
from .test_dispatch import NAMES, accept, dispatcher, know, prefect_on, rows
from .test_sync import Follow, events, follow, handed_over_run
from .wire import PrefectWire, refused

__all__ = ["follow"]  # a fixture of the sync's tests, used here by name

STARTED = {
    "phase": "Running",
    "containerStatuses": [{"name": "prefect-job", "state": {"running": {"startedAt": "2026-03-01T08:00:00Z"}}}],
}


class Watched:
    """A canceller under test and what it told."""

    def __init__(self, canceller: Canceller, seen: list[Seen]) -> None:
        self.canceller = canceller
        self.seen = seen

    async def carry_out(self) -> int:
        """Everything that is due; how often it tried."""
        count = 0
        while await self.canceller.carry_out_one():
            count += 1
        return count


Cancelling = Callable[..., AbstractAsyncContextManager[Watched]]


@pytest.fixture
def cancelling(db: AsyncEngine) -> Cancelling:
    @asynccontextmanager
    async def opened(
        wire: PrefectWire, grace: float = 0, deadline: float = 60, cluster: ClusterWire | None = None
    ) -> AsyncIterator[Watched]:
        async with prefect_on(wire) as prefect, speaking_to(cluster) as kubernetes:
            seen: list[Seen] = []
            canceller = Canceller(
                db=db,
                prefect=prefect,
                kubernetes=kubernetes,
                grace_seconds=grace,
                deadline_seconds=deadline,
                on_seen=seen.append,
                on_acted=lambda pipeline, action: None,
            )
            yield Watched(canceller, seen)

    return opened


async def ask(db: AsyncEngine, run_id: UUID) -> State:
    asked = await cancellation.ask(db, "etl", run_id)
    assert asked is not None
    assert not asked.late
    return asked.state


async def settled(db: AsyncEngine) -> list[bool]:
    async with db.begin() as connection:
        found = await connection.execute(select(cancellations.c.settled_at).order_by(cancellations.c.asked_at))
        return [one is not None for one in found.scalars()]


async def due_now(db: AsyncEngine) -> None:
    async with db.begin() as connection:
        await connection.execute(update(cancellations).values(next_attempt_at=cancellations.c.asked_at))


async def test_a_run_not_handed_over_is_cancelled_at_once_and_never_dispatched(db: AsyncEngine) -> None:
    """Its end is in the ledger when the wish is; the runs behind it go on."""
    wire = PrefectWire()
    await know(db, wire)
    first, second = await accept(db, 2)
    assert await ask(db, first) is State.CANCELLED
    async with dispatcher(db, wire) as one:
        while await one.hand_over_one():
            pass
    assert wire.keys == [str(second)]
    assert await events(db, first) == [("submitted", "Scheduled"), ("ended", "Cancelled")]
    asked = await cancellation.ask(db, "etl", first)
    assert asked is not None
    assert (asked.late, asked.state) == (True, "Cancelled")


async def test_a_run_in_a_dispatchers_hands_is_cancelled_after_it(db: AsyncEngine, cancelling: Cancelling) -> None:
    """The wish does not wait for the row's lock; whichever way the hand-over ends, the run is cancelled."""
    wire = PrefectWire()
    await know(db, wire)
    (run_id,) = await accept(db, 1)
    async with cancelling(wire) as watched:
        async with handover.claim(db, NAMES) as claim:
            assert claim is not None
            async with asyncio.timeout(2):
                assert await ask(db, run_id) is State.CANCELLING
                assert await watched.canceller.carry_out_one(), "it looked, and left the run to its holder"
            assert (await rows(db))[0].state == "Scheduled"
            await claim.postponed("Prefect is away", wait=0, steps_aside=False)
        async with dispatcher(db, wire) as one:
            assert not await one.hand_over_one(), "a run that is to be cancelled is not handed over"
        await due_now(db)
        assert await watched.carry_out() == 1
    assert [one.state for one in watched.seen] == ["Cancelled"]
    assert (wire.keys, await settled(db)) == ([], [True])


async def test_a_scheduled_run_is_cancelled_by_prefect_at_once(db: AsyncEngine, cancelling: Cancelling) -> None:
    """Prefect calls it a rejection; the ledger knows the end without waiting for a poll."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    async with cancelling(wire, grace=60) as watched:
        assert await ask(db, run_id) is State.CANCELLING
        assert await watched.carry_out() == 1
    assert wire.flow_runs[flow_run_id]["state"]["type"] == "CANCELLED"
    assert await events(db, run_id) == [("submitted", "Scheduled"), ("ended", "Cancelled")]
    assert await settled(db) == [True]


async def cancelled_for(wire: PrefectWire, db: AsyncEngine, flow_run_id: str, seconds: float) -> None:
    """As if the wish lay so far back."""
    at = datetime.now(UTC) - timedelta(seconds=seconds)
    wire.flow_runs[flow_run_id]["state"]["timestamp"] = at.isoformat()
    await due_now(db)


@pytest.mark.parametrize("before", ["RUNNING", "PAUSED"])
async def test_a_running_run_ends_itself(db: AsyncEngine, cancelling: Cancelling, follow: Follow, before: str) -> None:
    """It is told and followed; within its time nobody ends it over its head."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, before)
    async with cancelling(wire) as watched, follow(wire) as watching:
        await ask(db, run_id)
        await watched.carry_out()
        await cancelled_for(wire, db, flow_run_id, 50)
        assert await watched.carry_out() == 1
        assert wire.flow_runs[flow_run_id]["state"]["type"] == "CANCELLING"
        assert (await rows(db))[0].state == "Cancelling"
        wire.move(flow_run_id, "CANCELLED")
        await watching.look()
        await due_now(db)
        assert await watched.carry_out() == 1
        assert await settled(db) == [True]
    assert (await rows(db))[0].state == "Cancelled"


async def test_a_running_run_that_does_not_obey_is_ended(db: AsyncEngine, cancelling: Cancelling) -> None:
    """Its time is over: it is Cancelled, and then its Job is removed, so that the pod does not give the run back."""
    wire, cluster = PrefectWire(), ClusterWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "RUNNING")
    cluster.add_job(flow_run_id, active=1)
    cluster.add_pod(flow_run_id, **STARTED)
    async with cancelling(wire, cluster=cluster) as watched:
        await ask(db, run_id)
        await watched.carry_out()
        assert len(cluster.objects["jobs"]) == 1
        await cancelled_for(wire, db, flow_run_id, 61)
        assert await watched.carry_out() == 1
    assert wire.flow_runs[flow_run_id]["state"]["type"] == "CANCELLED"
    assert cluster.objects["jobs"] == []
    assert (await rows(db))[0].message == "cancelled: its process did not end within 60 s"
    assert await settled(db) == [True]


NOT_STARTED = [["PENDING"], ["RUNNING", "SCHEDULED"], ["RUNNING", "SCHEDULED", "PENDING"]]


@pytest.mark.parametrize("before", NOT_STARTED)
async def test_a_run_without_a_process_is_ended_after_the_grace(
    db: AsyncEngine, cancelling: Cancelling, before: list[str]
) -> None:
    """Never started, or put back after an eviction: nothing of it runs, so nothing would end it for minutes."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    wire.flow_runs[flow_run_id]["infrastructure_pid"] = "flows:a-job"
    for state in before:
        wire.move(flow_run_id, state)
    async with cancelling(wire, grace=30) as watched:
        await ask(db, run_id)
        assert await watched.carry_out() == 1
        assert (await rows(db))[0].state == "Cancelling"
        assert await settled(db) == [False], "the grace is not over"
        await cancelled_for(wire, db, flow_run_id, 31)
        assert await watched.carry_out() == 1
    assert [one.state for one in watched.seen] == ["Cancelling", "Cancelled"]
    (row,) = await rows(db)
    assert "had not started" in row.message
    assert wire.flow_runs[flow_run_id]["state"]["type"] == "CANCELLED"
    assert await settled(db) == [True]


@pytest.mark.parametrize("before", NOT_STARTED)
@pytest.mark.parametrize("has_a_pod", [True, False])
async def test_a_run_whose_pod_has_not_started_is_ended_at_once(
    db: AsyncEngine, cancelling: Cancelling, before: list[str], has_a_pod: bool
) -> None:
    """Kubernetes shows that nothing of it runs: it is Cancelled without a wait, and its Job is gone."""
    wire, cluster = PrefectWire(), ClusterWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    wire.flow_runs[flow_run_id]["infrastructure_pid"] = "flows:a-job"
    for state in before:
        wire.move(flow_run_id, state)
    if has_a_pod:
        cluster.add_job(flow_run_id, active=1)
        cluster.add_pod(flow_run_id)
    async with cancelling(wire, grace=60, cluster=cluster) as watched:
        await ask(db, run_id)
        assert await watched.carry_out() == 1
    assert (await rows(db))[0].state == "Cancelled"
    assert cluster.objects["jobs"] == []
    assert await settled(db) == [True]


@pytest.mark.parametrize("shows", ["a process", "nothing"])
async def test_what_kubernetes_does_not_show_to_be_dead_gets_the_grace(
    db: AsyncEngine, cancelling: Cancelling, shows: str
) -> None:
    """The pod has just started, or Kubernetes cannot be asked."""
    wire, cluster = PrefectWire(), ClusterWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "PENDING")
    cluster.add_job(flow_run_id, active=1)
    cluster.add_pod(flow_run_id, **STARTED)
    if shows == "nothing":
        cluster.fault = saying(500, "etcd is away")
    async with cancelling(wire, grace=60, cluster=cluster) as watched:
        await ask(db, run_id)
        assert await watched.carry_out() == 1
        assert (await rows(db))[0].state == "Cancelling"
        await cancelled_for(wire, db, flow_run_id, 61)
        assert await watched.carry_out() == 1
    assert (await rows(db))[0].state == "Cancelled"
    assert await settled(db) == [True]


async def test_a_run_that_ends_first_stays_as_it_ended(db: AsyncEngine, cancelling: Cancelling) -> None:
    """Prefect aborts the wish; the ledger writes down the true end."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    await ask(db, run_id)
    wire.move(flow_run_id, "COMPLETED")
    async with cancelling(wire) as watched:
        assert await watched.carry_out() == 1
    assert [one.state for one in watched.seen] == ["Completed"]
    assert await settled(db) == [True]


async def test_a_wish_outlives_prefects_absence(db: AsyncEngine, cancelling: Cancelling) -> None:
    """It is tried again, says why it waits, and is carried out once Prefect is back."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    wire.fault = refused
    async with cancelling(wire) as watched:
        assert await ask(db, run_id) is State.CANCELLING
        for attempts in (1, 2):
            await due_now(db)
            assert await watched.canceller.carry_out_one()
            async with db.begin() as connection:
                wish = (await connection.execute(select(cancellations))).one()
            assert (wish.attempts, wish.settled_at) == (attempts, None)
            assert "Prefect" in wish.last_error
        wire.fault = None
        await cancellation.hurry(db)
        await watched.carry_out()
    assert wire.flow_runs[flow_run_id]["state"]["type"] == "CANCELLED"


async def test_a_flow_run_that_nobody_noted_is_cancelled_too(
    db: AsyncEngine, cancelling: Cancelling, follow: Follow
) -> None:
    """A dispatcher died after Prefect's answer; the run was cancelled here: the flow run does not run on unseen."""
    wire = PrefectWire()
    await know(db, wire)
    (run_id,) = await accept(db, 1)
    stray = wire.add("RUNNING", idempotency_key=str(run_id))
    assert await ask(db, run_id) is State.CANCELLED
    async with cancelling(wire) as watched, follow(wire) as watching:
        await watching.look()
        (row,) = await rows(db)
        assert (row.state, str(row.flow_run_id)) == ("Cancelled", stray["id"])
        await watched.carry_out()
    assert wire.flow_runs[stray["id"]]["state"]["type"] == "CANCELLING"
    assert len(await rows(db)) == 1, "it is not adopted as another run"


async def test_a_flow_run_that_prefect_lost_settles_the_wish(db: AsyncEngine, cancelling: Cancelling) -> None:
    """There is nothing left to cancel; the sync says what became of the run."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    await ask(db, run_id)
    del wire.flow_runs[flow_run_id]
    async with cancelling(wire) as watched:
        assert await watched.carry_out() == 1
    assert await settled(db) == [True]


async def test_several_replicas_carry_a_wish_out_once(db: AsyncEngine, cancelling: Cancelling) -> None:
    """A wish that one holds is skipped by the others."""
    wire = PrefectWire()
    await know(db, wire)
    made = await accept(db, 12)
    async with dispatcher(db, wire) as one:
        while await one.hand_over_one():
            pass
    for run_id in made:
        await ask(db, run_id)
    async with cancelling(wire) as one, cancelling(wire) as two, cancelling(wire) as three:
        assert sum(await asyncio.gather(one.carry_out(), two.carry_out(), three.carry_out())) == 12
    assert sum(request.url.path.endswith("/set_state") for request in wire.requests) == 12
    assert {row.state for row in await rows(db)} == {"Cancelled"}


async def test_the_route_answers_in_every_state(serve: Serve, db: AsyncEngine) -> None:
    """202 with where the run is going, again for a cancelling one; 409 naming the state of one that is over; 404."""
    wire = PrefectWire()
    async with serve(wire, cancel_grace_seconds=60) as client:
        await problem(await client.post(f"/api/etl/cancel/{uuid4()}"), 404, "unknown-run")
        await problem(await client.post("/api/etl/cancel/7"), 422, "invalid-request")
        run_id = (await client.post("/api/etl/start")).json()["run_id"]

        async def told() -> Any:
            return (await client.get(f"/api/etl/status/{run_id}")).json()

        async def flow_run() -> Any:
            return (await told())["flow_run_id"]

        flow_run_id = await eventually(flow_run, within=5, what="a flow run")
        assert (await told())["cancel_requested_at"] is None
        wire.move(flow_run_id, "RUNNING")
        for _ in range(3):
            answer = await client.post(f"/api/etl/cancel/{run_id}")
            assert (answer.status_code, answer.json()) == (202, {"run_id": run_id, "state": "Cancelling"})

        async def is_cancelling() -> bool:
            return bool((await told())["state"] == "Cancelling")

        await eventually(is_cancelling, within=5, what="the run is Cancelling")
        assert (await told())["cancel_requested_at"]
        wire.move(flow_run_id, "CANCELLED")

        async def over() -> Any:
            again = await client.post(f"/api/etl/cancel/{run_id}")
            return again if again.status_code == 409 else None

        document = await problem(await eventually(over, within=5, what="the run is over"), 409, "run-over")
        assert "is Cancelled already" in document["detail"]


async def test_while_prefect_is_away_a_run_is_cancelled_at_once(serve: Serve, db: AsyncEngine) -> None:
    """Accepted, not handed over, cancelled: 202 with its end, and Prefect never hears of it."""
    wire = PrefectWire()
    await know(db, wire)

    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    wire.fault = away
    async with serve(wire) as client:
        run_id = (await client.post("/api/etl/start")).json()["run_id"]
        await client.post(f"/api/etl/cancel/{run_id}")

        async def cancelled() -> Any:
            told = (await client.get(f"/api/etl/status/{run_id}")).json()
            return told if told["state"] == "Cancelled" else None

        told = await eventually(cancelled, within=5, what="the run is Cancelled")
        assert told["message"] == cancellation.BEFORE_HANDOVER
        wire.fault = None
        count = 'orchestrator_run_states_total{pipeline="etl",state="Cancelled"} 1.0'
        assert count in (await client.get("/metrics")).text
    async with db.begin() as connection:
        assert (await connection.execute(select(runs.c.dispatched_at))).scalar_one() is None
    assert wire.creations == []
