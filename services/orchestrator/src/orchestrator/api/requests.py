"""What happens to every request, whatever it asks: a correlation id, a limit to its body, one line in the log."""

import re
import time
from http import HTTPStatus
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api import problems
from orchestrator.errors import BodyTooLarge
from orchestrator.marks import TRACEPARENT
from orchestrator.runs import CORRELATION_ID
from orchestrator.tracing import Tracing

BODY_BYTES = 64 * 1024
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})

log = structlog.get_logger(__name__)


class Requests:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        traceparent = headers.get("traceparent", "")
        trace = TRACEPARENT.fullmatch(traceparent)
        correlation_id = _correlation_id(headers.get("x-correlation-id", ""), trace)
        state = scope.setdefault("state", {})
        state["correlation_id"] = correlation_id
        state["traceparent"] = traceparent if trace else None
        if scope["path"] in PROBES:
            await self._answer(scope, receive, send)
            return
        tracing: Tracing = scope["app"].state.parts.tracing
        with tracing.span("request", parent=state["traceparent"], kind="server", correlation_id=correlation_id) as span:
            state["traceparent"] = span.traceparent
            status = await self._answer(scope, receive, send)
            route = getattr(scope.get("route"), "path", "")
            error = f"HTTP {status}" if status is None or status >= HTTPStatus.INTERNAL_SERVER_ERROR else None
            span.told(
                name=f"{scope['method']} {route}".strip(), error=error, **{"http.response.status_code": status or 0}
            )

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> int | None:
        """Answer, and write one line about it; the status, None where the caller hung up before there was one."""
        correlation_id = scope["state"]["correlation_id"]
        asked = {"path": scope["path"], "correlation_id": correlation_id}
        answer = _Answer(send, correlation_id)
        started = time.monotonic()
        try:
            body = await _read(receive, Headers(scope=scope))
            if body is not None:
                await self._app(scope, _replay(body, receive), answer.send)
        except BodyTooLarge as exc:
            answer.closing = True
            await problems.of(exc, **asked)(scope, receive, answer.send)
        except Exception:
            log.exception("request failed", **asked)
            if answer.status is None:
                await problems.internal(**asked)(scope, receive, answer.send)
        finally:
            write = log.debug if scope["path"] in PROBES else log.info
            write(
                "request",
                **asked,
                method=scope["method"],
                status=answer.status,
                duration_ms=round((time.monotonic() - started) * 1000, 1),
            )
        return answer.status


async def _read(receive: Receive, headers: Headers) -> bytes | None:
    """The whole body, None when the caller hung up before its end. Raises BodyTooLarge."""
    too_large = BodyTooLarge(f"the body is over {BODY_BYTES} bytes; send a smaller one")
    declared = headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > BODY_BYTES:
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > BODY_BYTES:
            raise too_large
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the body at once, then whatever the caller does next."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


class _Answer:
    """One response on its way out: its status is noted, its headers are completed."""

    def __init__(self, send: Send, correlation_id: str) -> None:
        self._send = send
        self._correlation_id = correlation_id
        self.status: int | None = None
        self.closing = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            headers = MutableHeaders(scope=message)
            headers["X-Correlation-ID"] = self._correlation_id
            headers["X-Content-Type-Options"] = "nosniff"
            if self.closing:  # the rest of the body is still on its way and will not be read
                headers["Connection"] = "close"
        await self._send(message)


def _correlation_id(given: str, trace: re.Match[str] | None) -> str:
    if CORRELATION_ID.fullmatch(given):
        return given
    return trace.group(1) if trace else uuid4().hex
