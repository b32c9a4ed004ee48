"""What happens to every request, whatever it asks: a correlation id, the entrance, its body, one line in the log."""

import re
import time
from http import HTTPStatus
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api import bodies, problems
from orchestrator.api.entrance import METRICS, PROBES
from orchestrator.errors import OrchestratorError
from orchestrator.marks import TRACEPARENT
from orchestrator.runs import CORRELATION_ID
from orchestrator.tracing import Tracing

QUIET = PROBES | {METRICS}  # asked every few seconds for ever

log = structlog.get_logger(__name__)


class Requests:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, shown: problems.Shown) -> None:
        """`shown` makes a page of a problem document where a page was asked for."""
        self._app = app
        self._shown = shown

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
        if scope["path"] in QUIET:
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
        headers, correlation_id = Headers(scope=scope), scope["state"]["correlation_id"]
        asked = {"path": scope["path"], "correlation_id": correlation_id}
        answer = _Answer(receive, send, correlation_id)
        parts = scope["app"].state.parts
        caller = None
        started = time.monotonic()
        try:
            caller = scope["state"]["caller"] = await parts.entrance.admit(scope, headers)
            await parts.entrance.permit(caller, scope)
            body = await bodies.read(receive, headers, within=parts.body_seconds)
            if body is not None:
                with structlog.contextvars.bound_contextvars(caller=caller.name):
                    await self._app(scope, _replay(body, receive), answer.send)
        except OrchestratorError as exc:
            # the rest of a body may still be on its way, and will not be read
            answer.closing = bodies.announced(headers)
            await self._shown(scope, problems.of(exc, **asked))(scope, receive, answer.send)
        except Exception:
            log.exception("request failed", **asked)
            if answer.status is None:
                await self._shown(scope, problems.internal(**asked))(scope, receive, answer.send)
        finally:
            write = log.debug if scope["path"] in QUIET else log.info
            write(
                "request",
                **asked,
                method=scope["method"],
                caller=caller and caller.name,
                status=answer.status,
                duration_ms=round((time.monotonic() - started) * 1000, 1),
            )
        return answer.status


def _replay(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the body at once, then whatever the caller does next."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


class _Answer:
    """One response on its way out: its status is noted, its headers are completed."""

    def __init__(self, receive: Receive, send: Send, correlation_id: str) -> None:
        self._receive = receive
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
            headers.setdefault(
                "Cache-Control", "no-store"
            )  # every answer is about now, and may be for one caller alone
            if self.closing:
                headers["Connection"] = "close"
        if not self.closing or message["type"] != "http.response.body":
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        await bodies.let_pass(self._receive)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _correlation_id(given: str, trace: re.Match[str] | None) -> str:
    if CORRELATION_ID.fullmatch(given):
        return given
    return trace.group(1) if trace else uuid4().hex
