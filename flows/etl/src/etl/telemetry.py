"""Spans of the flow, sent by OTLP where OTEL_EXPORTER_OTLP_ENDPOINT names a collector.

The spans are Prefect's own: its engine opens one for the flow run, in the trace that the run's labels name, and one for
each task. Without an endpoint nothing is imported and no span is made, but the trace is handed on all the same.
"""

import os

from opentelemetry import propagate, trace

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"

# A pod must not outlive its work by much when its collector is away.
_EXPORT_SECONDS = 3.0


def export_spans() -> None:
    """Have the spans of this process sent, in batches by a thread of their own, and the last ones at its end."""
    if not os.environ.get(ENDPOINT):
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 -- costly
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    provider = TracerProvider(resource=Resource.create({"service.name": "etl"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=_EXPORT_SECONDS)))
    trace.set_tracer_provider(provider)


def trace_headers() -> dict[str, str]:
    """What a request sent now carries, so that whoever answers it joins the trace; nothing where there is none."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers
