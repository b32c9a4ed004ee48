"""The pages that are read, `/`, a year, a day, a run; their files, and the stream that says when to look again."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Request, Response
from starlette.exceptions import HTTPException

from orchestrator import runs
from orchestrator.api.answers import RunStatus
from orchestrator.api.entrance import counted
from orchestrator.api.events import HEARTBEAT_SECONDS, RETRY_MS, EventStream
from orchestrator.api.parts import OfPipeline, Parts, WithCaller, WithParts
from orchestrator.api.runs import unknown
from orchestrator.doors import Caller, browsing
from orchestrator.ledger import days, reading
from orchestrator.page import overview, stories
from orchestrator.page.rendering import HEADERS, KEPT, Pages
from orchestrator.settings import Pipeline

PACE_SECONDS = 1.0  # between two news, however much happens

router = APIRouter(include_in_schema=False)


async def pages(request: Request) -> Pages:
    """What pages are made with."""
    found: Pages = request.app.state.pages
    return found


WithPages = Annotated[Pages, Depends(pages)]


@router.get(browsing.HOME)
async def home(request: Request, parts: WithParts, caller: WithCaller, page: WithPages) -> Response:
    """What needs somebody, then each pipeline that the caller may read."""
    names = await caller.readable(parts.pipelines)
    seen = await overview.look(
        parts.db,
        names,
        configured=parts.pipelines,
        commands=parts.commands,
        breaker=parts.prefect.breaker,
        now=datetime.now(UTC),
    )
    return page.render("home.html", request, seen=seen)


@router.get("/pipelines/{pipeline}")
async def year(request: Request, pipeline: OfPipeline, parts: WithParts, page: WithPages) -> Response:
    """A pipeline's days, each a link, and its latest runs."""
    seen = await overview.one_pipeline(parts.db, pipeline.name, configured=parts.pipelines, now=datetime.now(UTC))
    latest = await reading.recent(parts.db, reading.Wanted(pipeline=pipeline.name, limit=20), None)
    return page.render("pipeline.html", request, seen=seen, latest=[RunStatus.of(row, pipeline) for row in latest])


@router.get("/pipelines/{pipeline}/{day}")
async def day(
    *, day: str, request: Request, pipeline: OfPipeline, parts: WithParts, caller: WithCaller, page: WithPages
) -> Response:
    """The runs about one day, and the forms that make another."""
    when = runs.parse_day(day, name="the day")
    rows = await days.of_day(parts.db, pipeline.name, when)
    return page.render(
        "day.html",
        request,
        pipeline=pipeline.name,
        day=when,
        before=when - timedelta(days=1),
        after=when + timedelta(days=1),
        runs=[RunStatus.of(row, pipeline) for row in rows],
        may=await rights(parts, caller, pipeline),
        once=str(uuid4()),
    )


@router.get("/pipelines/{pipeline}/runs/{run_id}")
async def run(
    *, run_id: UUID, request: Request, pipeline: OfPipeline, parts: WithParts, caller: WithCaller, page: WithPages
) -> Response:
    """All that is known of one run; what Prefect cannot tell now is said to be missing."""
    row = await parts.reader.run(pipeline.name, run_id)
    if row is None:
        raise unknown(pipeline, run_id)
    story = await stories.told(
        parts.db,
        parts.prefect,
        row,
        log=await parts.entrance.may(caller, "GET", f"/api/{pipeline.name}/logs/{run_id}"),
        left=await parts.entrance.may(caller, "GET", f"/api/{pipeline.name}/artifacts/{run_id}"),
    )
    return page.render(
        "run.html",
        request,
        run=RunStatus.of(row, pipeline),
        story=story,
        prefect_ui=page.prefect_ui,
        may=await rights(parts, caller, pipeline, run_id),
        once=str(uuid4()),
    )


async def rights(parts: Parts, caller: Caller, pipeline: Pipeline, run_id: UUID | None = None) -> dict[str, bool]:
    """What a page may offer: the caller's rights to change something."""
    about = {"start": "start", "backfill": "backfill"} | ({"cancel": f"cancel/{run_id}"} if run_id else {})
    return {
        name: await parts.entrance.may(caller, "POST", f"/api/{pipeline.name}/{path}") for name, path in about.items()
    }


@router.get(browsing.STATIC + "{name}")
async def static(name: str, page: WithPages) -> Response:
    """A file of the page, for good: another content has another name."""
    if name not in page.static:
        raise HTTPException(404)
    body, media = page.static[name]
    return Response(body, headers=HEADERS | KEPT, media_type=media)


@router.get(browsing.LIVE)
async def live(request: Request, parts: WithParts, caller: WithCaller) -> Response:
    """An event whenever something of a pipeline changed that the caller may read: the page then looks again."""
    names = frozenset(await caller.readable(parts.pipelines))
    place = await parts.feed.place()
    leave = parts.streams.enter(counted(caller, request.scope))
    return EventStream(_news(parts, names, place), leave=leave)


async def _news(parts: Parts, names: frozenset[str], place: int) -> AsyncGenerator[bytes, None]:
    yield f"retry: {RETRY_MS}\n\n".encode()
    while not parts.feed.over:
        place, changed = await parts.feed.stirred(place, within=HEARTBEAT_SECONDS)
        about = names if changed is None else names & changed
        if about:
            yield f"event: change\ndata: {' '.join(sorted(about))}\n\n".encode()
            await asyncio.sleep(PACE_SECONDS)
        else:
            yield b": still here\n\n"
    yield b"event: end\ndata: shutting down\n\n"
