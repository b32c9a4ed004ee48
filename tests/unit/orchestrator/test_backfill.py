"""Backfills: shown first, then exactly that, so many at once, and no day twice."""

import asyncio
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from orchestrator import dispatch
from orchestrator.backfills import Mode, Plan, Range, Run, Wanted
from orchestrator.errors import InvalidRequest
from orchestrator.ledger import backfilling
from orchestrator.ledger.tables import run_events, runs
from orchestrator.runs import State
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from .conftest import Serve, eventually
from .test_api import problem
from .test_dispatch import dispatcher, know
from .wire import PrefectWire, refused

FIRST = date(2026, 3, 1)
ASK: dict[str, Any] = {"from": "2026-03-01", "to": "2026-03-06", "mode": "missing"}


async def past_run(db: AsyncEngine, day: date, state: State, name: str | None = None) -> UUID:
    """A run of that day that is already where it is."""
    run_id = uuid4()
    now = datetime.now(UTC)
    async with db.begin() as connection:
        await connection.execute(
            insert(runs).values(
                run_id=run_id,
                pipeline="etl",
                logical_date=day,
                state=state,
                state_name=name or state,
                parameters={},
                origin="api",
                correlation_id="c",
                accepted_at=now,
                dispatched_at=now,
                ended_at=now if state.ended else None,
            )
        )
    return run_id


async def ask(client: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    return await client.post("/api/etl/backfill", json=ASK | changes)


async def create(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    """Preview, then exactly that."""
    shown = (await ask(client, **changes)).json()
    answer = await ask(client, **changes, digest=shown["digest"])
    assert answer.status_code == 202, answer.text
    told: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/api/etl/backfill/{told['backfill_id']}"
    return told


def wanted(days: Range, mode: Mode = Mode.MISSING) -> Wanted:
    return Wanted(pipeline="etl", range=days, mode=mode, max_concurrent=4)


def test_each_mode_picks_its_days() -> None:
    """What decides is the day's last run; for missing, whether any run completed it; a run under way keeps it out."""

    def run(state: State, name: str | None = None) -> Run:
        return Run(run_id=uuid4(), state=state, state_name=name or state)

    completed, failed = run(State.COMPLETED), run(State.FAILED)
    histories = {
        "none": [],
        "completed": [completed],
        "degraded": [run(State.COMPLETED, "Degraded")],
        "failed": [failed],
        "crashed": [run(State.CRASHED)],
        "cancelled": [run(State.CANCELLED)],
        "completed, then failed": [completed, failed],
        "failed, then completed": [failed, completed],
        "failed, then running": [failed, run(State.RUNNING)],
        "late": [run(State.SCHEDULED, "Late")],
    }
    days = Range(first=FIRST, last=FIRST + timedelta(days=len(histories) - 1))
    history = dict(zip(days.days, histories.values(), strict=True))
    expected = {
        Mode.MISSING: {"none", "failed", "crashed", "cancelled"},
        Mode.FAILED: {"failed", "crashed", "completed, then failed"},
        Mode.DEGRADED: {"degraded"},
        Mode.ALL: set(histories) - {"failed, then running", "late"},
    }
    for mode, names in expected.items():
        plan = Plan.of(wanted(days, mode), history)
        picked = {name for name, day in zip(histories, plan.days, strict=True) if day.included}
        assert picked == names, mode
        assert all(day.reason for day in plan.days)


@given(
    st.lists(st.sampled_from([None, State.COMPLETED, State.FAILED, State.RUNNING]), min_size=1, max_size=8), st.data()
)
def test_a_digest_stands_for_one_plan(states: list[State | None], data: st.DataObject) -> None:
    """The same world gives the same digest; any day that changes gives another, and is the difference."""
    days = Range(first=FIRST, last=FIRST + timedelta(days=len(states) - 1))
    history = {
        day: [Run(run_id=UUID(int=number), state=state, state_name=state)]
        for number, (day, state) in enumerate(zip(days.days, states, strict=True))
        if state
    }
    plan = Plan.of(wanted(days), history)
    again = Plan.of(wanted(days), dict(history))
    assert plan.digest == again.digest
    assert again.differences(plan.written) == []
    changed = data.draw(st.sampled_from(days.days))
    new = Run(run_id=UUID(int=99), state=State.COMPLETED, state_name="Completed")
    other = Plan.of(wanted(days), history | {changed: [new]})
    assert other.digest != plan.digest
    assert [day for day, _ in other.differences(plan.written)] == [changed.isoformat()]
    for limit in ("max_concurrent", "runs_per_pod"):
        assert Plan.of(replace(wanted(days), **{limit: 5}), history).digest != plan.digest


def test_a_range_has_an_order_and_an_end() -> None:
    """Both ends are in; 3,700 days are the most."""
    assert len(Range(first=FIRST, last=FIRST).days) == 1
    assert len(Range(first=FIRST, last=FIRST + timedelta(days=3699)).days) == 3700
    for last in (FIRST - timedelta(days=1), FIRST + timedelta(days=3700)):
        with pytest.raises(InvalidRequest):
            Range(first=FIRST, last=last)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"from": "2026-03-07"}, "lies after"),
        ({"from": "2010-01-01"}, "3700 days"),
        ({"to": "2999-01-01", "from": "2998-12-31"}, "lies in the future"),
        ({"from": "soon"}, "from 'soon' is not a date"),
        ({"mode": "some"}, "body.mode"),
        ({"max_concurrent": 0}, "body.max_concurrent"),
        ({"runs_per_pod": 0}, "body.runs_per_pod"),
        ({"runs_per_pod": 1001}, "body.runs_per_pod"),
        ({"digest": "x"}, "body.digest"),
        ({"until": "2026-03-01"}, "body.until"),
    ],
)
async def test_a_backfill_that_cannot_be_is_refused(serve: Serve, changes: dict[str, Any], told: str) -> None:
    """422 that names what is wrong."""
    async with serve(PrefectWire()) as client:
        assert told in (await problem(await ask(client, **changes), 422, "invalid-request"))["detail"]


