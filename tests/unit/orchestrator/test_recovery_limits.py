"""Runs ended by a deadline, Jobs left behind, and scheduled runs that were missed."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from orchestrator.ledger.tables import pipelines, runs
from orchestrator.settings import Missed
from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncEngine

from .cluster import ClusterWire
from .recovering import Recovering, age, following, heard_of, hurried, recovering, requests
from .test_dispatch import accept, dispatcher, know, rows
from .test_sync import Follow, follow, handed_over_run
from .wire import PrefectWire

__all__ = ["follow", "hurried", "recovering"]  # fixtures, used here by name


async def test_a_run_that_does_not_start_in_time_ends(db: AsyncEngine, recovering: Recovering, follow: Follow) -> None:
    """Crashed with the reason, whatever attempts are left, and its Job is removed."""
    wire, cluster = PrefectWire(), ClusterWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "PENDING", name="InfrastructurePending")
    await following(follow, wire)
    cluster.add_job(flow_run_id, active=1)
    cluster.add_pod(flow_run_id)
    await heard_of(db)
    async with recovering(wire, cluster, start_deadline_seconds=3600) as watched:
        await age(db, dispatched_at=timedelta(seconds=3590))
        await watched.look()
        assert watched.acted == []
        await age(db, dispatched_at=timedelta(seconds=3601))
        await watched.look()
        await watched.look()
    assert watched.acted == ["remove_job", "give_up"]
    (row,) = await rows(db)
    assert (row.state, row.attempt) == ("Crashed", 1)
    assert row.message == "not started within 3600 s, the pipeline's start deadline"
    assert wire.flow_runs[flow_run_id]["state"]["message"] == row.message
    assert cluster.objects["jobs"] == []


async def test_a_decision_to_end_a_run_outlives_whoever_took_it(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """It is in the ledger before Prefect is told."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    async with db.begin() as connection:
        await connection.execute(update(runs).values(given_up="not started within 3600 s"))
    async with recovering(wire) as watched:
        await watched.look()
    (row,) = await rows(db)
    assert (row.state, row.message) == ("Crashed", "not started within 3600 s")
    assert wire.flow_runs[flow_run_id]["state"]["type"] == "CRASHED"


