"""The log: JSON lines on stderr, ours and the server's alike, and one line a request."""

import logging
import re
import sys
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

CORRELATION_HEADER = "X-Correlation-ID"
# Printable and short, so that an id is safe to repeat in headers and logs.
CORRELATION_ID = re.compile(r"[\x21-\x7e]{1,128}")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
# Probes come every few seconds and say nothing.
QUIET_PATHS = frozenset({"/healthz"})

log = structlog.stdlib.get_logger("source")


def configure(level: str) -> None:
    """Send everything from `level` up to stderr, one JSON object a line."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(allow=()), *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


class AccessLog:
    """ASGI middleware: logs each request with its correlation id and trace, and returns the id to the client."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and write its line when it is over."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(CORRELATION_HEADER, "")
        correlation_id = given if CORRELATION_ID.fullmatch(given) else None
        trace = TRACEPARENT.fullmatch(Headers(scope=scope).get("traceparent", ""))
        told = {"trace_id": trace.group(1)} if trace else {}
        status: int | None = None
        sent = 0

        async def observe(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                if correlation_id is not None:
                    MutableHeaders(scope=message)[CORRELATION_HEADER] = correlation_id
            else:
                sent += len(message.get("body", b""))
            await send(message)

        began = time.perf_counter()
        with bound_contextvars(correlation_id=correlation_id, faults=(), **told):
            try:
                await self._app(scope, receive, observe)
            except Exception:
                status = 500  # answered by the layer above, which logs the error itself
                raise
            finally:
                log.log(
                    logging.DEBUG if scope["path"] in QUIET_PATHS else logging.INFO,
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    query=scope["query_string"].decode("latin-1"),
                    status=status,
                    bytes=sent,
                    duration_ms=round((time.perf_counter() - began) * 1000, 2),
                )
