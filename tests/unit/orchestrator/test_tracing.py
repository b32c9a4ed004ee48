"""One trace from the caller to a run's end, at a collector that speaks OTLP; and none where nobody collects."""

import json
import subprocess
import sys
import time
from typing import Any, Protocol

from orchestrator.settings import Settings

from .conftest import Serve, eventually
from .wire import PrefectWire, saying

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
LABEL = "__OTEL_TRACEPARENT"


class Span(Protocol):
    """What these tests read of a span."""

    trace_id: str
    span_id: str
    parent_id: str
    failed: bool
    seconds: float
    attributes: dict[str, Any]


class Collector(Protocol):
    """The collector of tests/conftest.py."""

    url: str
    spans: list[Any]

    def named(self, name: str) -> Span: ...


async def flow_run_of(wire: PrefectWire) -> dict[str, Any]:
    async def made() -> Any:
        return list(wire.flow_runs.values())

    (flow_run,) = await eventually(made, within=5, what="a flow run")
    assert isinstance(flow_run, dict)
    return flow_run


async def test_a_run_is_one_trace_across_a_restart(serve: Serve, collector: Collector) -> None:
    """Accepted while Prefect is away, handed over and followed by the next process: the ledger carries the trace."""
    wire = PrefectWire()
    async with serve(wire, otlp_endpoint=collector.url) as client:
        await client.get("/api/pipelines")

        async def known() -> Any:
            return (await client.get("/api/pipelines")).json()["pipelines"][0]["seen_at"]

        await eventually(known, within=5, what="the deployment is known")
        wire.fault = saying(503)
        answer = await client.post("/api/etl/start", headers={"traceparent": TRACEPARENT})
        assert answer.status_code == 202
    wire.fault = None
    async with serve(wire, otlp_endpoint=collector.url) as client:
        flow_run = await flow_run_of(wire)
        wire.move(flow_run["id"], "RUNNING")
        wire.move(flow_run["id"], "FAILED", message="the source answers 503")

        async def over() -> bool:
            return bool((await client.get(answer.headers["location"])).json()["ended_at"])

        await eventually(over, within=5, what="the run is over")
    request = collector.named("POST /api/{pipeline}/start")
    assert (request.trace_id, request.parent_id, request.failed) == (TRACE, CALLER, False)
    commit = collector.named("commit")
    run = collector.named("run")
    handed_over = [span for span in collector.spans if span.name == "hand over" and not span.failed]
    (last,) = handed_over
    for span in (commit, last, run):
        assert (span.trace_id, span.parent_id) == (TRACE, request.span_id)
    assert (run.failed, run.attributes["state"]) == (True, "Failed")
    assert run.seconds > 0
    assert last.attributes["run_id"] == run.attributes["run_id"] == answer.json()["run_id"]
    (creation,) = wire.creations
    assert creation["labels"][LABEL] == f"00-{TRACE}-{last.span_id}-01"


async def test_a_callers_trace_is_handed_on_without_a_collector(serve: Serve) -> None:
    """The ledger and the flow run carry the caller's own traceparent."""
    wire = PrefectWire()
    async with serve(wire) as client:
        await client.post("/api/etl/start", headers={"traceparent": TRACEPARENT})
        await flow_run_of(wire)
        await client.post("/api/etl/start")

        async def both() -> bool:
            return len(wire.creations) == 2

        await eventually(both, within=5, what="two flow runs")
    assert [one["labels"].get(LABEL) for one in wire.creations] == [TRACEPARENT, None]


async def test_a_run_made_elsewhere_joins_the_trace_its_flow_began(serve: Serve, collector: Collector) -> None:
    """A scheduled run has no caller: the flow begins its trace, and its end is told there."""
    wire = PrefectWire()
    wire.add("COMPLETED", start_time="2026-03-01T08:00:00Z", labels={LABEL: TRACEPARENT, "other": 3})
    async with serve(wire, otlp_endpoint=collector.url) as client:

        async def adopted() -> Any:
            return (await client.get("/api/etl/runs")).json()["runs"]

        await eventually(adopted, within=5, what="the run is adopted")
    run = collector.named("run")
    assert (run.trace_id, run.parent_id, run.failed) == (TRACE, CALLER, False)


async def test_a_collector_that_is_away_costs_nothing(serve: Serve, free_port: int) -> None:
    """Requests are answered and runs handed over as ever; the end waits a few seconds at most."""
    wire = PrefectWire()
    async with serve(wire, otlp_endpoint=f"http://127.0.0.1:{free_port}") as client:
        answer = await client.post("/api/etl/start", headers={"traceparent": TRACEPARENT})
        assert answer.status_code == 202
        await flow_run_of(wire)
        assert wire.creations[0]["labels"][LABEL].startswith(f"00-{TRACE}-")
        ending = time.monotonic()
    assert time.monotonic() - ending < 15


async def test_probes_leave_no_spans_and_a_failed_request_does(serve: Serve, collector: Collector) -> None:
    """What a collector gets is what somebody asked for."""
    wire = PrefectWire()
    wire.fault = saying(503)
    async with serve(wire, otlp_endpoint=collector.url) as client:
        for probe in ("/healthz", "/readyz", "/metrics"):
            await client.get(probe)
        assert (await client.post("/api/etl/start")).status_code == 503
    (request,) = [span for span in collector.spans if span.name != "commit"]
    assert (request.name, request.failed) == ("POST /api/{pipeline}/start", True)
    assert request.attributes["http.response.status_code"] == 503


def test_the_exporter_is_not_loaded_without_an_endpoint() -> None:
    """It costs time and memory."""
    told = "import json, sys, orchestrator.app; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True, timeout=60)
    loaded = json.loads(done.stdout)
    assert "orchestrator.tracing" in loaded
    costly = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "google.protobuf", "orchestrator.tracing.otlp")
    assert not [name for name in loaded if name.startswith(costly)]


def test_the_endpoint_stands_under_opentelemetrys_own_name(monkeypatch: Any) -> None:
    """Beside the variables that its library reads itself."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    told = {"database_url": "postgresql://h/d", "prefect_api_url": "http://p/api"}
    told["pipelines"] = '[{"name": "etl", "deployment": "a/b"}]'
    assert Settings(**told).otlp_endpoint == "http://collector:4318"  # type: ignore[arg-type] # as the environment has it