async def test_a_preview_changes_nothing_and_says_why(serve: Serve, db: AsyncEngine) -> None:
    """Each date, in or out, with the run that decides; asked again, the same digest."""
    completed = await past_run(db, FIRST, State.COMPLETED)
    failed = await past_run(db, FIRST + timedelta(days=1), State.FAILED)
    running = await past_run(db, FIRST + timedelta(days=2), State.RUNNING)
    wire = PrefectWire()
    wire.add("COMPLETED", due=datetime(2020, 1, 1, tzinfo=UTC))
    async with serve(wire, poll_seconds=60) as client:
        await client.post("/api/etl/start", json={"logical_date": "2026-02-01"})
        answer = await ask(client)
        assert answer.status_code == 200
        shown = answer.json()
        assert {key: shown[key] for key in ("from", "to", "mode", "max_concurrent", "count")} == {
            "from": "2026-03-01",
            "to": "2026-03-06",
            "mode": "missing",
            "max_concurrent": 4,
            "count": 4,
        }
        assert [one["included"] for one in shown["dates"]] == [False, True, False, True, True, True]
        for one, run_id in zip(shown["dates"], (completed, failed, running), strict=False):
            assert str(run_id) in one["reason"]
        assert shown["dates"][3]["reason"] == "no run of this date"
        assert (await ask(client)).json() == shown
    async with db.begin() as connection:
        assert (await connection.execute(select(func.count()).select_from(runs))).scalar_one() == 4


async def test_it_creates_exactly_what_was_shown_once(serve: Serve, db: AsyncEngine) -> None:
    """One run a date, each told its own; the digest again, also at once, is the same backfill."""
    wire = PrefectWire()
    await past_run(db, FIRST, State.COMPLETED)
    async with serve(wire, poll_seconds=60) as client:
        shown = (await ask(client, max_concurrent=100)).json()
        asked = ASK | {"max_concurrent": 100, "digest": shown["digest"]}
        answers = await asyncio.gather(*(client.post("/api/etl/backfill", json=asked) for _ in range(5)))
        assert {one.status_code for one in answers} == {202}
        assert len({one.json()["backfill_id"] for one in answers}) == 1
        assert answers[0].json()["total"] == 5

        async def handed_over() -> bool:
            return len(wire.flow_runs) == 5

        await eventually(handed_over, within=10, what="all runs are handed over")
        days = [one["parameters"] for one in wire.creations]
        assert days == [{"logical_date": f"2026-03-{number:02d}"} for number in range(2, 7)]
        listed = (await client.get("/api/etl/runs", params={"logical_date": "2026-03-04"})).json()["runs"]
        assert [one["backfill_id"] for one in listed] == [answers[0].json()["backfill_id"]]
        submitted = select(func.count()).where(run_events.c.kind == "submitted")
        async with db.begin() as connection:
            assert (await connection.execute(submitted)).scalar_one() == 5
        assert (await ask(client)).json()["count"] == 0, "what is under way is not missing"


