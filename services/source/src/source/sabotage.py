"""Faults carried out on the wire: what stands between a client and the answer it would have got."""

import asyncio
from collections.abc import Callable
from typing import cast

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from source.errors import NotAcceptableError
from source.faults import DATA_PATHS, DropFault, FaultBoard, GarbageFault, StatusFault, TruncateFault
from source.problems import problem
from source.wire import Media, negotiate

HANG_UP = "source.hang_up"
# No UTF-8, no JSON, and not the four bytes FF an Arrow stream begins with.
GARBAGE = b"\x89garbage\r\n\x1a\n\x00" + bytes(range(255, 127, -1)) * 4


class HangUpProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a way for the application to close the connection, which ASGI has no word for."""

    def on_message_begin(self) -> None:
        """Offer the transport's close as an extension of the request's scope."""
        super().on_message_begin()
        self.scope["extensions"] = {HANG_UP: {"close": self.transport.close}}


class Sabotage:
    """ASGI middleware that lets the board's faults happen to requests for data, and to nothing else."""

    def __init__(self, app: ASGIApp, *, board: FaultBoard) -> None:
        self._app = app
        self._board = board

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or fail at it as the board says."""
        if scope["type"] != "http" or scope["path"] not in DATA_PATHS:
            await self._app(scope, receive, send)
            return
        verdict = self._board.judge(scope["path"])
        if verdict.kinds:
            bind_contextvars(faults=verdict.kinds)
        await asyncio.sleep(verdict.delay)
        match verdict.ending:
            case None:
                await self._app(scope, receive, send)
            case StatusFault(status=status, retry_after=after):
                headers = None if after is None else {"Retry-After": str(after)}
                refusal = problem(status, "a fault was asked for: DELETE /faults clears it", headers=headers)
                await refusal(scope, receive, send)
            case DropFault():
                await _hang_up(scope, receive)
            case TruncateFault():
                await self._truncate(scope, receive, send)
            case GarbageFault():
                await Response(GARBAGE, media_type=_media(scope))(scope, receive, send)

    async def _truncate(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {}
        body = b""

        async def hold(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
            else:
                body += message.get("body", b"")

        await self._app(scope, receive, hold)
        await send(start)
        whole = not body
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": not whole})
        if not whole:
            await _hang_up(scope, receive)


async def _hang_up(scope: Scope, receive: Receive) -> None:
    """Close the connection after what was sent, and wait until it is closed.

    Returning earlier would make the server answer 500 by itself.
    """
    try:
        close = cast(Callable[[], None], scope["extensions"][HANG_UP]["close"])
    except KeyError as exc:
        raise RuntimeError("this server cannot close a connection on demand: start it by python -m source") from exc
    close()
    while (await receive())["type"] != "http.disconnect":
        pass


def _media(scope: Scope) -> Media:
    """What the client would have got."""
    try:
        return negotiate(accepted(Headers(scope=scope)))
    except NotAcceptableError:
        return Media.NDJSON


def accepted(headers: Headers) -> str | None:
    """The Accept header, which may come in several lines."""
    return ", ".join(headers.getlist("accept")) or None
