"""The routes about runs: start one, ask about one, list them."""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from orchestrator import runs
from orchestrator.api import pages, problems
from orchestrator.api.answers import Accepted, Cancelling, RunPage, RunStatus, StartRequest, written
from orchestrator.api.parts import OfPipeline, Parts, WithParts, facts_of
from orchestrator.api.short import ShortRoute, arguments_by
from orchestrator.errors import RunOver, UnknownRun
from orchestrator.ledger import acceptance, cancellation, reading
from orchestrator.ledger.acceptance import Key, Wish
from orchestrator.ledger.reading import Wanted
from orchestrator.runs import State
from orchestrator.settings import Pipeline

router = APIRouter(prefix="/api/{pipeline}", tags=["runs"], route_class=ShortRoute)
log = structlog.get_logger(__name__)

_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
CSV = {"text/csv": {"schema": {"type": "string"}, "example": "timestamp,flow,state,duration_ms,notes\r\n"}}

Repeatable = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key with the same body answers with the same run, however often it is sent",
    ),
]


class Listing(BaseModel):
    """Which part of a list is asked for."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=500, description="How many on a page")
    cursor: str | None = Field(default=None, max_length=200, description="Where the page before said this one starts")
    state: State | None = Field(default=None, description="Only those in this state")
    logical_date: str | None = Field(
        default=None, json_schema_extra={"format": "date"}, description="Only those about this day, YYYY-MM-DD"
    )

    def of(self, pipeline: Pipeline) -> Wanted:
        """The same in the ledger's words. Raises InvalidRequest."""
        day = runs.parse_day(self.logical_date) if self.logical_date is not None else None
        return Wanted(pipeline=pipeline.name, state=self.state, logical_date=day, limit=self.limit)


Listed = Annotated[Listing, Query()]


async def _plain_start(request: Request) -> Mapping[str, Any] | None:
    """The arguments of `start` for a good body that came without a key."""
    parts: Parts = request.app.state.parts
    pipeline = parts.pipelines.get(request.path_params["pipeline"])
    if pipeline is None or "idempotency-key" in request.headers:
        return None
    asked = None
    if body := await request.body():
        if request.headers.get("content-type") != "application/json":
            return None
        try:
            asked = StartRequest.model_validate(json.loads(body))
        except ValueError:  # pydantic's is one too
            return None
    return {"request": request, "pipeline": pipeline, "parts": parts, "body": asked}


@router.post(
    "/start",
    status_code=HTTPStatus.ACCEPTED,
    response_model=Accepted,
    responses=problems.responses(404, 413, 422, 502, 503)
    | {202: {"headers": {"Location": {"description": "The run's status", "schema": {"type": "string"}}}}},
)
@arguments_by(_plain_start)
async def start(
    *,
    request: Request,
    pipeline: OfPipeline,
    parts: WithParts,
    body: StartRequest | None = None,
    idempotency_key: Repeatable = None,
) -> Response:
    """Accept a run: it is committed when this answers, and handed to Prefect as soon as Prefect takes it."""
    asked = body or StartRequest()
    key = Key.of(idempotency_key, asked.model_dump()) if idempotency_key else None
    run_id = await acceptance.known(parts.db, pipeline.name, key) if key else None
    if run_id is None:
        facts = await facts_of(pipeline, parts)
        day = runs.logical_date(asked.logical_date, zone=facts.timezone)
        parameters = runs.parameters(facts, asked.parameters, day)
        with parts.tracing.span("commit", parent=request.state.traceparent, pipeline=pipeline.name):
            wish = Wish(
                pipeline=pipeline.name,
                logical_date=day,
                parameters=parameters,
                correlation_id=request.state.correlation_id,
                traceparent=request.state.traceparent,
                key=key,
            )
            run_id, is_new = await parts.acceptor.accept(wish)
        if is_new:
            parts.metrics.accepted(pipeline.name)
            parts.wake()
            log.info(
                "run accepted",
                run_id=str(run_id),
                pipeline=pipeline.name,
                logical_date=day.isoformat(),
                correlation_id=request.state.correlation_id,
            )
    location = {"Location": f"/api/{pipeline.name}/status/{run_id}"}
    return written(Accepted(run_id=run_id), status=HTTPStatus.ACCEPTED, headers=location)


