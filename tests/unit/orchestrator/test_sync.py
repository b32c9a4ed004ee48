"""Following Prefect: what is written down, what is adopted, who leads, and what a failure does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from orchestrator.diagnosis import Diagnosis
from orchestrator.errors import EngineConfused, EngineUnavailable
from orchestrator.ledger import handover
from orchestrator.ledger.events import Seen
from orchestrator.ledger.leadership import Leadership
from orchestrator.ledger.tables import run_events, runs
from orchestrator.prefect_api import PrefectApi
from orchestrator.reasons import Commands
from orchestrator.resilience import Guard, Limits
from orchestrator.sync import AT_ONCE, Sync
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from .conftest import Serve, eventually
from .test_dispatch import NAMES, accept, dispatcher, know, rows
from .wire import DEPLOYMENT, PrefectWire, refused, saying


class Watched:
    """A sync under test and what it told."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.failures = 0
        self.sync: Sync

    def failed(self) -> None:
        self.failures += 1

    async def look(self) -> None:
        await self.sync.look()


Follow = Callable[..., Any]


@pytest.fixture
def follow(db: AsyncEngine, database_url: str) -> Follow:
    @asynccontextmanager
    async def followed(
        wire: PrefectWire, deployments: dict[str, str] | None = None, **more: Any
    ) -> AsyncIterator[Watched]:
        async with httpx.AsyncClient(base_url="http://prefect.test/api", transport=wire) as client:
            watched = Watched()
            prefect = PrefectApi(client, Guard("prefect", limits=Limits(attempts=1, failures_to_open=10**6)))
            watched.sync = Sync(
                db=db,
                prefect=prefect,
                leadership=Leadership(database_url),
                diagnosis=Diagnosis(
                    db=db,
                    prefect=prefect,
                    kubernetes=None,
                    commands=Commands(namespace=None, prefect_api="http://prefect.test/api"),
                    query_seconds=1,
                ),
                deployments=deployments or NAMES,
                handed_over=asyncio.Event(),
                on_failure=watched.failed,
                **{"poll_seconds": 0.05, "on_seen": watched.seen.append} | more,
            )
            yield watched

    return followed


async def events(db: AsyncEngine, run_id: UUID) -> list[tuple[str, str]]:
    async with db.begin() as connection:
        found = await connection.execute(
            select(run_events.c.kind, run_events.c.state)
            .where(run_events.c.run_id == run_id, run_events.c.kind.not_in(("held", "explained")))
            .order_by(run_events.c.id)
        )
        return [(row.kind, row.state) for row in found]


async def handed_over_run(db: AsyncEngine, wire: PrefectWire) -> tuple[UUID, str]:
    """A run of ours and its flow run's id."""
    await know(db, wire)
    (run_id,) = await accept(db, 1)
    async with dispatcher(db, wire) as one:
        await one.hand_over_one()
    return run_id, next(iter(wire.flow_runs))


async def test_each_state_is_written_down_once(db: AsyncEngine, follow: Follow) -> None:
    """Looking again changes nothing; a change is told once."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    async with follow(wire) as watched:
        for state in ("PENDING", "RUNNING", "COMPLETED"):
            wire.move(flow_run_id, state)
            await watched.look()
            await watched.look()
    assert [one.state for one in watched.seen] == ["Pending", "Running", "Completed"]
    assert [one.first_start for one in watched.seen] == [False, True, False]
    kinds = [("submitted", "Scheduled"), ("changed", "Pending"), ("changed", "Running"), ("ended", "Completed")]
    assert await events(db, run_id) == kinds
    (row,) = await rows(db)
    assert row.started_at is not None
    assert row.ended_at >= row.started_at


async def test_finer_names_are_kept(db: AsyncEngine, follow: Follow) -> None:
    """Late and AwaitingRetry are Scheduled by another name."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    async with follow(wire) as watched:
        for state, name in (("SCHEDULED", "Late"), ("RUNNING", "Running"), ("SCHEDULED", "AwaitingRetry")):
            wire.move(flow_run_id, state, name=name)
            await watched.look()
    (row,) = await rows(db)
    assert (row.state, row.state_name, row.ended_at) == ("Scheduled", "AwaitingRetry", None)
    assert len(await events(db, run_id)) == 4


