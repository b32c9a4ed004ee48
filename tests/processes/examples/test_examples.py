"""What a reader of the examples sees."""

import csv
import json
import re
from pathlib import Path

import httpx
import pytest
from etl.registration import Registration

from .conftest import EXAMPLES, Reader


def steps(output: str) -> dict[int, str]:
    """The numbered steps of an output."""
    parts = re.split(r"^(\d)\. ", output, flags=re.MULTILINE)
    return {int(number): text for number, text in zip(parts[1::2], parts[2::2], strict=True)}


def test_the_basic_flow_needs_nothing(reader: Reader, request: pytest.FixtureRequest) -> None:
    """No server, no source, no network: the flow completes, and the reader's own Prefect is not touched."""
    process = reader.start(str(EXAMPLES / "01_basic_flow.py"))
    # Prefect's temporary server takes its time, and so does the one of the tests below: here both start at once.
    request.getfixturevalue("prefect_server")
    output = reader.finish(process, temporary_server=True)
    assert "extract    8 flights" in output
    assert "transform  5 carriers: AA, B6, EV, UA, US" in output
    assert "report     B6 left 88.5 minutes late on average" in output
    assert "The flow run ended in the state Completed (type COMPLETED)." in output
    assert list(reader.home.iterdir()) == []
    assert (reader.folder / ".local/examples/prefect").is_dir()


def test_retries_and_timeouts(reader_with_server: Reader) -> None:
    """What may pass is tried again, a refusal is not, and silence is ended."""
    seen = steps(reader_with_server.run("02_retries_and_timeouts.py"))
    attempts = {number: text.count("attempt") - text.count("ends the attempt") for number, text in seen.items()}
    assert attempts == {1: 3, 2: 4, 3: 1, 4: 1}
    states = {number: re.findall(r"^    (\w+) after", text, re.MULTILINE) for number, text in seen.items()}
    assert states == {1: ["Completed"], 2: ["Failed"], 3: ["Failed"], 4: ["TimedOut"]}
    assert re.findall(r"answered (\d+)\n", seen[1]) == ["503", "503", "200"]
    assert "SourceRefused: the source answered 404" in seen[3]
    assert "The flow run ended in the state Completed: four failures seen." in seen[4]
    with httpx.Client(base_url=reader_with_server.environment["PREFECT_API_URL"], trust_env=False) as api:
        runs = {
            "flows": {"name": {"any_": ["retries_and_timeouts"]}},
            "flow_runs": {"state": {"name": {"any_": ["Completed"]}}},
        }
        assert api.post("/flow_runs/count", json=runs).raise_for_status().json() == 1


@pytest.mark.parametrize("source", ["offline", "running"])
def test_the_circuit_opens_and_closes_again(source: str, reader: Reader, request: pytest.FixtureRequest) -> None:
    """Closed, open, half-open, open again, half-open, closed; requests are sent in the right moments only."""
    flights = {"offline": 8, "running": 958}[source]
    if source == "running":
        reader = Reader(folder=reader.folder, environment={"ETL_SOURCE_URL": request.getfixturevalue("source_url")})
    output = reader.run("03_resilience_patterns.py")
    assert re.findall(r"circuit source: (.+)", output) == [
        "closed → open",
        "open → half-open",
        "half-open → open",
        "open → half-open",
        "half-open → closed",
    ]
    seen = steps(output)
    sent = {number: re.findall(r"sent one request → (\d+)", text) for number, text in seen.items()}
    assert sent == {1: ["200"], 2: ["503"] * 2, 3: ["503"], 4: [], 5: [], 6: ["503"], 7: [], 8: ["200"]}
    outcomes = {number: re.findall(r"=> (\w+): .*\[circuit (.+)]", text) for number, text in seen.items()}
    assert outcomes == {
        1: [("Completed", "closed")],
        2: [("Degraded", "closed")],
        3: [("Degraded", "open")],
        4: [("Degraded", "open")],
        5: [("Failed", "open")],
        6: [("Degraded", "open")],
        7: [("Degraded", "open")],
        8: [("Completed", "closed")],
    }
    assert f"{flights} flights, fresh" in seen[8]
    assert f"the last good copy has {flights} flights" in seen[4]
    assert "2025-03-02 was never loaded" in seen[5]


