"""The route that streams changes of runs, as server-sent events."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated

import structlog
from fastapi import APIRouter, Header, Request, Response
from starlette.types import Receive, Scope, Send

from orchestrator.api import problems
from orchestrator.api.answers import Change
from orchestrator.api.entrance import counted
from orchestrator.api.parts import OfPipeline, WithCaller, WithParts
from orchestrator.errors import InvalidRequest, LedgerUnavailable
from orchestrator.ledger.feed import Feed, TooSlow

HEARTBEAT_SECONDS = 15.0
STALLED_SECONDS = 30.0  # how long one piece may take to get out before the caller is given up
RETRY_MS = 2000
LARGEST_ID = 2**63 - 1

router = APIRouter(prefix="/api/{pipeline}", tags=["runs"])
log = structlog.get_logger(__name__)

EXAMPLE = (
    'id: 17\nevent: state\ndata: {"run_id": "0b5f0ac8-9a0e-4b8e-9a3b-6f0f6f1f6a11", "kind": "changed", '
    '"state": "Running", "state_name": "Running", "message": null, "logical_date": "2026-03-01", '
    '"at": "2026-03-02T08:00:06.500Z", "duration_ms": null, "reason": null, '
    '"correlation_id": "4bf92f3577b34da6a3ce929d0e0e4736"}\n\n'
)
EVENT = {
    "type": "object",
    "description": "One event: its data is JSON. Those named `end` have no id.",
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]{1,19}$"},
        "event": {"enum": ["state", "end"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
STREAM = {"text/event-stream": {"schema": EVENT, "example": EXAMPLE}}

Seen = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        pattern=r"^[0-9]{1,19}$",
        description="The id of the last event that was received: the stream goes on right after it",
    ),
]


@router.get(
    "/events", response_class=Response, responses=problems.responses(404, 422, 503) | {200: {"content": STREAM}}
)
async def events(
    *, request: Request, pipeline: OfPipeline, parts: WithParts, caller: WithCaller, last_event_id: Seen = None
) -> Response:
    """Every change of a run's state as it is recorded, from now on or from after `Last-Event-ID`.

    The stream lasts until the caller leaves. An event named `end` says why the service ended it: come back with the
    id of the last event, and nothing is missed or told twice.
    """
    feed = parts.feed
    if last_event_id is None:
        place = await feed.place()
    else:
        place = int(last_event_id)
        if place > LARGEST_ID or not await feed.knows(place):
            raise InvalidRequest(f"there is no event {last_event_id} yet; leave Last-Event-ID out to begin now")
    leave = parts.streams.enter(counted(caller, request.scope))
    return EventStream(_told(feed, pipeline.name, place), leave=leave)


async def _told(feed: Feed, pipeline: str, place: int) -> AsyncGenerator[bytes, None]:
    """The stream's pieces: events, a comment where there are none for a while, and at the end its reason."""
    yield f"retry: {RETRY_MS}\n\n".encode()
    live = False
    beat_at = time.monotonic() + HEARTBEAT_SECONDS
    while not feed.over:
        try:
            stretch = await feed.after(place, pipeline, live=live, within=max(0.0, beat_at - time.monotonic()))
        except TooSlow:
            yield _end("too slow: more changes than are kept came while one was sent")
            return
        except LedgerUnavailable as exc:
            yield _end(str(exc))
            return
        place, live = stretch.place, stretch.live
        if stretch.changes:
            yield b"".join(_event(row.id, Change.model_validate(row, from_attributes=True)) for row in stretch.changes)
        elif time.monotonic() >= beat_at:
            yield b": still here\n\n"
        else:
            continue
        beat_at = time.monotonic() + HEARTBEAT_SECONDS
    yield _end("shutting down: another replica goes on")


def _event(place: int, change: Change) -> bytes:
    return f"id: {place}\nevent: state\ndata: {change.model_dump_json()}\n\n".encode()


def _end(reason: str) -> bytes:
    return f"event: end\ndata: {json.dumps({'reason': reason})}\n\n".encode()


class EventStream(Response):
    """A response that is sent for as long as its pieces come and its caller takes them."""

    media_type = "text/event-stream"

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        *,
        leave: Callable[[], None] = lambda: None,
        stalled_seconds: float = STALLED_SECONDS,
    ) -> None:
        """`leave` is called once it is over, however it ends."""
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._pieces = pieces
        self._leave = leave
        self._stalled_seconds = stalled_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces; whichever comes first ends it: their end, the caller's leaving, or its stalling."""
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        except TimeoutError:
            log.warning("a caller that takes no events is given up", path=scope["path"])
        finally:
            self._leave()
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._pieces):
            async for piece in self._pieces:
                async with asyncio.timeout(self._stalled_seconds):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