async def test_after_an_outage_the_waits_begin_anew(db: AsyncEngine, recovering: Recovering, follow: Follow) -> None:
    """Prefect was away for hours: what waited meanwhile is not ended at the first look."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    await following(follow, wire)
    await age(db, dispatched_at=timedelta(hours=9))
    async with recovering(wire, start_deadline_seconds=3600) as watched:
        async with db.begin() as connection:  # Prefect is not heard of
            await connection.execute(update(pipelines).values(seen_at=func.now() - timedelta(minutes=2)))
        await watched.look()
        async with db.begin() as connection:  # it is again, after hours
            values = {"seen_at": func.now(), "watched_at": func.now() - timedelta(hours=8)}
            await connection.execute(update(pipelines).values(values))
        await watched.look()
        await watched.look()
        assert watched.acted == []
        await age(db, waits_since=timedelta(seconds=3601))
        assert await watched.recovery.look() is False
        assert watched.acted == [], "Prefect itself says that it is due just now"
        wire.flow_runs[flow_run_id]["next_scheduled_start_time"] = "2026-01-01T00:00:00Z"
        await watched.look()
    assert watched.acted == ["give_up"]


async def test_a_run_that_waits_for_a_slot_is_not_ended(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """A backfill may queue for hours; its deadline counts from when there was room."""
    wire = PrefectWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "SCHEDULED", name="AwaitingConcurrencySlot")
    await following(follow, wire)
    await heard_of(db)
    await age(db, dispatched_at=timedelta(hours=9))
    async with recovering(wire) as watched:
        await watched.look()
        wire.move(flow_run_id, "PENDING")
        await following(follow, wire)
        await heard_of(db)
        await watched.look()
    assert watched.acted == []


async def test_a_run_not_handed_over_has_no_deadline(db: AsyncEngine, recovering: Recovering) -> None:
    """Nothing accepted is lost because Prefect was away."""
    wire = PrefectWire()
    await know(db, wire)
    await accept(db, 1)
    await age(db, accepted_at=timedelta(days=9))
    async with recovering(wire, start_deadline_seconds=1) as watched:
        await watched.look()
    assert (watched.acted, (await rows(db))[0].state) == ([], "Scheduled")


async def test_a_run_that_runs_too_long_is_ended(db: AsyncEngine, recovering: Recovering, follow: Follow) -> None:
    """Failed named TimedOut: not rerun, and a pod that is stopped does not give it back; its Job is removed."""
    wire, cluster = PrefectWire(), ClusterWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "RUNNING")
    cluster.add_job(flow_run_id, active=1)
    cluster.add_pod(flow_run_id, phase="Running")
    long_ago = (datetime.now(UTC) - timedelta(seconds=999)).isoformat()
    wire.flow_runs[flow_run_id]["state"]["timestamp"] = wire.flow_runs[flow_run_id]["start_time"] = long_ago
    await following(follow, wire)
    async with recovering(wire, cluster, run_deadline_seconds=9999) as watched:
        await watched.look()
        assert watched.acted == []
    async with recovering(wire, cluster, run_deadline_seconds=998) as watched:
        await watched.look()
    assert watched.acted == ["remove_job", "time_out"]
    (row,) = await rows(db)
    assert (row.state, row.state_name) == ("Failed", "TimedOut")
    assert "run deadline" in row.message


async def test_jobs_of_runs_that_are_over_are_removed(db: AsyncEngine, recovering: Recovering, follow: Follow) -> None:
    """Those of cancelled runs at once, of others after a while; never a finished one, a live run's or a stranger's."""
    wire, cluster = PrefectWire(), ClusterWire()
    await know(db, wire)
    made = await accept(db, 4)
    async with dispatcher(db, wire) as one:
        while await one.hand_over_one():
            pass
    of = {one["idempotency_key"]: one["id"] for one in wire.flow_runs.values()}
    cancelled, completed, finished, live = (of[str(run_id)] for run_id in made)
    for flow_run_id, state in (
        (cancelled, "CANCELLED"),
        (completed, "COMPLETED"),
        (finished, "COMPLETED"),
        (live, "RUNNING"),
    ):
        wire.move(flow_run_id, state)
    await following(follow, wire)
    for name, flow_run_id in (("cancelled", cancelled), ("completed", completed), ("live", live)):
        cluster.add_job(flow_run_id, name, active=1)
    cluster.add_job(finished, "finished", conditions=[{"type": "Complete", "status": "True"}])
    cluster.add_job(str(uuid4()), "stranger", active=1)
    cluster.add_job("", "no-flow-run", active=1)
    async with recovering(wire, cluster) as watched:
        await watched.look()
        assert {one["metadata"]["name"] for one in cluster.objects["jobs"]} >= {"completed", "live", "finished"}
        async with db.begin() as connection:
            ended = update(runs).where(runs.c.ended_at.is_not(None))
            await connection.execute(ended.values(ended_at=func.now() - timedelta(minutes=3)))
        await watched.look()
    left = {one["metadata"]["name"] for one in cluster.objects["jobs"]}
    assert left == {"live", "finished", "stranger", "no-flow-run"}
    assert watched.acted == ["remove_job", "remove_job"]


async def test_a_run_that_goes_on_in_prefect_keeps_its_job(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """Somebody started it again in Prefect's UI: the ledger's end is final, the Job is not ours to judge."""
    wire, cluster = PrefectWire(), ClusterWire()
    _, flow_run_id = await handed_over_run(db, wire)
    wire.move(flow_run_id, "FAILED")
    await following(follow, wire)
    wire.move(flow_run_id, "RUNNING")
    cluster.add_job(flow_run_id, active=1)
    async with db.begin() as connection:
        await connection.execute(update(runs).values(ended_at=func.now() - timedelta(hours=1)))
    async with recovering(wire, cluster) as watched:
        await watched.look()
    assert len(cluster.objects["jobs"]) == 1
    assert (watched.acted, requests(wire)) == ([], 0)


async def scheduled(db: AsyncEngine, follow: Follow, wire: PrefectWire, *late: timedelta) -> list[str]:
    """Runs that the schedule made for a day each, so late now; their flow runs."""
    await know(db, wire)
    made = [
        wire.add("SCHEDULED", due=datetime.now(UTC) - each, name="Late", auto_scheduled=True)["id"] for each in late
    ]
    await following(follow, wire)
    await heard_of(db)
    return made


DAYS = (timedelta(days=3), timedelta(days=2), timedelta(days=1), timedelta(minutes=1))


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        (Missed.RUN_ALL, ["Scheduled"] * 4),
        (Missed.LATEST, ["Cancelled"] * 3 + ["Scheduled"]),
        (Missed.SKIP, ["Cancelled"] * 3 + ["Scheduled"]),
    ],
)
async def test_missed_runs_are_left_out_by_the_pipelines_policy(
    db: AsyncEngine, recovering: Recovering, follow: Follow, policy: Missed, left: list[str]
) -> None:
    """However long ago they were due; the message names the policy, and a run that is in time is kept."""
    wire = PrefectWire()
    await scheduled(db, follow, wire, *DAYS)
    async with recovering(wire, missed_schedules=policy) as watched:
        await watched.look()
        await watched.look()
    found = await rows(db)
    assert [row.state for row in found] == left
    assert watched.acted == ["skip"] * left.count("Cancelled")
    skipped = [row for row in found if row.state == "Cancelled"]
    assert {row.state_name for row in skipped} <= {"Skipped"}
    assert all(f"missedSchedules: {policy}" in row.message for row in skipped)


async def test_only_the_schedules_own_runs_are_left_out(
    db: AsyncEngine, recovering: Recovering, follow: Follow
) -> None:
    """Not one that somebody asked for by the API or in Prefect, and not one that a worker has taken by then."""
    wire = PrefectWire()
    taken, _ = await scheduled(db, follow, wire, timedelta(days=2), timedelta(days=1))
    wire.add("SCHEDULED", due=datetime.now(UTC) - timedelta(days=2))
    run_id, _ = await handed_over_run(db, wire)
    async with db.begin() as connection:
        of_it = update(runs).where(runs.c.run_id == run_id)
        await connection.execute(of_it.values(accepted_at=func.now() - timedelta(days=4)))
    wire.move(taken, "PENDING")
    async with recovering(wire, missed_schedules=Missed.SKIP) as watched:
        await watched.look()
    assert watched.acted == ["skip"]
