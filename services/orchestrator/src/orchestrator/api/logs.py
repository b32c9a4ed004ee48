"""The route that shows a run's log: in pages, or followed as server-sent events until the run is over."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row

from orchestrator.api import lines, problems
from orchestrator.api.entrance import counted
from orchestrator.api.events import HEARTBEAT_SECONDS, RETRY_MS, EventStream
from orchestrator.api.lines import LogLine, LogPage, StateTold
from orchestrator.api.parts import OfPipeline, Parts, WithCaller, WithParts
from orchestrator.errors import (
    EngineConfused,
    EngineRefused,
    EngineUnavailable,
    InvalidRequest,
    LedgerUnavailable,
    UnknownRun,
)
from orchestrator.logs import Followed, Level, Line, Place
from orchestrator.prefect_api import logs
from orchestrator.runs import State
from orchestrator.settings import Pipeline

MOST_LINES = 200
LOOK_SECONDS = 0.5  # between two looks while lines come; longer, up to the next, while none do
QUIET_SECONDS = 3.0
# A run's process sends its last lines after its end is known, and the very last says so.
SETTLE_SECONDS = 5.0
LAST_LINE = "Finished in state "
ABOUT_THE_END = timedelta(seconds=10)
LONG_OVER = timedelta(seconds=60)

EVENTS = "text/event-stream"
PLACE = "^[A-Za-z0-9_-]{1,200}$"
EVENT: dict[str, Any] = {
    "type": "object",
    "description": "One event: its data is JSON. `line`: a line, with its place as id. `state`: the run's state, at "
    "first and when it changes. `end`: why the stream is over, and whether the run is.",
    "properties": {
        "id": {"type": "string", "pattern": PLACE},
        "event": {"enum": ["line", "state", "end"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
EXAMPLE = (
    'event: state\ndata: {"state": "Running", "state_name": "Running", "message": null}\n\n'
    f"id: WyIyMDI2LTAzLTAyIl0\nevent: line\ndata: {json.dumps(lines.LINE)}\n\n"
)
STREAM = {EVENTS: {"schema": EVENT, "example": EXAMPLE}}

router = APIRouter(prefix="/api/{pipeline}", tags=["runs"])


class LogListing(BaseModel):
    """Which part of a log is asked for."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=MOST_LINES, ge=1, le=MOST_LINES, description="How many lines on a page")
    cursor: Annotated[str, Field(pattern=PLACE)] | None = Field(
        default=None, description="Where the page before said this one starts"
    )
    tail: int | None = Field(
        default=None, ge=1, le=MOST_LINES, description="Begin with the last so many lines; not together with cursor"
    )
    level: Level = Field(default=Level.DEBUG, description="Only lines that matter at least so much")


Received = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        pattern=PLACE,
        description="The id of the last line that was received: a followed log goes on right after it",
    ),
]


@router.get(
    "/logs/{run_id}",
    response_model=LogPage,
    responses=problems.responses(404, 422, 502, 503) | {200: {"content": STREAM}},
)
async def log(
    *,
    run_id: UUID,
    request: Request,
    response: Response,
    pipeline: OfPipeline,
    parts: WithParts,
    caller: WithCaller,
    listing: Annotated[LogListing, Query()],
    last_event_id: Received = None,
) -> LogPage | Response:
    """A run's log, as Prefect keeps it; with `Accept: text/event-stream` followed until the run is over.

    A run that Prefect does not have yet has no line, and `detail` says so. While Prefect is away the answer is 503; a
    stream that has begun waits for it.
    """
    response.headers["Vary"] = "Accept"
    row = await _row(parts, pipeline, run_id)
    if listing.cursor is not None and listing.tail is not None:
        raise InvalidRequest("cursor and tail each say where to begin; send one of them")
    follows = _wants_events(request.headers.get("accept", ""))
    begin = (last_event_id if follows else None) or listing.cursor
    place = lines.place(begin) if begin else None
    found: list[Line] = []
    more = False
    if row.flow_run_id is not None:
        if listing.tail is not None and place is None:
            found = await logs.tail(parts.prefect, row.flow_run_id, level=listing.level, count=listing.tail)
        else:
            found, more = await logs.after(
                parts.prefect, row.flow_run_id, place, level=listing.level, limit=listing.limit
            )
    if follows:
        # of a log's last lines alone, those before them do not come later
        followed = Followed(Place(found[0].at, UUID(int=0)) if listing.tail and found else place)
        leave = parts.streams.enter(counted(caller, request.scope))
        return EventStream(_told(parts, pipeline, run_id, followed, found, level=listing.level), leave=leave)
    last = found[-1].place if found else place
    return LogPage(
        run_id=run_id,
        flow_run_id=row.flow_run_id,
        state=State(row.state),
        lines=[LogLine.of(one) for one in found],
        next_cursor=lines.cursor(last) if last else None,
        more=more,
        detail=None if found else _why_none(row),
    )


def _wants_events(accept: str) -> bool:
    return any(part.split(";")[0].strip().lower() == EVENTS for part in accept.split(","))


async def _row(parts: Parts, pipeline: Pipeline, run_id: UUID) -> Row[Any]:
    row = await parts.reader.run(pipeline.name, run_id)
    if row is None:
        raise UnknownRun(f"pipeline {pipeline.name} has no run {run_id}; /api/{pipeline.name}/runs lists those it has")
    return row


def _why_none(row: Row[Any]) -> str | None:
    if row.flow_run_id is not None:
        return None
    if State(row.state).ended:
        return f"the run was {row.state} before Prefect had it: it has no log"
    failed = f"; the last of {row.dispatch_attempts} tries failed: {row.last_error}" if row.last_error else ""
    return f"the run has not been handed over to Prefect yet, so it has no log{failed}"


async def _told(
    parts: Parts, pipeline: Pipeline, run_id: UUID, followed: Followed, begun: list[Line], *, level: Level
) -> AsyncGenerator[bytes, None]:
    """The stream's pieces: the lines found at first, those that come, states, and at the end its reason."""
    yield f"retry: {RETRY_MS}\n\n".encode()
    shown: StateTold | None = None
    over_at: float | None = None
    last = list(filter(_is_last, begun))
    pause = LOOK_SECONDS
    beat_at = time.monotonic() + HEARTBEAT_SECONDS
    if begun:
        yield _lines(followed.new(begun))
    while not parts.feed.over:
        try:
            row = await _row(parts, pipeline, run_id)
        except LedgerUnavailable as exc:
            yield _end(str(exc), over=False)
            return
        state = StateTold(state=State(row.state), state_name=row.state_name, message=row.message)
        if state != shown and not state.state.ended:
            yield _event("state", state.model_dump_json())
            shown = state
        came, comment = False, "still here"
        try:
            async for some in _look(parts, row, followed, level):
                came = True
                last += [one for one, _ in some if _is_last(one)]
                yield _lines(some)
        except (EngineUnavailable, EngineRefused, EngineConfused) as exc:
            comment = " ".join(str(exc).split())
        over_at = (over_at or time.monotonic()) if state.state.ended else None  # a crash may be taken back
        if over_at is not None and _complete(row, last, over_for=time.monotonic() - over_at):
            yield _event("state", state.model_dump_json())
            yield _end("the run is over", over=True)
            return
        if time.monotonic() >= beat_at:
            yield f": {comment}\n\n".encode()
            beat_at = time.monotonic() + HEARTBEAT_SECONDS
        pause = LOOK_SECONDS if came or over_at else min(QUIET_SECONDS, pause * 1.5)
        await asyncio.sleep(pause)
    yield _end("shutting down: another replica goes on", over=False)


async def _look(
    parts: Parts, row: Row[Any], followed: Followed, level: Level
) -> AsyncIterator[list[tuple[Line, Place]]]:
    """The lines that have come since the last look, a page at a time."""
    place, more = followed.since, row.flow_run_id is not None
    while more:
        found, more = await logs.after(parts.prefect, row.flow_run_id, place, level=level, limit=MOST_LINES)
        place = found[-1].place if found else place
        if new := followed.new(found):
            yield new


def _complete(row: Row[Any], last: list[Line], *, over_for: float) -> bool:
    """Whether no line is to come any more of a run that is over."""
    if row.flow_run_id is None or over_for >= SETTLE_SECONDS or datetime.now(UTC) - row.ended_at >= LONG_OVER:
        return True
    return any(one.at >= row.ended_at - ABOUT_THE_END for one in last)


def _is_last(line: Line) -> bool:
    return line.task_run_id is None and line.message.startswith(LAST_LINE)  # each task ends with such a line too


def _lines(some: list[tuple[Line, Place]]) -> bytes:
    return b"".join(
        _event("line", LogLine.of(line).model_dump_json(), place=lines.cursor(place)) for line, place in some
    )


def _event(name: str, data: str, *, place: str | None = None) -> bytes:
    begun = f"id: {place}\n" if place else ""
    return f"{begun}event: {name}\ndata: {data}\n\n".encode()


def _end(reason: str, *, over: bool) -> bytes:
    return _event("end", json.dumps({"reason": reason, "over": over}))
