"""Writing down what Prefect says: pipelines' facts, states of known runs, and runs that others made."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import and_, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.ledger.connection import transaction
from orchestrator.ledger.events import Event, Seen, append, submission
from orchestrator.ledger.handover import link, unwanted
from orchestrator.ledger.tables import pipelines, runs, unfinished
from orchestrator.runs import Facts, FlowRun, State, day_of

CRASHED_FOR = timedelta(hours=6)  # how long a crashed run is still watched for a change of Prefect's mind
NONE_AGAIN: Mapping[str, int] = MappingProxyType({})
PROCESS_ENDED = frozenset({State.RUNNING, State.PAUSED, State.CRASHED})


async def note_pipeline(db: AsyncEngine, pipeline: str, facts: Facts, next_starts: Sequence[datetime]) -> None:
    """Remember what Prefect just told of a pipeline's deployment."""
    values: dict[str, Any] = {
        "deployment": facts.deployment,
        "deployment_id": facts.deployment_id,
        "parameter_schema": dict(facts.parameter_schema),
        "defaults": dict(facts.defaults),
        "schedules": [asdict(one) for one in facts.schedules],
        "next_starts": [one.astimezone(UTC).isoformat() for one in next_starts],
        "paused": facts.paused,
        "seen_at": func.now(),
        "missing_since": None,
    }
    statement = upsert(pipelines).values(pipeline=pipeline, **values)
    async with transaction(db) as connection:
        await connection.execute(statement.on_conflict_do_update(index_elements=["pipeline"], set_=values))


async def note_sources(db: AsyncEngine, breaker: str | None) -> None:
    """Remember the state of the circuit between the flows and their source: one for all pipelines, as the source is."""
    changed = pipelines.c.source_breaker.is_distinct_from(breaker)
    async with transaction(db) as connection:
        await connection.execute(update(pipelines).where(changed).values(source_breaker=breaker))


async def note_missing(db: AsyncEngine, pipeline: str) -> None:
    """Remember that Prefect has no deployment for a pipeline that once had one."""
    async with transaction(db) as connection:
        await connection.execute(
            update(pipelines)
            .where(pipelines.c.pipeline == pipeline, pipelines.c.missing_since.is_(None))
            .values(missing_since=func.now())
        )


async def to_follow(db: AsyncEngine) -> list[UUID]:
    """The flow runs whose state may still change: those not over, and those that crashed a short while ago."""
    query = select(runs.c.flow_run_id).where(
        runs.c.flow_run_id.is_not(None),
        or_(
            unfinished,
            and_(runs.c.state == State.CRASHED, runs.c.ended_at > func.now() - CRASHED_FOR),
        ),
    )
    async with transaction(db) as connection:
        return list((await connection.execute(query)).scalars())


async def any_unfinished(db: AsyncEngine) -> bool:
    """Whether some run is not over."""
    async with transaction(db) as connection:
        return bool((await connection.execute(select(exists().where(unfinished)))).scalar_one())


async def record(
    db: AsyncEngine,
    told: Sequence[FlowRun],
    pipelines_of: Mapping[UUID, tuple[str, Facts]],
    *,
    max_attempts: Mapping[str, int] = NONE_AGAIN,
) -> list[Seen]:
    """Write down what Prefect says of these flow runs and return what was new.

    A run made through this service is found by its idempotency key where its row does not yet name the flow run; any
    other flow run of a deployment in `pipelines_of` is adopted under its own id. Repeating a call changes nothing.

    A run that crashed is not over while its pipeline allows another attempt: it takes the next attempt's number, is
    due to be rerun, and stays in the state it was in.
    """
    events: dict[UUID, list[Event]] = {one.flow_run_id: [] for one in told}
    async with transaction(db) as connection:
        rows = await _rows(connection, told)
        seen = []
        for flow_run in sorted(told, key=lambda one: one.flow_run_id):  # whoever locks rows locks them in one order
            noted = events[flow_run.flow_run_id]
            row = rows.get(flow_run.flow_run_id)
            if row is None:
                row = await _made_here(connection, flow_run)
            if row is not None:
                goes_on = await _goes_on(connection, row, flow_run, max_attempts)
                change = await _change(connection, row, flow_run, noted) if row.flow_run_id and not goes_on else None
            elif flow_run.deployment_id is not None and flow_run.deployment_id in pipelines_of:
                change = await _adopt(connection, flow_run, *pipelines_of[flow_run.deployment_id], noted)
            else:
                change = None
            if change is not None:
                seen.append(change)
        await append(connection, [event for of_one in events.values() for event in of_one])
    return seen


async def lose(db: AsyncEngine, flow_run_id: UUID) -> Seen | None:
    """End a run that Prefect no longer has. Crashed, not Failed: should Prefect find it again, its word counts."""
    async with transaction(db) as connection:
        query = select(runs).where(runs.c.flow_run_id == flow_run_id, runs.c.ended_at.is_(None))
        row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        now = datetime.now(UTC)
        gone = FlowRun(
            flow_run_id=flow_run_id,
            deployment_id=None,
            idempotency_key=None,
            origin="prefect",
            state=State.CRASHED,
            state_name="NotFound",
            message=f"Prefect no longer has flow run {flow_run_id}: it was deleted there; start the day again",
            at=now,
            expected_at=row.accepted_at,
            started_at=row.started_at,
            ended_at=now,
        )
        noted: list[Event] = []
        change = await _change(connection, row, gone, noted)
        await append(connection, noted)
        return change


