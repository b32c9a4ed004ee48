"""Runs waiting to be handed to Prefect: who may take one, and what became of it."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Select, Text, and_, any_, bindparam, exists, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.ledger.cancellation import wish
from orchestrator.ledger.connection import transaction
from orchestrator.ledger.events import Seen, append
from orchestrator.ledger.tables import backfills, cancellations, pipelines, runs, waiting
from orchestrator.runs import FlowRun, State

unwanted = exists().where(cancellations.c.run_id == runs.c.run_id)
_known = runs.c.pipeline == any_(bindparam("known", type_=ARRAY(Text)))


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The place of a run in its backfill. `first`: no pod of the backfill can be waiting for it."""

    backfill_id: UUID
    runs_per_pod: int
    first: bool


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A waiting run that nobody else can take until the block of `claim` ends; the outcome commits with it."""

    connection: AsyncConnection
    run_id: UUID
    pipeline: str
    parameters: dict[str, Any]
    correlation_id: str
    traceparent: str | None
    attempts: int
    deployment: str | None
    deployment_id: UUID | None
    turn: Turn | None

    async def handed_over(self, flow_run: FlowRun) -> None:
        """Prefect has it. Its states from here on are the sync's to record."""
        await self.connection.execute(
            update(runs)
            .where(runs.c.run_id == self.run_id)
            .values(
                flow_run_id=flow_run.flow_run_id,
                dispatched_at=func.clock_timestamp(),
                dispatch_attempts=self.attempts + 1,
                next_attempt_at=None,
                last_error=None,
            )
        )

    async def postponed(self, error: str, *, wait: float, steps_aside: bool) -> None:
        """Not now; again in `wait` seconds. `steps_aside`: the trouble is this run's own, so younger ones go on."""
        await self.connection.execute(
            update(runs)
            .where(runs.c.run_id == self.run_id)
            .values(
                dispatch_attempts=self.attempts + 1,
                next_attempt_at=func.clock_timestamp() + timedelta(seconds=wait),
                last_error=error,
                steps_aside=steps_aside,
            )
        )

    async def refused(self, reason: str) -> Seen:
        """Never: the run ends as Failed, and says why."""
        ended = {"state": State.FAILED, "state_name": State.FAILED, "message": reason}
        row = (
            await self.connection.execute(
                update(runs)
                .where(runs.c.run_id == self.run_id)
                .values(
                    **ended,
                    ended_at=func.clock_timestamp(),
                    dispatch_attempts=self.attempts + 1,
                    next_attempt_at=None,
                    last_error=reason,
                )
                .returning(runs.c.accepted_at, runs.c.ended_at)
            )
        ).one()
        event = {"run_id": self.run_id, "pipeline": self.pipeline, "kind": "ended", "at": row.ended_at}
        await append(self.connection, [event | ended | {"duration_ms": 0}])
        return Seen(
            run_id=self.run_id,
            pipeline=self.pipeline,
            correlation_id=self.correlation_id,
            before=State.SCHEDULED,
            state=State.FAILED,
            state_name=State.FAILED,
            message=reason,
            accepted_at=row.accepted_at,
            started_at=None,
            ended_at=row.ended_at,
            first_start=False,
            traceparent=self.traceparent,
        )