async def test_a_plan_that_changed_is_refused_with_the_difference(serve: Serve, db: AsyncEngine) -> None:
    """409 that names the date, how it was and how it is; nothing is created."""
    async with serve(PrefectWire()) as client:
        shown = (await ask(client)).json()
        completed = await past_run(db, date(2026, 3, 3), State.COMPLETED)
        document = await problem(await ask(client, digest=shown["digest"]), 409, "plan-changed")
        (fault,) = document["faults"]
        assert fault["where"] == "2026-03-03"
        assert fault["what"] == f"was in (no run of this date); now out (the last run {completed} is Completed)"
        more = await ask(client, digest=shown["digest"], max_concurrent=5)
        assert "max_concurrent" in (await problem(more, 409, "plan-changed"))["detail"]
        never = await problem(await ask(client, digest="0" * 64), 409, "plan-changed")
        assert "new preview" in never["detail"]
        assert len((await client.get("/api/etl/runs")).json()["runs"]) == 1


async def test_no_more_go_at_once_than_allowed(db: AsyncEngine) -> None:
    """Whatever the number of replicas, over the whole of the backfill; earliest dates first."""
    wire = PrefectWire()
    await know(db, wire)
    days = Range(first=FIRST, last=FIRST + timedelta(days=11))
    asked = Wanted(pipeline="etl", range=days, mode=Mode.ALL, max_concurrent=3)
    plan = await backfilling.shown(db, asked)
    backfill_id, made = await backfilling.create(
        db,
        asked,
        digest=plan.digest,
        parameters={},
        correlation_id="c",
        traceparent=None,
    )
    assert made == 12
    most, handed = 0, 0
    async with dispatcher(db, wire) as one, dispatcher(db, wire) as two, dispatcher(db, wire) as three:
        while handed < 12:
            await asyncio.gather(*(backfilling.admit(db) for _ in range(3)))

            async def drain(which: Any) -> int:
                count = 0
                while await which.hand_over_one():
                    count += 1
                return count

            handed += sum(await asyncio.gather(drain(one), drain(two), drain(three)))
            going = (runs.c.ended_at.is_(None)) & runs.c.dispatched_at.is_not(None)
            async with db.begin() as connection:
                ids = (await connection.execute(select(runs.c.run_id).where(going))).scalars().all()
                most = max(most, len(ids))
                assert ids, "the backfill goes on"
                first = select(runs.c.run_id).where(going).order_by(runs.c.logical_date).limit(1)
                end = update(runs).where(runs.c.run_id == first.scalar_subquery())
                await connection.execute(end.values(state=State.COMPLETED, ended_at=func.now()))
    assert most == 3
    assert len(set(wire.keys)) == 12
    progress = await backfilling.progress(db, "etl", backfill_id)
    assert progress is not None
    assert (progress.queued, sum(progress.counts.values())) == (0, 12)


async def test_each_run_says_whose_pod_may_execute_it(serve: Serve) -> None:
    """The first runs get pods of their own; later ones are left to those pods, and all are found by the backfill."""
    wire = PrefectWire()
    async with serve(wire, poll_seconds=0.1) as client:
        made = await create(client, max_concurrent=2, runs_per_pod=3)
        assert (made["max_concurrent"], made["runs_per_pod"]) == (2, 3)

        async def finished() -> bool:
            for one in list(wire.flow_runs.values()):
                if one["state"]["type"] == "SCHEDULED" and len(wire.creations) >= 2:
                    wire.move(one["id"], "COMPLETED")
            return len(wire.creations) == 6

        await eventually(finished, within=20, what="all six runs are handed over")
    backfill = {"pipelines.backfill-id": made["backfill_id"], "pipelines.runs-per-pod": 3}
    for number, creation in enumerate(wire.creations):
        left = {"pipelines.left-to-pods-seconds": 5} if number >= 2 else {}
        told = {key: value for key, value in creation["labels"].items() if key in backfill.keys() | left.keys()}
        assert told == backfill | left, number
        assert f"backfill:{made['backfill_id']}" in creation["tags"]