@pytest.mark.parametrize("end", ["COMPLETED", "FAILED", "CANCELLED"])
async def test_an_end_is_final(db: AsyncEngine, follow: Follow, end: str) -> None:
    """Whatever Prefect says later, the run stays as it ended."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    async with follow(wire) as watched:
        wire.move(flow_run_id, end, message="first")
        await watched.look()
        for later in ("RUNNING", "COMPLETED", "FAILED", "CRASHED", "SCHEDULED"):
            wire.move(flow_run_id, later, message="later")
            await watched.look()
    (row,) = await rows(db)
    assert (row.state, row.message) == (end.title(), "first")
    assert len(await events(db, run_id)) == 2


async def test_a_crash_may_be_taken_back(db: AsyncEngine, follow: Follow) -> None:
    """Prefect's Crashed → Running → Completed is recorded, each step an event."""
    wire = PrefectWire()
    run_id, flow_run_id = await handed_over_run(db, wire)
    async with follow(wire) as watched:
        for state in ("RUNNING", "CRASHED", "RUNNING", "COMPLETED"):
            wire.move(flow_run_id, state)
            await watched.look()
    assert [state for _, state in await events(db, run_id)][1:] == ["Running", "Crashed", "Running", "Completed"]
    (row,) = await rows(db)
    assert row.state == "Completed"


