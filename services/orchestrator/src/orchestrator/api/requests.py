"""What happens to every request, whatever it asks: a correlation id, a limit to its body, one line in the log."""

import re
import time
from typing import Any
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api import problems
from orchestrator.errors import BodyTooLarge

BODY_BYTES = 64 * 1024
CORRELATION_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
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
        exchange = _Exchange(receive, send, correlation_id)
        asked = {"path": scope["path"], "correlation_id": correlation_id}
        started = time.monotonic()
        said: dict[str, Any] = {}
        try:
            if int(headers.get("content-length") or 0) > BODY_BYTES:
                raise _TooLong  # noqa: TRY301 -- one answer for both ways of being too long
            await self._app(scope, exchange.receive, exchange.send)
        except _TooLong:
            exchange.closing = True
            refusal = problems.of(BodyTooLarge(f"the body is over {BODY_BYTES} bytes; send a smaller one"), **asked)
            await refusal(scope, receive, exchange.send)
        except Exception:
            log.exception("request failed", **asked)
            if exchange.status is None:
                await problems.internal(**asked)(scope, receive, exchange.send)
            else:
                said["cut_short"] = True
        finally:
            write = log.debug if scope["path"] in PROBES else log.info
            write(
                "request",
                **asked,
                **said,
                method=scope["method"],
                status=exchange.status,
                duration_ms=round((time.monotonic() - started) * 1000, 1),
            )


class _TooLong(Exception):  # noqa: N818 -- never leaves this module
    pass


class _Exchange:
    """One request's body, counted, and its response, labelled."""

    def __init__(self, receive: Receive, send: Send, correlation_id: str) -> None:
        self._receive = receive
        self._send = send
        self._correlation_id = correlation_id
        self._read = 0
        self.status: int | None = None
        self.closing = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            if self._read > BODY_BYTES:
                raise _TooLong
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            headers = MutableHeaders(scope=message)
            headers["X-Correlation-ID"] = self._correlation_id
            headers["X-Content-Type-Options"] = "nosniff"
            if self.closing:
                headers["Connection"] = "close"
        await self._send(message)


def _correlation_id(given: str, trace: re.Match[str] | None) -> str:
    if CORRELATION_ID.fullmatch(given):
        return given
    return trace.group(1) if trace else uuid4().hex