async def test_where_each_run_has_its_pod_no_run_is_left_to_another(serve: Serve) -> None:
    """The plain form: the worker takes each at once."""
    wire = PrefectWire()
    async with serve(wire, poll_seconds=0.1) as client:
        made = await create(client, max_concurrent=100)
        assert made["runs_per_pod"] == 1

        async def handed_over() -> bool:
            return len(wire.creations) == made["total"]

        await eventually(handed_over, within=20, what="all runs are handed over")
    for creation in wire.creations:
        assert not [key for key in creation["labels"] if "pod" in key]


async def test_the_next_run_of_a_backfill_goes_when_one_has_ended(serve: Serve) -> None:
    """At once, not when the dispatcher would have looked again."""
    wire = PrefectWire()
    async with serve(wire, poll_seconds=0.1) as client:
        await create(client, max_concurrent=1)

        async def ended() -> bool:
            for one in list(wire.flow_runs.values()):
                if one["state"]["type"] == "SCHEDULED":
                    wire.move(one["id"], "COMPLETED")
            return len(wire.creations) == 6

        began = time.monotonic()
        await eventually(ended, within=30, what="six runs, one after another")
        assert time.monotonic() - began < 5 * dispatch.IDLE_SECONDS


async def test_a_queue_of_a_backfill_holds_nobody_up(serve: Serve) -> None:
    """A run started while a backfill waits for its turns is handed over at once."""
    wire = PrefectWire()
    async with serve(wire, poll_seconds=60) as client:
        await create(client, max_concurrent=1)
        run_id = (await client.post("/api/etl/start", json={"logical_date": "2026-02-01"})).json()["run_id"]

        async def both() -> bool:
            return run_id in wire.keys and len(wire.keys) == 2

        await eventually(both, within=5, what="the run started by hand is handed over")


async def test_progress_and_going_on_from_the_first_failed_date(serve: Serve) -> None:
    """Counts follow the runs; the first failed date is named; mode failed over the range runs just those."""
    wire = PrefectWire()
    ends = {"2026-03-02": "FAILED", "2026-03-05": "CRASHED"}
    async with serve(wire, poll_seconds=0.1) as client:
        made = await create(client, max_concurrent=2)
        assert (made["status"], made["total"], made["first_failed"]) == ("running", 6, None)

        async def finished() -> Any:
            for one in list(wire.flow_runs.values()):
                if one["state"]["type"] == "SCHEDULED":
                    wire.move(one["id"], ends.get(one["parameters"]["logical_date"], "COMPLETED"))
            told = (await client.get(f"/api/etl/backfill/{made['backfill_id']}")).json()
            return told if told["status"] == "finished" else None

        told = await eventually(finished, within=20, what="the backfill is finished")
        assert told["counts"] == {"Completed": 4, "Failed": 1, "Crashed": 1}
        assert (told["queued"], told["first_failed"]) == (0, "2026-03-02")
        again = (await ask(client, mode="failed")).json()
        assert [one["logical_date"] for one in again["dates"] if one["included"]] == ["2026-03-02", "2026-03-05"]