def _oldest_due() -> Select[Any]:
    """The oldest run of the `known` pipelines that is due and that nobody holds."""
    now = func.clock_timestamp()
    # of each pipeline, the oldest run that holds up the younger ones
    holding = (
        select(runs.c.pipeline, runs.c.accepted_at, runs.c.run_id)
        .ext(distinct_on(runs.c.pipeline))
        .where(waiting, runs.c.steps_aside.is_(False), runs.c.next_attempt_at > now)
        .order_by(runs.c.pipeline, runs.c.accepted_at, runs.c.run_id)
        .cte("holding")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    earlier = runs.alias("earlier")
    had_turns = (
        select(func.count())
        .where(earlier.c.backfill_id == runs.c.backfill_id, earlier.c.dispatched_at.is_not(None))
        .scalar_subquery()
    )
    in_front = tuple_(runs.c.accepted_at, runs.c.run_id) < tuple_(holding.c.accepted_at, holding.c.run_id)
    return (
        select(
            runs.c.run_id,
            runs.c.pipeline,
            runs.c.parameters,
            runs.c.correlation_id,
            runs.c.traceparent,
            runs.c.dispatch_attempts,
            pipelines.c.deployment,
            pipelines.c.deployment_id,
            runs.c.backfill_id,
            backfills.c.runs_per_pod,
            (had_turns < backfills.c.max_concurrent).label("first"),
        )
        .select_from(
            runs.outerjoin(pipelines, pipelines.c.pipeline == runs.c.pipeline)
            .outerjoin(holding, holding.c.pipeline == runs.c.pipeline)
            .outerjoin(backfills, backfills.c.id == runs.c.backfill_id)
        )
        .where(
            waiting,
            ~unwanted,
            _known,
            runs.c.next_attempt_at <= now,
            or_(holding.c.run_id.is_(None), in_front),
        )
        .order_by(runs.c.accepted_at, runs.c.run_id)
        .limit(1)
        .with_for_update(of=runs, skip_locked=True, key_share=True)  # events and wishes may refer to it meanwhile
    )


_OLDEST_DUE = _oldest_due()
_NEXT_DUE = select(func.min(runs.c.next_attempt_at)).where(waiting, ~unwanted, _known)


@asynccontextmanager
async def claim(db: AsyncEngine, known: Collection[str]) -> AsyncIterator[Claim | None]:
    """The oldest run of the `known` pipelines that is due, locked for as long as the block lasts; None when none is.

    A run that waits for its next attempt holds up the younger ones of its pipeline, so that a backlog drains in the
    order of acceptance, unless it has stepped aside.
    """
    async with transaction(db) as connection:
        row = (await connection.execute(_OLDEST_DUE, {"known": list(known)})).one_or_none()
        yield row and Claim(
            connection=connection,
            run_id=row.run_id,
            pipeline=row.pipeline,
            parameters=row.parameters,
            correlation_id=row.correlation_id,
            traceparent=row.traceparent,
            attempts=row.dispatch_attempts,
            deployment=row.deployment,
            deployment_id=row.deployment_id,
            turn=_turn(row),
        )


def _turn(row: Any) -> Turn | None:
    if row.backfill_id is None:
        return None
    return Turn(backfill_id=row.backfill_id, runs_per_pod=row.runs_per_pod, first=row.first)


async def next_due(db: AsyncEngine, known: Collection[str]) -> datetime | None:
    """When the next waiting run of the `known` pipelines may be tried; None when none waits."""
    async with transaction(db) as connection:
        due: datetime | None = (await connection.execute(_NEXT_DUE, {"known": list(known)})).scalar_one()
    return due


async def hurry(db: AsyncEngine) -> None:
    """Let the runs that wait for Prefect to come back be tried now: it has."""
    async with transaction(db) as connection:
        await connection.execute(
            update(runs)
            .where(waiting, runs.c.steps_aside.is_(False), runs.c.next_attempt_at > func.clock_timestamp())
            .values(next_attempt_at=func.clock_timestamp())
        )


async def link(connection: AsyncConnection, run_id: UUID, flow_run_id: UUID) -> bool:
    """Note that Prefect has the run although nobody could write that down; False while a dispatcher holds the run.

    A run that was cancelled here meanwhile stays so, and Prefect is told.
    """
    free = select(runs.c.run_id).where(runs.c.run_id == run_id).with_for_update(skip_locked=True)
    linked = await connection.execute(
        update(runs)
        .where(
            runs.c.run_id == free.scalar_subquery(),
            or_(waiting, and_(runs.c.state == State.CANCELLED, runs.c.dispatched_at.is_(None))),
            runs.c.flow_run_id.is_(None),
        )
        .values(flow_run_id=flow_run_id, dispatched_at=func.clock_timestamp(), next_attempt_at=None, last_error=None)
        .returning(runs.c.ended_at)
    )
    row = linked.one_or_none()
    if row is not None and row.ended_at is not None:
        await wish(connection, [run_id], again=True)
    return row is not None
