"""An outage of the source from its first degraded run to the last day made good, with nobody doing anything by hand."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from .pods import DAY, FLIGHTS_OF_THE_DAY, RUN_SECONDS, Platform

OTHER_DAY = DAY + timedelta(days=1)
OUTAGE = {"ETL_BREAKER_OPEN_SECONDS": "2", "ETL_PROBE_LONGEST_PAUSE_SECONDS": "3"}


def finish(platform: Platform, flow_run_id: str) -> dict[str, Any]:
    """Execute a run when it is due, as the worker does, and return its last state."""
    due = datetime.fromisoformat(platform.run(flow_run_id)["expected_start_time"])
    time.sleep(max(0.0, (due - datetime.now(UTC)).total_seconds()))
    _, stderr = platform.execute(flow_run_id, **OUTAGE).communicate(timeout=RUN_SECONDS)
    state: dict[str, Any] = platform.run(flow_run_id)["state"]
    assert state["type"] == "COMPLETED", stderr
    return state


def test_degraded_days_are_loaded_by_themselves_once_the_source_is_back(platform: Platform) -> None:
    """A degraded run provides a probe; each that fails, the next; the one that succeeds loads its day and has the other
    degraded day loaded, once, whoever looks again.
    """
    platform.query(
        "INSERT INTO breakers (name, state, generation, openings, opened_at, reason)"
        " VALUES ('source', 'open', 1, 1, now() - interval '1 hour', 'SourceUnavailable: 503')"
    )
    platform.query(
        "INSERT INTO loads (run_id, flow_run_id, correlation_id, logical_date, rows, rejected, checksum, outcome)"
        " SELECT gen_random_uuid(), gen_random_uuid(), 'earlier', day, 890, 4, 'abc', outcome"
        " FROM unnest($1::date[], $2::text[]) AS earlier (day, outcome)",
        [DAY, OTHER_DAY, OTHER_DAY],
        ["loaded", "loaded", "degraded"],
    )
    platform.source.put("/faults", json={"kind": "status", "status": 503}).raise_for_status()

    degraded = platform.accept()
    assert finish(platform, degraded)["name"] == "Degraded"
    [probe] = platform.tagged("catch-up")
    assert probe["parameters"]["logical_date"] == DAY.isoformat()
    assert finish(platform, probe["id"])["name"] == "Degraded"
    [_, second] = platform.tagged("catch-up")
    assert platform.query("SELECT openings FROM breakers") == [(3,)]

    platform.source.delete("/faults").raise_for_status()
    assert finish(platform, second["id"])["name"] == "Completed"
    assert platform.query("SELECT state, openings FROM breakers") == [("closed", 0)]
    [_, _, other] = platform.tagged("catch-up")
    assert other["parameters"]["logical_date"] == OTHER_DAY.isoformat()
    assert finish(platform, other["id"])["name"] == "Completed"

    newest = "SELECT DISTINCT ON (logical_date) logical_date, outcome, flow_run_id::text FROM loads"
    assert platform.query(f"{newest} ORDER BY logical_date, id DESC") == [
        (DAY, "loaded", second["id"]),
        (OTHER_DAY, "loaded", other["id"]),
    ]
    assert platform.query("SELECT count(*) FROM flights WHERE logical_date = $1", DAY) == [(FLIGHTS_OF_THE_DAY,)]
    assert len(platform.tagged("catch-up")) == 3

    # made again by hand, a catch-up run of a day that is not degraded any more loads nothing
    loads = platform.query("SELECT count(*) FROM loads")
    platform.reschedule(second["id"])
    assert "nothing to catch up" in finish(platform, second["id"])["message"]
    assert platform.query("SELECT count(*) FROM loads") == loads