async def test_pause_holds_back_resume_goes_on(serve: Serve) -> None:
    """A paused backfill hands nothing over, also when a turn is free."""
    wire = PrefectWire()
    async with serve(wire, poll_seconds=0.1) as client:
        made = await create(client, max_concurrent=1)
        where = f"/api/etl/backfill/{made['backfill_id']}"

        async def handed_over(count: int) -> bool:
            return len(wire.flow_runs) == count

        await eventually(lambda: handed_over(1), within=5, what="the first run is handed over")
        for _ in range(2):
            assert (await client.post(f"{where}/pause")).json()["status"] == "paused"
        wire.move(next(iter(wire.flow_runs)), "COMPLETED")

        async def counted() -> Any:
            return (await client.get(where)).json()["counts"].get("Completed") == 1

        await eventually(counted, within=5, what="the first run's end is known")
        await client.post("/api/etl/start", json={"logical_date": "2026-02-01"})  # and the dispatcher is awake
        await eventually(lambda: handed_over(2), within=5, what="the run started by hand is handed over")
        assert (await client.get(where)).json()["queued"] == 5
        assert (await client.post(f"{where}/resume")).json()["status"] == "running"
        await eventually(lambda: handed_over(3), within=5, what="the backfill goes on")


async def test_cancel_ends_what_is_queued_and_what_runs(serve: Serve) -> None:
    """The queue at once, what Prefect has as soon as it hears of it; afterwards nothing can be resumed."""
    wire = PrefectWire()
    async with serve(wire, poll_seconds=0.1) as client:
        made = await create(client, max_concurrent=2)
        where = f"/api/etl/backfill/{made['backfill_id']}"

        async def handed_over() -> bool:
            return len(wire.flow_runs) == 2

        await eventually(handed_over, within=5, what="two runs are handed over")
        running, scheduled = wire.flow_runs
        wire.move(running, "RUNNING")
        for _ in range(2):
            answer = await client.post(f"{where}/cancel")
            assert (answer.status_code, answer.json()["queued"]) == (202, 0)

        async def told() -> bool:
            states = {wire.flow_runs[one]["state"]["type"] for one in (running, scheduled)}
            return states == {"CANCELLING", "CANCELLED"}

        await eventually(told, within=5, what="Prefect has heard of it")
        assert (await client.get(where)).json()["status"] == "cancelling"
        await problem(await client.post(f"{where}/resume"), 409, "backfill-over")
        await problem(await client.post(f"{where}/pause"), 409, "backfill-over")
        wire.move(running, "CANCELLED")

        async def over() -> Any:
            found = (await client.get(where)).json()
            return found if found["status"] == "cancelled" else None

        assert (await eventually(over, within=5, what="the backfill is over"))["counts"] == {"Cancelled": 6}
        assert len(wire.flow_runs) == 2


async def test_a_backfill_is_found_in_its_own_pipeline_only(serve: Serve) -> None:
    """Unknown ids are 404 on every route; so is a plan that was only shown."""
    async with serve(PrefectWire()) as client:
        where = f"/api/etl/backfill/{uuid4()}"
        calls = [("GET", where), *(("POST", f"{where}/{what}") for what in ("pause", "resume", "cancel"))]
        for method, path in calls:
            await problem(await client.request(method, path), 404, "unknown-backfill")
        await problem(await client.post("/api/elt/backfill", json=ASK), 404, "unknown-pipeline")


async def test_a_flow_that_takes_no_date_cannot_be_filled_back(serve: Serve) -> None:
    """Its runs would all be the same."""
    wire = PrefectWire()
    assert wire.deployment is not None
    wire.deployment["parameter_openapi_schema"] = {"type": "object", "properties": {}}
    async with serve(wire) as client:
        document = await problem(await ask(client), 422, "invalid-request")
        assert "takes no logical_date" in document["detail"]


async def test_a_backfill_is_accepted_and_cancelled_while_prefect_is_away(serve: Serve, db: AsyncEngine) -> None:
    """Ten years of days: created in one go, its queue cancelled in another."""
    wire = PrefectWire()
    await know(db, wire)
    wire.fault = refused
    async with serve(wire) as client:
        made = await create(client, **{"from": "2016-01-02", "to": "2026-02-17"})
        assert made["total"] == 3700
        told = (await client.post(f"/api/etl/backfill/{made['backfill_id']}/cancel")).json()
        assert Counter(told["counts"])["Cancelled"] >= 3696

        async def over() -> Any:
            return (await client.get(f"/api/etl/backfill/{made['backfill_id']}")).json()["status"] == "cancelled"

        await eventually(over, within=10, what="the backfill is over")
    assert wire.creations == []
