"""What a run shows of its day: artifacts on a real Prefect server, read back from it."""

import json
from base64 import b64decode
from datetime import date
from typing import Any
from xml.etree import ElementTree

from .gate import Gate
from .pods import DAY, FLIGHTS_OF_THE_DAY, RUN_SECONDS, Platform

KEYS = ["etl-delay-by-hour", "etl-delays", "etl-quality"]
DAY_BEFORE = date(2026, 1, 14)


def shown(artifact: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """A table's rows, or a drawing's source."""
    if artifact["type"] == "table":
        return json.loads(artifact["data"]), ""
    head, _, data = artifact["data"].partition(",")
    assert (artifact["type"], head) == ("image", "data:image/svg+xml;base64")
    svg = b64decode(data, validate=True).decode()
    ElementTree.fromstring(svg)  # noqa: S314 - our own
    return [], svg


def test_a_run_shows_what_it_loaded(platform: Platform) -> None:
    """Delays by carrier and origin, the hours against the day loaded before, and what became of the rows."""
    for day in (DAY_BEFORE, DAY):
        flow_run_id = platform.accept(day)
        _, stderr = platform.execute(flow_run_id).communicate(timeout=RUN_SECONDS)
        assert platform.run(flow_run_id)["state_name"] == "Completed", stderr
    artifacts = platform.artifacts(flow_run_id)
    assert sorted(artifacts) == ["daily-job", *KEYS]

    delays, _ = shown(artifacts["etl-delays"])
    for by in ("carrier", "origin"):
        assert sum(row["flights"] for row in delays if row["by"] == by) == FLIGHTS_OF_THE_DAY
        expected = platform.query(
            f"SELECT {by}, count(*), count(*) - count(dep_delay), round(avg(dep_delay), 1)::float FROM flights"
            f" WHERE logical_date = $1 GROUP BY {by} ORDER BY {by}",
            DAY,
        )
        assert [
            (row["of"], row["flights"], row["cancelled"], row["mean delay (min)"]) for row in delays if row["by"] == by
        ] == expected

    _, svg = shown(artifacts["etl-delay-by-hour"])
    assert "mean of the 1 loaded date before, since 2026-01-14" in svg
    hours = platform.query(
        "SELECT DISTINCT sched_dep_time / 100 FROM flights WHERE logical_date = $1 AND dep_delay IS NOT NULL", DAY
    )
    assert svg.count(" min, ") == len(hours)

    quality, _ = shown(artifacts["etl-quality"])
    counts = {row["rows"]: row["count"] for row in quality}
    assert (counts["fetched"], counts["good"], counts["rejected"]) == (FLIGHTS_OF_THE_DAY, FLIGHTS_OF_THE_DAY, 0)
    assert [(counts["cancelled"], counts["without weather"])] == platform.query(
        "SELECT count(*) FILTER (WHERE dep_time IS NULL), count(*) FILTER (WHERE weather_visib IS NULL) FROM flights"
        " WHERE logical_date = $1",
        DAY,
    )


def test_a_run_whose_artifacts_are_refused_is_completed_all_the_same(platform: Platform, prefect_server: str) -> None:
    """It is not repeated, its day is loaded once, and the log has a warning with what to do for each."""
    gate = Gate(prefect_server, refuse_artifacts=True)
    flow_run_id = platform.accept()
    process = platform.execute(flow_run_id, PREFECT_API_URL=gate.url)
    _, stderr = process.communicate(timeout=RUN_SECONDS)
    gate.close()
    assert (process.returncode, platform.run(flow_run_id)["state_name"]) == (0, "Completed"), stderr
    assert (gate.refused, platform.artifacts(flow_run_id)) == (4, {})
    assert platform.query("SELECT count(*) FROM loads") == [(1,)]
    warnings = [line for line in platform.log_lines(flow_run_id) if line["step"] == "artifact not published"]
    assert sorted(line["artifact"] for line in warnings) == ["daily-job", *KEYS]
    assert [line for line in warnings if "PREFECT_API_URL" not in line["remedy"] or "500" not in line["reason"]] == []