async def test_an_old_run_is_followed_however_long_it_takes(db: AsyncEngine, follow: Follow) -> None:
    """A run outside every window of time is asked for by its id."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.flow_runs[flow_run_id]["expected_start_time"] = "2020-01-01T00:00:00+00:00"
    wire.move(flow_run_id, "COMPLETED")
    async with follow(wire) as watched:
        await watched.look()
    assert [one.state for one in watched.seen] == ["Completed"]


async def test_more_runs_than_a_page_holds(db: AsyncEngine, follow: Follow) -> None:
    """Prefect gives 200 at a time; all are met, by window and by id."""
    wire = PrefectWire()
    for _ in range(250):
        wire.add("RUNNING")
    async with follow(wire) as watched:
        await watched.look()
        assert len(await rows(db)) == 250
        for flow_run in wire.flow_runs.values():
            flow_run["expected_start_time"] = "2020-01-01T00:00:00+00:00"
            wire.move(flow_run["id"], "COMPLETED")
        await watched.look()
    assert {row.state for row in await rows(db)} == {"Completed"}


async def test_what_others_made_is_adopted_when_due(db: AsyncEngine, follow: Follow) -> None:
    """The schedule's runs and the UI's, under their own ids, about the right day, from the right origin."""
    wire = PrefectWire()
    due = datetime.now(UTC) - timedelta(minutes=1)
    scheduled = wire.add("SCHEDULED", due=due, name="Late", auto_scheduled=True, tags=["correlation-id:abc"])
    by_schedule = wire.add("PENDING", due=due, created_by={"type": "SCHEDULE", "id": str(uuid4())})
    by_hand = wire.add("RUNNING", due=due, parameters={"logical_date": "2025-07-01"})
    coming = wire.add("SCHEDULED", due=datetime.now(UTC) + timedelta(hours=1), auto_scheduled=True)
    foreign = wire.add("RUNNING", due=due, deployment_id=str(uuid4()))
    async with follow(wire) as watched:
        await watched.look()
        known = {str(row.run_id): row for row in await rows(db)}
        assert set(known) == {scheduled["id"], by_schedule["id"], by_hand["id"]}
        assert foreign["id"] not in known
        assert known[scheduled["id"]].origin == known[by_schedule["id"]].origin == "schedule"
        assert known[scheduled["id"]].correlation_id == "abc"
        assert known[scheduled["id"]].accepted_at == due
        assert (known[by_hand["id"]].origin, known[by_hand["id"]].logical_date) == ("prefect", date(2025, 7, 1))
        assert str(known[by_hand["id"]].flow_run_id) == by_hand["id"]
        coming["expected_start_time"] = datetime.now(UTC).isoformat()
        await watched.look()
        assert len(await rows(db)) == 4
    kinds = [("submitted", "Scheduled"), ("changed", "Running")]
    assert await events(db, UUID(by_hand["id"])) == kinds


async def test_of_many_what_was_written_down_stays(db: AsyncEngine, follow: Follow) -> None:
    """Some are written down at a time, and told: what goes wrong with the next does not take those back."""

    def tell(change: Seen) -> None:
        told.append(change)
        if len(told) > AT_ONCE:
            raise RuntimeError

    wire = PrefectWire()
    for _ in range(2 * AT_ONCE + 1):
        wire.add("RUNNING", due=datetime.now(UTC) - timedelta(minutes=1))
    told: list[Seen] = []
    async with follow(wire, on_seen=tell) as watched:
        with pytest.raises(RuntimeError):
            await watched.look()
        assert len(await rows(db)) == 2 * AT_ONCE
        told.clear()
        await watched.look()
    assert len(await rows(db)) == 2 * AT_ONCE + 1
    assert len(told) == 1


async def test_our_own_run_is_linked_not_adopted(db: AsyncEngine, follow: Follow) -> None:
    """A flow run under one of our ids is ours, although nobody could write its id down."""
    wire = PrefectWire()
    await know(db, wire)
    (run_id,) = await accept(db, 1)
    flow_run = wire.add("RUNNING", idempotency_key=str(run_id))
    async with follow(wire) as watched:
        async with handover.claim(db, NAMES) as claim:
            assert claim is not None
            await watched.look()  # a dispatcher holds the run: hands off, and no waiting for it either
        assert (await rows(db))[0].flow_run_id is None
        await watched.look()
    (row,) = await rows(db)
    assert (str(row.run_id), str(row.flow_run_id)) == (str(run_id), flow_run["id"])
    assert (row.origin, row.state) == ("api", "Running")
    async with dispatcher(db, wire) as one:
        assert not await one.hand_over_one(), "there is nothing left to hand over"


async def test_a_copied_tag_does_not_make_a_run_ours(db: AsyncEngine, follow: Follow) -> None:
    """Prefect's UI copies tags to a rerun: only the idempotency key says whose a run is."""
    wire = PrefectWire()
    run_id, _ = await handed_over_run(db, wire)
    copy = wire.add("RUNNING", tags=[f"run-id:{run_id}"])
    async with follow(wire) as watched:
        await watched.look()
    assert {str(row.run_id) for row in await rows(db)} == {str(run_id), copy["id"]}


async def test_a_run_deleted_in_prefect_is_not_followed_for_ever(db: AsyncEngine, follow: Follow) -> None:
    """It ends as Crashed and says so; should Prefect find it again, that counts."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    gone = wire.flow_runs.pop(flow_run_id)
    async with follow(wire) as watched:
        await watched.look()
        (row,) = await rows(db)
        assert (row.state, row.state_name) == ("Crashed", "NotFound")
        assert "deleted" in row.message
        await watched.look()
        wire.flow_runs[flow_run_id] = gone
        wire.move(flow_run_id, "RUNNING")
        await watched.look()
    assert [one.state for one in watched.seen] == ["Crashed", "Running"]


async def test_a_crash_long_ago_is_let_go(db: AsyncEngine, follow: Follow) -> None:
    """Prefect is not asked about every crash of all time."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    async with follow(wire) as watched:
        wire.move(flow_run_id, "CRASHED")
        await watched.look()
        async with db.begin() as connection:
            await connection.execute(update(runs).values(ended_at=datetime.now(UTC) - timedelta(days=1)))
        wire.flow_runs[flow_run_id]["expected_start_time"] = "2020-01-01T00:00:00+00:00"
        wire.requests.clear()
        await watched.look()
    assert not any(flow_run_id.encode() in request.content for request in wire.requests)


