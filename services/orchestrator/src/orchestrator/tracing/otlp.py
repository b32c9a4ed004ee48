"""Spans by OpenTelemetry, sent in batches by a thread of its own: a collector that is away costs spans only."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from orchestrator.tracing import Kind, Span

EXPORT_SECONDS = 3.0

_KINDS: dict[Kind, trace.SpanKind] = {
    "internal": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "producer": trace.SpanKind.PRODUCER,
}
_propagator = TraceContextTextMapPropagator()


class Exporting:
    """Tracing to one collector. Headers, certificates and the resource come from OpenTelemetry's own variables."""

    def __init__(self, endpoint: str) -> None:
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "orchestrator"}), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("orchestrator")

    @contextmanager
    def span(
        self, name: str, *, parent: str | None, kind: Kind = "internal", **attributes: str | int
    ) -> Iterator[Span]:
        """See orchestrator.tracing.Tracing."""
        begun = self._tracer.start_span(name, context=_context(parent), kind=_KINDS[kind], attributes=attributes)
        # ends it, and marks it as failed by an exception
        with trace.use_span(begun, end_on_exit=True):
            yield _Begun(begun)

    def record(
        self,
        name: str,
        *,
        parent: str | None,
        began: datetime,
        ended: datetime,
        error: str | None = None,
        **attributes: str | int,
    ) -> None:
        """See orchestrator.tracing.Tracing."""
        over = self._tracer.start_span(
            name, context=_context(parent), start_time=_nanoseconds(began), attributes=attributes
        )
        if error is not None:
            over.set_status(trace.StatusCode.ERROR, error)
        over.end(end_time=_nanoseconds(ended))

    async def close(self) -> None:
        """See orchestrator.tracing.Tracing."""
        await asyncio.to_thread(self._provider.shutdown)


class _Begun:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str | None:
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, context=trace.set_span_in_context(self._span))
        return carrier.get("traceparent")

    def told(self, *, name: str | None = None, error: str | None = None, **attributes: str | int) -> None:
        if name is not None:
            self._span.update_name(name)
        if error is not None:
            self._span.set_status(trace.StatusCode.ERROR, error)
        self._span.set_attributes(attributes)


def _context(parent: str | None) -> Context:
    """The context a traceparent names; an empty one begins a trace of its own."""
    return _propagator.extract({"traceparent": parent} if parent else {}, context=Context())


def _nanoseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1e9)