async def _rows(connection: AsyncConnection, told: Sequence[FlowRun]) -> dict[UUID, Any]:
    query = select(runs, unwanted.label("unwanted"))
    found = await connection.execute(query.where(runs.c.flow_run_id.in_([one.flow_run_id for one in told])))
    return {row.flow_run_id: row for row in found}


async def _made_here(connection: AsyncConnection, flow_run: FlowRun) -> Any:
    """Our own row for a flow run it does not name yet: the hand-over was not written down, or is being so now."""
    try:
        run_id = UUID(flow_run.idempotency_key or "")
    except ValueError:
        return None
    ours = select(runs, unwanted.label("unwanted")).where(runs.c.run_id == run_id, runs.c.origin == "api")
    row = (await connection.execute(ours)).one_or_none()
    if row is not None and row.flow_run_id is None and await link(connection, run_id, flow_run.flow_run_id):
        row = (await connection.execute(ours)).one()
    return row


async def _goes_on(connection: AsyncConnection, row: Any, told: FlowRun, max_attempts: Mapping[str, int]) -> bool:
    """Whether a crash is not the run's end; the next attempt's number is taken here, once for each crash."""
    if told.state is not State.CRASHED or row.ended_at is not None or row.unwanted or row.given_up is not None:
        return False
    if row.crashed_at == told.at:
        return True
    if row.attempt >= max_attempts.get(row.pipeline, 1):
        return False
    await connection.execute(
        update(runs)
        .where(runs.c.run_id == row.run_id, runs.c.attempt == row.attempt, unfinished)
        .values(attempt=row.attempt + 1, crashed_at=told.at, crash=told.message, rerun_due=True)
    )
    return True


async def _change(connection: AsyncConnection, row: Any, told: FlowRun, events: list[Event]) -> Seen | None:
    before = State(row.state)
    is_new = (row.state, row.state_name, row.message) != (told.state, told.state_name, told.message)
    started_at = told.started_at or row.started_at
    waits_anew = told.state is State.SCHEDULED and (before in PROCESS_ENDED or started_at != row.started_at)
    traceparent = row.traceparent or told.traceparent
    is_placed = told.pod_of is not None and told.pod_of != row.pod_of
    if not before.may_become(told.state) or not (is_new or is_placed or started_at != row.started_at):
        return None
    changed = await connection.execute(
        update(runs)
        .where(runs.c.run_id == row.run_id, runs.c.state == row.state, runs.c.state_name == row.state_name)
        .values(
            state=told.state,
            state_name=told.state_name,
            message=told.message,
            started_at=started_at,
            ended_at=told.ended_at,
            rerun_due=False,
            waits_since=told.at if waits_anew else row.waits_since,
            traceparent=traceparent,
            pod_of=told.pod_of or row.pod_of,
        )
    )
    if changed.rowcount == 0:  # another replica was quicker; the next look compares with what it wrote
        return None
    if is_new:
        events.append(_event(row.run_id, row.pipeline, told))
    return Seen(
        run_id=row.run_id,
        pipeline=row.pipeline,
        correlation_id=row.correlation_id,
        before=before,
        state=told.state,
        state_name=told.state_name,
        message=told.message,
        accepted_at=row.accepted_at,
        started_at=started_at,
        ended_at=told.ended_at,
        first_start=row.started_at is None and started_at is not None,
        traceparent=traceparent,
    )


async def _adopt(
    connection: AsyncConnection, told: FlowRun, pipeline: str, facts: Facts, events: list[Event]
) -> Seen | None:
    new = await connection.execute(
        upsert(runs)
        .values(
            run_id=told.flow_run_id,
            pipeline=pipeline,
            flow_run_id=told.flow_run_id,
            logical_date=day_of(told, facts),
            state=told.state,
            state_name=told.state_name,
            message=told.message,
            parameters=dict(told.parameters),
            origin=told.origin,
            correlation_id=told.correlation_id,
            traceparent=told.traceparent,
            accepted_at=told.expected_at,
            dispatched_at=told.expected_at,
            waits_since=func.clock_timestamp(),  # while nobody here knew of it, nobody could say what it waited for
            started_at=told.started_at,
            ended_at=told.ended_at,
        )
        .on_conflict_do_nothing()
    )
    if new.rowcount == 0:
        return None
    events.append(submission(told.flow_run_id, pipeline, told.expected_at))
    if told.state is not State.SCHEDULED:
        events.append(_event(told.flow_run_id, pipeline, told))
    return Seen(
        run_id=told.flow_run_id,
        pipeline=pipeline,
        correlation_id=told.correlation_id,
        before=None,
        state=told.state,
        state_name=told.state_name,
        message=told.message,
        accepted_at=told.expected_at,
        started_at=told.started_at,
        ended_at=told.ended_at,
        first_start=told.started_at is not None,
        traceparent=told.traceparent,
    )


def _event(run_id: UUID, pipeline: str, told: FlowRun) -> Event:
    return {
        "run_id": run_id,
        "pipeline": pipeline,
        "kind": "ended" if told.state.ended else "changed",
        "at": told.ended_at or told.at,
        "state": told.state,
        "state_name": told.state_name,
        "message": told.message,
        "duration_ms": told.duration_ms,
    }
