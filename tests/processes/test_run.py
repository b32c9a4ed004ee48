"""The deployed flow as its pod runs it: `python -m etl.start` against a real Prefect server, source and warehouse."""

import re
import signal
from datetime import date
from typing import Any, Protocol

from .pods import DAY, FLIGHTS_OF_THE_DAY, RUN_SECONDS, Platform, signal_pod

NEXT_DAY = date(2026, 1, 16)


class Collector(Protocol):
    """The collector of tests/conftest.py."""

    url: str
    spans: list[Any]


def test_a_run_loads_its_day(platform: Platform) -> None:
    """Two failed requests are tried again; rows, loads row, artifact and log lines carry the run's ids."""
    platform.source.put("/faults", json={"kind": "status", "status": 503, "retry_after": 2, "count": 2})
    flow_run_id = platform.accept()
    process = platform.execute(flow_run_id)
    _, stderr = process.communicate(timeout=RUN_SECONDS)
    run = platform.run(flow_run_id)
    assert (process.returncode, run["state_name"]) == (0, "Completed"), stderr
    [run_id] = [tag.removeprefix("run-id:") for tag in run["tags"] if tag.startswith("run-id:")]
    [fault] = platform.source.get("/faults").json()["faults"]
    assert fault["hits"] == 2

    assert platform.query("SELECT count(*) FROM flights WHERE logical_date = $1", DAY) == [(FLIGHTS_OF_THE_DAY,)]
    [load] = platform.query("SELECT run_id::text, flow_run_id::text, correlation_id, rows, fence FROM loads")
    [claim] = platform.query("SELECT fence, run_id::text, logical_date FROM claims")
    assert load == (run_id, flow_run_id, f"corr-{run_id}", FLIGHTS_OF_THE_DAY, claim[0])
    assert claim[1:] == (run_id, DAY)

    assert f"{FLIGHTS_OF_THE_DAY} flights loaded" in platform.artifact(flow_run_id)
    assert run["state"]["message"] == f"{DAY}: {FLIGHTS_OF_THE_DAY} rows loaded, 0 rejected"

    lines = platform.log_lines(flow_run_id)
    # with a backoff of 0.1 s, only the source's Retry-After makes an extract take so long
    assert [line["seconds"] >= 2 for line in lines if line["step"] == "extract"] == [True]
    assert {line["step"] for line in lines} == {"start", "claim", "extract", "transform", "load"}
    assert {(line["run_id"], line["correlation_id"]) for line in lines} == {(run_id, f"corr-{run_id}")}
    # Prefect's own lines too; a line that begins with a clock's time is one, the rest is a long line's second half
    own = [line for line in stderr.splitlines() if re.match(r"\d\d:\d\d:\d\d\.\d{3} \|", line)]
    assert own
    assert [line for line in own if not line.endswith(f"correlation_id=corr-{run_id}")] == []


TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_flow_goes_on_with_the_trace_it_was_given(platform: Platform, collector: Collector) -> None:
    """Its span continues the orchestrator's, each task's stands under it, and the source is told of the task's."""
    flow_run_id = platform.accept(__OTEL_TRACEPARENT=f"00-{TRACE}-{CALLER}-01")
    process = platform.execute(flow_run_id, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    _, stderr = process.communicate(timeout=RUN_SECONDS)
    assert platform.run(flow_run_id)["state_name"] == "Completed", stderr
    assert {span.trace_id for span in collector.spans} == {TRACE}
    [flow_span] = [span for span in collector.spans if span.parent_id == CALLER]
    assert flow_span.attributes["prefect.run.id"] == flow_run_id
    tasks = {span.name.partition("-")[0] for span in collector.spans if span.parent_id == flow_span.span_id}
    assert tasks == {"extract", "transform", "load"}
    assert TRACE in {line.get("trace_id") for line in platform.source_lines()}


def test_a_trace_reaches_the_source_where_nobody_collects(platform: Platform) -> None:
    """Handing on costs no exporter; a collector that is away costs the run nothing either."""
    quiet, unheard = (platform.accept(day, __OTEL_TRACEPARENT=f"00-{TRACE}-{CALLER}-01") for day in (DAY, NEXT_DAY))
    processes = [
        platform.execute(quiet),
        platform.execute(unheard, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9"),
    ]
    for flow_run_id, process in zip((quiet, unheard), processes, strict=True):
        _, stderr = process.communicate(timeout=RUN_SECONDS)
        assert platform.run(flow_run_id)["state_name"] == "Completed", stderr
        [correlation_id] = [
            tag.partition(":")[2] for tag in platform.run(flow_run_id)["tags"] if tag.startswith("correlation-id:")
        ]
        lines = [line for line in platform.source_lines() if line.get("correlation_id") == correlation_id]
        assert {line["trace_id"] for line in lines} == {TRACE}


def test_a_second_process_of_the_same_attempt_does_nothing(platform: Platform) -> None:
    """A duplicate in the middle of a run and one after its end exit with 0; Prefect saw one process only."""
    platform.slow_source(2)
    flow_run_id = platform.accept()
    first = platform.execute(flow_run_id)
    platform.has_begun(first)
    duplicate = platform.execute(flow_run_id)
    assert "another process is executing the run" in duplicate.communicate(timeout=RUN_SECONDS)[1]
    _, stderr = first.communicate(timeout=RUN_SECONDS)
    late = platform.execute(flow_run_id)
    assert "the run is over" in late.communicate(timeout=RUN_SECONDS)[1]
    assert (first.returncode, duplicate.returncode, late.returncode) == (0, 0, 0)

    assert platform.states(flow_run_id).count("Running") == 1, stderr
    assert platform.run(flow_run_id)["run_count"] == 1
    assert platform.states(flow_run_id)[-1] == "Completed"
    assert platform.query("SELECT count(*) FROM loads") == [(1,)]


def test_who_wakes_up_after_a_newer_claim_loaded_writes_nothing(platform: Platform) -> None:
    """Two processes sleep through a rerun of the one's run, which loads the day of both.

    The rerun's own first attempt leaves the run Completed; the other run fails and says whose the day is.
    """
    platform.slow_source(2)
    rerun, other = platform.accept(), platform.accept()
    sleepers = {}
    for asked_by_then, flow_run_id in ((1, rerun), (3, other)):
        sleepers[flow_run_id] = platform.execute(flow_run_id)
        platform.has_begun(sleepers[flow_run_id], requests=asked_by_then)
        signal_pod(sleepers[flow_run_id], signal.SIGSTOP)
    platform.reschedule(rerun)
    _, stderr = platform.execute(rerun).communicate(timeout=RUN_SECONDS)
    assert platform.run(rerun)["state_name"] == "Completed", stderr
    before = platform.states(rerun)

    for sleeper in sleepers.values():
        signal_pod(sleeper, signal.SIGCONT)
    stderr = {flow_run_id: sleeper.communicate(timeout=RUN_SECONDS)[1] for flow_run_id, sleeper in sleepers.items()}
    assert "stand aside" in stderr[rerun]
    assert platform.states(rerun) == before
    state = platform.run(other)["state"]
    assert state["name"] == "Failed", stderr[other]
    assert f"ClaimLost: {DAY} was claimed by the later flow run {rerun}" in state["message"]
    assert platform.query("SELECT count(*) FROM flights") == [(FLIGHTS_OF_THE_DAY,)]
    assert platform.query("SELECT fence = (SELECT max(fence) FROM claims) FROM loads") == [(True,)]


def test_a_killed_run_is_rerun(platform: Platform) -> None:
    """SIGKILL in the middle, then Prefect schedules the run anew: the next process does not wait for the lease."""
    platform.slow_source(30)
    flow_run_id = platform.accept()
    killed = platform.execute(flow_run_id)
    platform.has_begun(killed)
    signal_pod(killed, signal.SIGKILL)
    killed.communicate()
    platform.source.delete("/faults")
    platform.reschedule(flow_run_id)
    _, stderr = platform.execute(flow_run_id).communicate(timeout=RUN_SECONDS)
    assert platform.run(flow_run_id)["state_name"] == "Completed", stderr
    assert platform.query("SELECT count(*) FROM loads") == [(1,)]


def test_sigterm_gives_the_run_back(platform: Platform) -> None:
    """An eviction's SIGTERM ends in AwaitingRetry, by Prefect's own doing."""
    platform.slow_source(30)
    flow_run_id = platform.accept()
    evicted = platform.execute(flow_run_id)
    platform.has_begun(evicted)
    evicted.terminate()
    _, stderr = evicted.communicate(timeout=30)
    assert evicted.returncode == 0, stderr
    assert platform.run(flow_run_id)["state_name"] == "AwaitingRetry", stderr


def test_a_source_that_is_down_fails_the_run_by_name(platform: Platform, free_port: int) -> None:
    """Nobody listens: the retries are used up, the state's message says so, nothing is loaded."""
    flow_run_id = platform.accept()
    process = platform.execute(flow_run_id, ETL_SOURCE_URL=f"http://127.0.0.1:{free_port}")
    _, stderr = process.communicate(timeout=RUN_SECONDS)
    state = platform.run(flow_run_id)["state"]
    assert (state["name"], process.returncode) == ("Failed", 0), stderr
    assert "SourceUnavailable" in state["message"]
    assert platform.query("SELECT count(*) FROM loads") == [(0,)]


def test_while_the_source_is_given_up_a_loaded_day_is_kept(platform: Platform) -> None:
    """The circuit is open: no request is sent; a loaded day ends Degraded everywhere, a new one fails with why."""
    platform.query(
        "INSERT INTO breakers (name, state, isolated, opened_at, reason)"
        " VALUES ('source', 'open', true, now(), 'the source moves')"
    )
    platform.query(
        "INSERT INTO loads (run_id, flow_run_id, correlation_id, logical_date, rows, rejected, checksum)"
        " VALUES (gen_random_uuid(), gen_random_uuid(), 'earlier', $1, 890, 4, 'abc')",
        DAY,
    )
    platform.slow_source(0.1)
    loaded, never = platform.accept(), platform.accept(date(2026, 1, 16))
    processes = [platform.execute(flow_run_id) for flow_run_id in (loaded, never)]
    stderr = [process.communicate(timeout=RUN_SECONDS)[1] for process in processes]
    assert [fault["seen"] for fault in platform.source.get("/faults").json()["faults"]] == [0]

    state = platform.run(loaded)["state"]
    assert (state["type"], state["name"]) == ("COMPLETED", "Degraded"), stderr[0]
    assert "2026-01-15 keeps the 890 flights loaded before" in state["message"]
    assert "the source moves" in state["message"]
    assert "degraded" in [line["step"] for line in platform.log_lines(loaded)]
    assert "the source moves" in platform.artifact(loaded)
    for artifact in platform.artifacts(loaded).values():
        assert "degraded" in artifact["description"].lower()
        assert "degraded" in artifact["data"] or artifact["type"] == "image" or artifact["key"] == "etl-delays"
    kept = platform.query("SELECT flow_run_id::text, rows, note LIKE '%the source moves%' FROM loads WHERE id > 1")
    assert kept == [(loaded, 890, True)]

    state = platform.run(never)["state"]
    assert state["name"] == "Failed", stderr[1]
    assert "SourceUnavailable: 2026-01-16 was never loaded" in state["message"]
