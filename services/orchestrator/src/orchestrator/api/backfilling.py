"""The routes about backfills: preview, create, follow, pause, resume, cancel."""

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from uuid import UUID

import structlog
from fastapi import APIRouter, Request, Response

from orchestrator import runs
from orchestrator.api import problems
from orchestrator.api.parts import OfPipeline, Parts, WithParts, facts_of
from orchestrator.api.plans import BackfillPreview, BackfillProgress, BackfillRequest
from orchestrator.backfills import Range, Wanted
from orchestrator.errors import InvalidRequest, UnknownBackfill
from orchestrator.ledger import backfilling
from orchestrator.runs import Facts
from orchestrator.settings import Pipeline

router = APIRouter(prefix="/api/{pipeline}/backfill", tags=["backfills"])
log = structlog.get_logger(__name__)

FOLLOWED = problems.responses(404, 422, 503)
CHANGED = problems.responses(404, 409, 422, 503)
CREATED: dict[int | str, dict[str, Any]] = {
    202: {
        "model": BackfillProgress,
        "description": "The backfill that the digest stands for",
        "headers": {"Location": {"description": "Its progress", "schema": {"type": "string"}}},
    }
}


@router.post(
    "",
    response_model=BackfillPreview | BackfillProgress,
    responses=problems.responses(404, 409, 413, 422, 502, 503)
    | {200: {"model": BackfillPreview, "description": "What a backfill would do now"}}
    | CREATED,
)
async def backfill(
    *, request: Request, response: Response, body: BackfillRequest, pipeline: OfPipeline, parts: WithParts
) -> BackfillPreview | BackfillProgress:
    """Without `digest`, show each date and why it is in or out; with the digest shown, create exactly that."""
    facts = await facts_of(pipeline, parts)
    days = _range(body, facts)
    wanted = Wanted(
        pipeline=pipeline.name,
        range=days,
        mode=body.mode,
        max_concurrent=body.max_concurrent,
        runs_per_pod=body.runs_per_pod,
    )
    if body.digest is None:
        return BackfillPreview.of(await backfilling.shown(parts.db, wanted))
    backfill_id, made = await backfilling.create(
        parts.db,
        wanted,
        digest=body.digest,
        parameters=runs.parameters(facts, {}, days.first),
        correlation_id=request.state.correlation_id,
        traceparent=request.state.traceparent,
    )
    for _ in range(made):
        parts.metrics.accepted(pipeline.name)
    parts.wake()
    log.info(
        "backfill created",
        backfill_id=str(backfill_id),
        pipeline=pipeline.name,
        runs=made,
        correlation_id=request.state.correlation_id,
    )
    response.status_code = HTTPStatus.ACCEPTED
    response.headers["Location"] = f"/api/{pipeline.name}/backfill/{backfill_id}"
    return await _progress(pipeline, parts, backfill_id)


@router.get("/{backfill_id}", responses=FOLLOWED)
async def progress(backfill_id: UUID, pipeline: OfPipeline, parts: WithParts) -> BackfillProgress:
    """How many of its runs are in which state, and the first date that failed."""
    return await _progress(pipeline, parts, backfill_id)


@router.post("/{backfill_id}/pause", responses=CHANGED)
async def pause(backfill_id: UUID, pipeline: OfPipeline, parts: WithParts) -> BackfillProgress:
    """Hand over no more of its runs until it is resumed; what runs goes on."""
    if not await backfilling.pause(parts.db, pipeline.name, backfill_id):
        raise _unknown(pipeline, backfill_id)
    return await _progress(pipeline, parts, backfill_id)


@router.post("/{backfill_id}/resume", responses=CHANGED)
async def resume(backfill_id: UUID, pipeline: OfPipeline, parts: WithParts) -> BackfillProgress:
    """Go on with a paused backfill."""
    if not await backfilling.resume(parts.db, pipeline.name, backfill_id):
        raise _unknown(pipeline, backfill_id)
    parts.wake()
    return await _progress(pipeline, parts, backfill_id)


@router.post("/{backfill_id}/cancel", status_code=HTTPStatus.ACCEPTED, responses=FOLLOWED)
async def cancel(backfill_id: UUID, request: Request, pipeline: OfPipeline, parts: WithParts) -> BackfillProgress:
    """Cancel what is queued at once and what runs as soon as Prefect hears of it."""
    ended = await backfilling.cancel(parts.db, pipeline.name, backfill_id)
    if ended is None:
        raise _unknown(pipeline, backfill_id)
    for one in ended:
        parts.seen(one)
    parts.wake_canceller()
    log.info(
        "backfill cancelled",
        backfill_id=str(backfill_id),
        pipeline=pipeline.name,
        ended=len(ended),
        correlation_id=request.state.correlation_id,
    )
    return await _progress(pipeline, parts, backfill_id)


def _range(body: BackfillRequest, facts: Facts) -> Range:
    days = Range(first=runs.parse_day(body.from_, name="from"), last=runs.parse_day(body.to, name="to"))
    today = datetime.now(UTC).astimezone(facts.timezone).date()
    if days.last > today:
        raise InvalidRequest(f"to {days.last} lies in the future; the latest is today, {today}")
    if not facts.dated:
        raise InvalidRequest(
            f"{facts.flow} takes no logical_date: its runs cannot be told which day they are about, so there is "
            "nothing to fill back"
        )
    return days


async def _progress(pipeline: Pipeline, parts: Parts, backfill_id: UUID) -> BackfillProgress:
    found = await backfilling.progress(parts.db, pipeline.name, backfill_id)
    if found is None:
        raise _unknown(pipeline, backfill_id)
    return BackfillProgress.of(found)


def _unknown(pipeline: Pipeline, backfill_id: UUID) -> UnknownBackfill:
    return UnknownBackfill(f"pipeline {pipeline.name} has no backfill {backfill_id}; creating one answers with its id")
