"""Backfills in the ledger: plans that were shown, the runs made of them, and how many of those may go at once.

A run of a backfill is held back by having no next attempt; it is let go when the backfill has room for it.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Row, and_, delete, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.backfills import FAILED, Plan, Run, Wanted
from orchestrator.errors import BackfillOver, PlanChanged
from orchestrator.ledger.cancellation import announce, end_waiting, wish
from orchestrator.ledger.connection import transaction
from orchestrator.ledger.events import Seen
from orchestrator.ledger.tables import backfills, held, run_events, runs, unfinished, waiting
from orchestrator.runs import State

REMEMBERED = timedelta(days=1)  # how long a plan that was shown and not carried out can be compared with


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A backfill and where its runs are. `first_failed` is the earliest day whose run Failed or Crashed."""

    row: Row[Any]
    counts: dict[State, int]
    queued: int
    first_failed: date | None


async def shown(db: AsyncEngine, wanted: Wanted) -> Plan:
    """What a backfill would do now; it is remembered, so that a later change can be told."""
    async with transaction(db) as connection:
        plan = await _plan(connection, wanted)
        old = backfills.c.created_at.is_(None) & (backfills.c.shown_at < func.now() - REMEMBERED)
        await connection.execute(delete(backfills).where(old))
        new = upsert(backfills).values(**_row(plan))
        again = new.on_conflict_do_update(index_elements=["pipeline", "digest"], set_={"shown_at": func.now()})
        await connection.execute(again)
    return plan


async def create(
    db: AsyncEngine,
    wanted: Wanted,
    *,
    digest: str,
    parameters: Mapping[str, Any],
    correlation_id: str,
    traceparent: str | None,
) -> tuple[UUID, int]:
    """Commit the backfill that `digest` stands for, a run for each day; its id and how many runs are new.

    The same digest again gives the same backfill and no new run. `parameters` are every run's, but for the date.
    Raises PlanChanged when the plan is another now.
    """
    pipeline = wanted.pipeline
    async with transaction(db) as connection:
        # one at a time for a pipeline: two at once would both find the same days free
        await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"backfill {pipeline}", 0))))
        query = select(backfills).where(backfills.c.pipeline == pipeline, backfills.c.digest == digest)
        before = (await connection.execute(query)).one_or_none()
        if before is not None and before.created_at is not None:
            return before.id, 0
        plan = await _plan(connection, wanted)
        if plan.digest != digest:
            raise _changed(plan, before)
        new = upsert(backfills).values(**_row(plan), created_at=func.now())
        made = new.on_conflict_do_update(index_elements=["pipeline", "digest"], set_={"created_at": func.now()})
        backfill_id: UUID = (await connection.execute(made.returning(backfills.c.id))).scalar_one()
        if plan.included:
            caller = {"correlation_id": correlation_id, "traceparent": traceparent}
            await _make_runs(connection, backfill_id, plan, parameters, caller)
    return backfill_id, len(plan.included)


def _changed(plan: Plan, before: Row[Any] | None) -> PlanChanged:
    if before is None:
        return PlanChanged("no plan with this digest is remembered for this pipeline; ask for a new preview", ())
    differences = plan.differences(before.plan)
    for name in ("runs_per_pod", "max_concurrent", "mode"):
        was, now = getattr(before, name), getattr(plan, name)
        if was != now:
            differences.insert(0, (name, f"was {was}; now {now}"))
    what = ", ".join(name for name, _ in differences[:5]) + (", …" if len(differences) > 5 else "")
    return PlanChanged(f"the plan is not what was shown any more ({what}); ask for a new preview", differences)


async def _plan(connection: AsyncConnection, wanted: Wanted) -> Plan:
    days = wanted.range
    query = (
        select(runs.c.logical_date, runs.c.run_id, runs.c.state, runs.c.state_name)
        .where(runs.c.pipeline == wanted.pipeline, runs.c.logical_date.between(days.first, days.last))
        .order_by(runs.c.logical_date, runs.c.accepted_at, runs.c.run_id)
    )
    history: dict[date, list[Run]] = defaultdict(list)
    for row in await connection.execute(query):
        run = Run(run_id=row.run_id, state=State(row.state), state_name=row.state_name)
        history[row.logical_date].append(run)
    return Plan.of(wanted, history)


def _row(plan: Plan) -> dict[str, Any]:
    return {
        "id": uuid4(),
        "pipeline": plan.pipeline,
        "digest": plan.digest,
        "first_date": plan.range.first,
        "last_date": plan.range.last,
        "mode": plan.mode,
        "max_concurrent": plan.max_concurrent,
        "runs_per_pod": plan.runs_per_pod,
        "plan": plan.written,
        "shown_at": func.now(),
    }