async def test_an_unlisted_state_is_not_guessed_at(db: AsyncEngine, follow: Follow) -> None:
    """It raises, naming the state, and changes nothing."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "BLOCKED")
    async with follow(wire) as watched:
        with pytest.raises(EngineConfused, match="BLOCKED"):
            await watched.look()
    assert (await rows(db))[0].state == "Scheduled"


async def test_one_missing_deployment_does_not_blind_the_others(db: AsyncEngine, follow: Follow) -> None:
    """The others are followed; the missing one is counted, and found when it is registered."""
    wire = PrefectWire()
    wire.add("RUNNING")
    async with follow(wire, {"missing": "no_job/none", "etl": DEPLOYMENT}) as watched:
        await watched.look()
    assert [one.pipeline for one in watched.seen] == ["etl"]
    assert watched.failures == 1


async def test_a_failure_raises_and_the_next_look_works(db: AsyncEngine, follow: Follow) -> None:
    """Nothing is remembered from a look that failed halfway."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "RUNNING")
    async with follow(wire) as watched:
        for fault in (refused, saying(500), saying(503)):
            wire.fault = fault
            with pytest.raises(EngineUnavailable):
                await watched.look()
        wire.fault = None
        await watched.look()
    assert [one.state for one in watched.seen] == ["Running"]


async def test_an_idle_leader_asks_prefect_less_often(follow: Follow) -> None:
    """With nothing to wait for it looks now and then; while a run is not over, at every poll."""
    wire = PrefectWire()
    async with follow(wire) as watched:
        work = asyncio.create_task(watched.sync.work())
        try:

            async def began() -> bool:
                return any(b"RUNNING" in request.content for request in wire.requests)

            await eventually(began, within=5, what="the first look, which also learns of the deployment")
            looks = await _requests(wire, seconds=0.8)
            wire.add("RUNNING")

            async def adopted() -> bool:
                return bool(watched.seen)

            await eventually(adopted, within=5, what="the run is adopted")
            assert await _requests(wire, seconds=0.8) > 1.5 * looks
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


async def test_what_is_announced_is_looked_at_alone(db: AsyncEngine, follow: Follow) -> None:
    """One request tells of it, at once, whoever made the run; the others wait for the next poll."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    async with follow(wire, poll_seconds=60) as watched:
        work = asyncio.create_task(watched.sync.work())
        try:

            async def looked() -> bool:
                return bool(wire.requests) and watched.sync.leads

            await eventually(looked, within=5, what="the first look")
            await asyncio.sleep(0.3)
            wire.move(flow_run_id, "RUNNING")
            stranger = wire.add("PENDING")
            wire.add("PENDING")
            wire.requests.clear()
            watched.sync.wake({UUID(flow_run_id), UUID(stranger["id"])})

            async def seen() -> bool:
                return len(watched.seen) == 2

            await eventually(seen, within=5, what="both changes")
            assert [request.url.path for request in wire.requests] == ["/api/flow_runs/filter"]
            watched.sync.wake()

            async def all_seen() -> bool:
                return len(watched.seen) == 3

            await eventually(all_seen, within=5, what="where none is named, it may be any")
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
    assert {(one.before, one.state) for one in watched.seen} == {("Scheduled", "Running"), (None, "Pending")}


async def test_whose_pod_a_run_is_in_is_written_down_without_a_change(db: AsyncEngine, follow: Follow) -> None:
    """The pod says so a moment after it took the run."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "PENDING")
    async with follow(wire) as watched:
        await watched.look()
        host = uuid4()
        wire.flow_runs[flow_run_id]["labels"] = {"pipelines.pod-of": str(host)}
        await watched.look()
    assert (await rows(db))[0].pod_of == host