def test_the_schedule_follows_the_clock_on_the_wall(reader: Reader) -> None:
    """09:00 in Madrid on every day; in UTC an hour earlier in summer; 23 and 25 hours apart when the clocks change."""
    output = reader.run("04_scheduling.py")
    line = r"(\d\d \w{3} \d{4}) (\d\d:\d\d) Madrid = (\d\d:\d\d) UTC +logical date (\S+)(?: +(\d+) h later)?"
    sections = {part.splitlines()[0].partition(":")[0]: re.findall(line, part) for part in output.split("\n\n")}
    assert sections["Spring"] == [
        ("28 Mar 2026", "09:00", "08:00", "2026-03-27", ""),
        ("29 Mar 2026", "09:00", "07:00", "2026-03-28", "23"),
        ("30 Mar 2026", "09:00", "07:00", "2026-03-29", "24"),
    ]
    assert sections["Autumn"] == [
        ("24 Oct 2026", "09:00", "07:00", "2026-10-23", ""),
        ("25 Oct 2026", "09:00", "08:00", "2026-10-24", "25"),
        ("26 Oct 2026", "09:00", "08:00", "2026-10-25", "24"),
    ]
    [upcoming] = [found for name, found in sections.items() if name.startswith("The next runs")]
    assert [at for _, at, *_ in upcoming] == ["09:00"] * 3
    [in_utc] = [found for name, found in sections.items() if name.startswith("Without a timezone")]
    assert [at for _, at, *_ in in_utc] == ["09:00", "10:00", "10:00"]
    [night] = [found for name, found in sections.items() if name.startswith("At half past two")]
    assert [at for _, at, *_ in night] == ["02:30", "03:30", "02:30"]


def test_without_a_server_the_deployment_is_only_shown(reader: Reader) -> None:
    """What it prints is a file that etl.deploy takes."""
    output = reader.run("04_build_deployment.py")
    said, _, document = output.partition("\n\n")
    assert "No PREFECT_API_URL is set" in said
    [deployment] = Registration.model_validate(json.loads(document)).deployments
    [schedule] = deployment.schedules
    assert (schedule.cron, schedule.timezone) == ("0 9 * * *", "Europe/Madrid")


def test_with_a_server_the_deployment_is_registered(reader_with_server: Reader) -> None:
    """Created, then updated; paused by a person and paused still."""
    seen = steps(reader_with_server.run("04_build_deployment.py"))
    assert "deployment daily_job/example-0900: created" in seen[1]
    assert ", paused" in seen[2]
    assert "deployment daily_job/example-0900: updated, still paused" in seen[3]
    api = reader_with_server.environment["PREFECT_API_URL"]
    answer = httpx.get(f"{api}/deployments/name/daily_job/example-0900", trust_env=False).raise_for_status().json()
    assert answer["paused"] is True
    assert [one["schedule"]["cron"] for one in answer["schedules"]] == ["0 9 * * *"]
    assert [one["schedule"]["timezone"] for one in answer["schedules"]] == ["Europe/Madrid"]


def test_each_run_leaves_a_line(reader_with_server: Reader) -> None:
    """Two programs that log at the same time share one header; a failed run is there too, with its reason."""
    processes = [reader_with_server.start(str(EXAMPLES / "05_run_logger.py")) for _ in range(2)]
    for process in processes:
        output = reader_with_server.finish(process)
        assert "1. A run that goes well: Completed" in output
        assert "2. A run whose source is away: Failed" in output
        assert output.count("| count_flights | Failed |") >= 1
    rows = lines_of(reader_with_server.folder / "runs/metrics.csv")
    assert (
        sorted((row["flow"], row["state"]) for row in rows)
        == [("count_flights", "Completed")] * 2 + [("count_flights", "Failed")] * 2
    )
    for row in rows:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", row["timestamp"])
        assert 0 <= int(row["duration_ms"]) < 60_000
        assert row["notes"].startswith("run_id=")
        assert ("503 Service Unavailable" in row["notes"]) == (row["state"] == "Failed")


# Writes a line into each of many new files, every 5 ms the next, at the same instants as the other writers.
WRITER = """
import runpy, sys, time
from pathlib import Path

example, me, writers, files = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
sys.path.insert(0, str(Path(example).parent))
append = runpy.run_path(example)["append"]
Path(f"ready-{me}").touch()
deadline = time.monotonic() + 60
while len(ready := list(Path().glob("ready-*"))) < writers:
    assert time.monotonic() < deadline, "the other writers never came"
    time.sleep(0.001)
begin = max(one.stat().st_mtime for one in ready) + 0.1
for number in range(files):
    while time.time() < begin + number * 0.005:
        pass
    append(("now", f"flow-{me}", "Completed", "1", "x" * 20_000), to=Path(f"runs/{number}/metrics.csv"))
"""


def test_many_processes_may_append(reader: Reader) -> None:
    """Two processes find a file empty in the same instant, two hundred times: always one header and two whole lines."""
    example = str(EXAMPLES / "05_run_logger.py")
    for process in [reader.start("-c", WRITER, example, str(me), "2", "200") for me in range(2)]:
        reader.finish(process)
    for number in range(200):
        rows = lines_of(reader.folder / f"runs/{number}/metrics.csv")
        assert sorted((row["flow"], row["notes"]) for row in rows) == [(f"flow-{me}", "x" * 20_000) for me in range(2)]


def lines_of(log: Path) -> list[dict[str, str]]:
    """The run log's lines; the header is its first line and no other."""
    text = log.read_text(encoding="utf-8")
    header = "timestamp,flow,state,duration_ms,notes"
    assert text.startswith(header)
    assert text.count(header) == 1
    return list(csv.DictReader(text.splitlines()))