async def _make_runs(
    connection: AsyncConnection,
    backfill_id: UUID,
    plan: Plan,
    parameters: Mapping[str, Any],
    caller: Mapping[str, str | None],
) -> None:
    now = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    made = [
        {
            "run_id": uuid4(),
            "pipeline": plan.pipeline,
            "logical_date": day,
            "state": State.SCHEDULED,
            "state_name": State.SCHEDULED,
            "parameters": {**parameters, "logical_date": day.isoformat()},
            "origin": "api",
            **caller,
            "accepted_at": now + timedelta(microseconds=number),  # the order they are handed over in
            "backfill_id": backfill_id,
        }
        for number, day in enumerate(plan.included)
    ]
    await connection.execute(insert(runs), made)
    told = select(
        runs.c.run_id,
        runs.c.pipeline,
        literal("submitted").label("kind"),
        runs.c.accepted_at,
        runs.c.state,
        runs.c.state_name,
    ).where(runs.c.backfill_id == backfill_id)
    columns = ["run_id", "pipeline", "kind", "at", "state", "state_name"]
    await connection.execute(insert(run_events).from_select(columns, told.order_by(runs.c.accepted_at)))


async def admit(db: AsyncEngine) -> int:
    """Let runs of backfills go, earliest day first, as far as each one's limit allows; how many."""
    query = (
        select(backfills.c.id, backfills.c.max_concurrent)
        .where(
            backfills.c.paused_at.is_(None),
            backfills.c.cancelled_at.is_(None),
            backfills.c.id.in_(select(runs.c.backfill_id).where(held)),
        )
        .with_for_update(skip_locked=True, key_share=True)
    )
    admitted = 0
    async with transaction(db) as connection:
        for one in (await connection.execute(query)).all():
            # counted after the lock is had: what another replica let go before is seen here
            going = select(func.count()).where(runs.c.backfill_id == one.id, unfinished, ~held)
            room = one.max_concurrent - (await connection.execute(going)).scalar_one()
            if room > 0:
                earliest = select(runs.c.run_id).where(runs.c.backfill_id == one.id, held)
                chosen = earliest.order_by(runs.c.logical_date).limit(room)
                let_go = update(runs).where(runs.c.run_id.in_(chosen), held)
                admitted += (await connection.execute(let_go.values(next_attempt_at=func.clock_timestamp()))).rowcount
    return admitted


async def progress(db: AsyncEngine, pipeline: str, backfill_id: UUID) -> Progress | None:
    """Where a backfill is; None for one that was never created in that pipeline."""
    async with transaction(db) as connection:
        row = await _created(connection, pipeline, backfill_id)
        if row is None:
            return None
        of_it = runs.c.backfill_id == backfill_id
        by_state = select(runs.c.state, func.count()).where(of_it).group_by(runs.c.state)
        counts = {State(state): count for state, count in await connection.execute(by_state)}
        queued = (await connection.execute(select(func.count()).where(of_it, held))).scalar_one()
        failed = select(func.min(runs.c.logical_date)).where(of_it, runs.c.state.in_(FAILED))
        first_failed = (await connection.execute(failed)).scalar_one()
    return Progress(row=row, counts=counts, queued=queued, first_failed=first_failed)


async def pause(db: AsyncEngine, pipeline: str, backfill_id: UUID) -> bool:
    """Hold back what is not handed over yet; False for an unknown backfill. Raises BackfillOver for a cancelled one."""
    async with transaction(db) as connection:
        if not await _marked(connection, pipeline, backfill_id, paused_at=func.now()):
            return False
        let_go = select(runs.c.run_id).where(runs.c.backfill_id == backfill_id, waiting, ~held)
        free = let_go.with_for_update(skip_locked=True, key_share=True)
        ids = (await connection.execute(free)).scalars().all()
        await connection.execute(update(runs).where(runs.c.run_id.in_(ids)).values(next_attempt_at=None))
    return True


async def resume(db: AsyncEngine, pipeline: str, backfill_id: UUID) -> bool:
    """Let it go on; False for an unknown backfill. Raises BackfillOver for a cancelled one."""
    async with transaction(db) as connection:
        return await _marked(connection, pipeline, backfill_id, paused_at=None)


async def cancel(db: AsyncEngine, pipeline: str, backfill_id: UUID) -> list[Seen] | None:
    """End what is queued, wish the end of what runs; the runs that ended here, None for an unknown backfill."""
    async with transaction(db) as connection:
        if await _created(connection, pipeline, backfill_id) is None:
            return None
        mark = update(backfills).where(backfills.c.id == backfill_id)
        await connection.execute(mark.values(cancelled_at=func.coalesce(backfills.c.cancelled_at, func.now())))
        query = select(runs.c.run_id).where(runs.c.backfill_id == backfill_id, unfinished).order_by(runs.c.run_id)
        going = (await connection.execute(query)).scalars().all()
        seen = await end_waiting(connection, going)
        await wish(connection, sorted(set(going) - {one.run_id for one in seen}))
        await announce(connection, seen)
    return seen


async def _created(connection: AsyncConnection, pipeline: str, backfill_id: UUID) -> Row[Any] | None:
    of_it = and_(backfills.c.id == backfill_id, backfills.c.pipeline == pipeline, backfills.c.created_at.is_not(None))
    return (await connection.execute(select(backfills).where(of_it))).one_or_none()


async def _marked(connection: AsyncConnection, pipeline: str, backfill_id: UUID, **values: Any) -> bool:
    if await _created(connection, pipeline, backfill_id) is None:
        return False
    going = and_(backfills.c.id == backfill_id, backfills.c.cancelled_at.is_(None))
    if (await connection.execute(update(backfills).where(going).values(**values))).rowcount == 0:
        raise BackfillOver(f"backfill {backfill_id} is cancelled; make a new one for what is left")
    return True