async def test_what_could_not_be_looked_at_is_not_forgotten(db: AsyncEngine, follow: Follow) -> None:
    """The next look is at everything."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    async with follow(wire, poll_seconds=0.2) as watched:
        await watched.look()
        wire.move(flow_run_id, "RUNNING")
        wire.fault = saying(503)
        watched.sync.wake({UUID(flow_run_id)})
        with pytest.raises(EngineUnavailable):
            await watched.sync.glance()
        wire.fault = None
        work = asyncio.create_task(watched.sync.work())
        try:

            async def seen() -> bool:
                return bool(watched.seen)

            await eventually(seen, within=5, what="the change")
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


async def _requests(wire: PrefectWire, *, seconds: float) -> int:
    """How many there are in that time."""
    wire.requests.clear()
    await asyncio.sleep(seconds)
    return len(wire.requests)


async def test_a_backlog_is_tried_as_soon_as_prefect_is_back(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sync sees Prefect first; what waits does not sit out its backoff."""
    monkeypatch.setattr("orchestrator.dispatch.backoff", lambda attempts: 3600.0)
    wire = PrefectWire()
    async with serve(wire, limits=Limits(attempts=1, open_for=0.1), poll_seconds=0.1) as client:
        assert (await client.post("/api/etl/start")).status_code == 202

        async def handed_over(count: int) -> bool:
            return len(wire.flow_runs) == count

        await eventually(lambda: handed_over(1), within=5, what="the first run is handed over")
        wire.fault = refused
        where = (await client.post("/api/etl/start")).headers["location"]

        async def waits() -> Any:
            text = (await client.get("/metrics")).text
            tried = (await client.get(where)).json()["dispatch"]["attempts"]
            return tried and "orchestrator_sync_failures_total 0.0" not in text

        await eventually(waits, within=5, what="the second run waits, and the sync knows of the outage")
        wire.fault = None
        await eventually(lambda: handed_over(2), within=5, what="the second run is handed over")


async def test_the_loop_outlives_failures(serve: Serve) -> None:
    """Faults come and go; afterwards the state is known, and the failures are counted."""
    wire = PrefectWire()
    fast = Limits(attempts=1, open_for=0.1)
    async with serve(wire, limits=fast, poll_seconds=0.1) as client:
        where = (await client.post("/api/etl/start")).headers["location"]

        async def handed_over() -> Any:
            return (await client.get(where)).json()["flow_run_id"]

        flow_run_id = await eventually(handed_over, within=5, what="a flow run")
        wire.fault = saying(200, text="<html>")
        wire.move(flow_run_id, "RUNNING")

        async def failures() -> Any:
            text = (await client.get("/metrics")).text
            return "orchestrator_sync_failures_total 0.0" not in text

        await eventually(failures, within=5, what="failed looks")
        assert (await client.get(where)).json()["state"] != "Running"
        wire.fault = None

        async def running() -> Any:
            return (await client.get(where)).json()["state"] == "Running"

        await eventually(running, within=5, what="the state is known again")


async def test_replicas_share_the_work(database_url: str, serve: Serve) -> None:
    """Two applications on one ledger: one follows, and takes over when the other ends; no run is doubled."""
    wire = PrefectWire()
    async with serve(wire, poll_seconds=0.1) as second:
        async with serve(wire, poll_seconds=0.1) as first:
            made = [
                (await client.post("/api/etl/start")).json()["run_id"] for _ in range(5) for client in (first, second)
            ]

            async def all_handed_over() -> bool:
                return len(wire.flow_runs) == 10

            await eventually(all_handed_over, within=5, what="all runs are handed over")
        for flow_run_id in list(wire.flow_runs):
            wire.move(flow_run_id, "COMPLETED")

        async def all_known() -> Any:
            page = (await second.get("/api/etl/runs", params={"state": "Completed"})).json()["runs"]
            return len(page) == 10

        await eventually(all_known, within=10, what="the remaining replica follows")
    assert sorted(wire.keys) == sorted(made)