@router.post("/cancel/{run_id}", status_code=HTTPStatus.ACCEPTED, responses=problems.responses(404, 409, 422, 503))
async def cancel(run_id: UUID, pipeline: OfPipeline, parts: WithParts) -> Cancelling:
    """Cancel a run in whatever state it is: committed when this answers, also while Prefect is away."""
    asked = await cancellation.ask(parts.db, pipeline.name, run_id)
    if asked is None:
        raise unknown(pipeline, run_id)
    if asked.late:
        raise RunOver(f"run {run_id} is {asked.state} already: there is nothing left to cancel")
    if asked.ended is not None:
        parts.seen(asked.ended)
    parts.wake_canceller()
    log.info(
        "cancellation asked",
        run_id=str(run_id),
        pipeline=pipeline.name,
        state=str(asked.state),
        correlation_id=asked.correlation_id,
    )
    return Cancelling(run_id=run_id, state=asked.state)


def unknown(pipeline: Pipeline, run_id: UUID) -> UnknownRun:
    """The answer to a run that the pipeline does not have."""
    return UnknownRun(f"pipeline {pipeline.name} has no run {run_id}; /api/{pipeline.name}/runs lists those it has")


async def _plain_status(request: Request) -> Mapping[str, Any] | None:
    """The arguments of `status` for an id written as we write it."""
    parts: Parts = request.app.state.parts
    pipeline = parts.pipelines.get(request.path_params["pipeline"])
    written_id = request.path_params["run_id"]
    if pipeline is None or not _ID.fullmatch(written_id):
        return None
    return {"run_id": UUID(written_id), "pipeline": pipeline, "parts": parts}


@router.get("/status/{run_id}", response_model=RunStatus, responses=problems.responses(404, 422, 503))
@arguments_by(_plain_status)
async def status(run_id: UUID, pipeline: OfPipeline, parts: WithParts) -> Response:
    """All that is known of one run."""
    row = await parts.reader.run(pipeline.name, run_id)
    if row is None:
        raise unknown(pipeline, run_id)
    return written(RunStatus.of(row, pipeline))


@router.get(
    "/runs",
    response_model=RunPage,
    responses=problems.responses(404, 422, 503) | {200: {"content": CSV}},
)
async def recent(*, request: Request, pipeline: OfPipeline, parts: WithParts, listing: Listed) -> Response:
    """Runs, newest first; with `Accept: text/csv` their submissions and outcomes, as runs.csv has them."""
    if pages.wants_csv(request.headers.get("accept", "")):
        return await reports(request=request, pipeline=pipeline, parts=parts, listing=listing)
    after = pages.moment_place(listing.cursor) if listing.cursor else None
    rows = await reading.recent(parts.db, listing.of(pipeline), after)
    shown = rows[: listing.limit]
    more = len(rows) > len(shown)
    page = RunPage(
        runs=[RunStatus.of(row, pipeline) for row in shown],
        next_cursor=pages.cursor(shown[-1].accepted_at.isoformat(), shown[-1].run_id) if more else None,
    )
    return written(page, headers={"Vary": "Accept"})


@router.get(
    "/runs.csv",
    response_class=PlainTextResponse,
    responses=problems.responses(404, 422, 503)
    | {
        200: {
            "content": CSV,
            "headers": {"Link": {"description": "The next page, as rel=next", "schema": {"type": "string"}}},
        }
    },
)
async def reports(*, request: Request, pipeline: OfPipeline, parts: WithParts, listing: Listed) -> Response:
    """A line at each run's submission and one at its end, latest first: timestamp,flow,state,duration_ms,notes."""
    after = pages.report_place(listing.cursor) if listing.cursor else None
    rows = await reading.reports(parts.db, listing.of(pipeline), after)
    shown = rows[: listing.limit]
    headers = {"Vary": "Accept"}
    if len(rows) > len(shown):
        place = pages.cursor(shown[-1].id)
        headers["Link"] = pages.next_link(request.url.path, request.query_params.multi_items(), place)
    return Response(pages.csv_text(pipeline.flow, shown), media_type="text/csv", headers=headers)
