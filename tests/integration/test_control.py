"""What people and accidents do to runs on a cluster: cancel, backfill, and a second pod of a run that is going on."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from .platform import Kubectl, Platform, Release, eventually

RUN_SECONDS = 180


@pytest.fixture
def slow_source(platform: Platform) -> Iterator[None]:
    """A source that takes its time, so that a run can be met while it is going on."""
    platform.source.put("/faults", json={"kind": "latency", "seconds": 12, "paths": ["/flights"]}).raise_for_status()
    yield
    platform.source.delete("/faults").raise_for_status()


def running(platform: Platform, run_id: str) -> dict[str, Any]:
    """The run's status once its own process has taken it up."""

    def begun() -> dict[str, Any] | None:
        status = platform.status(run_id)
        return status if status["state"] == "Running" else None

    return eventually(begun, within=RUN_SECONDS, what=f"run {run_id} is Running")


def rows(release: Release, day: str) -> int:
    return int(release.query("warehouse", f"SELECT count(*) FROM flights WHERE logical_date = '{day}'")[0][0])


@pytest.mark.usefixtures("slow_source")
def test_a_running_run_is_cancelled(release: Release, platform: Platform) -> None:
    """Cancelled within a minute, and it has loaded nothing."""
    run_id = platform.start({"logical_date": "2013-06-01"})
    running(platform, run_id)
    answer = platform.api.post(f"/api/etl/cancel/{run_id}")
    assert answer.status_code == 202, answer.text
    status = platform.finished(run_id, within=60)
    assert status["state"] == "Cancelled", status
    assert release.query("warehouse", f"SELECT count(*) FROM loads WHERE run_id = '{run_id}'") == [["0"]]
    assert platform.api.post(f"/api/etl/cancel/{run_id}").status_code == 409


@pytest.mark.usefixtures("slow_source")
def test_a_second_pod_of_a_run_does_nothing(release: Release, platform: Platform, kubectl: Kubectl) -> None:
    """A copy of the run's Job, started while it runs, ends as if it had not been; the run completes, loaded once."""
    run_id = platform.start({"logical_date": "2013-06-02"})
    flow_run_id = running(platform, run_id)["flow_run_id"]
    [job] = kubectl.items("jobs", "--selector", f"prefect.io/flow-run-id={flow_run_id}")
    spec = job["spec"]
    del spec["selector"]
    # Not the worker's label: what is not Prefect's Job is not watched as one.
    spec["template"]["metadata"]["labels"] = {
        key: value
        for key, value in spec["template"]["metadata"]["labels"].items()
        if key.startswith("app.kubernetes.io/")
    }
    copy = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "second-pod"}, "spec": spec}
    kubectl("create", "--filename", "-", stdin=json.dumps(copy))
    try:
        kubectl("wait", "--for=condition=complete", "job/second-pod", "--timeout=60s")
        assert "another process is executing the run" in kubectl("logs", "job/second-pod")
        assert platform.finished(run_id, within=RUN_SECONDS)["state"] == "Completed"
        assert release.query("warehouse", f"SELECT count(*) FROM loads WHERE run_id = '{run_id}'") == [["1"]]
    finally:
        kubectl("delete", "job", "second-pod", "--wait=false")


def test_a_backfill_makes_exactly_what_it_showed(release: Release, platform: Platform) -> None:
    """Preview, create by its digest, follow; then nothing of the range is missing, and every change was announced."""
    asked = {"from": "2013-07-01", "to": "2013-07-03", "mode": "all", "max_concurrent": 2}
    shown = platform.api.post("/api/etl/backfill", json=asked).raise_for_status().json()
    assert shown["count"] == 3

    completed: set[str] = set()
    connected = threading.Event()

    def follow() -> None:
        with platform.api.stream("GET", "/api/etl/events", timeout=RUN_SECONDS) as stream:
            connected.set()
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    change = json.loads(line.removeprefix("data:"))
                    if change["state"] == "Completed":
                        completed.add(change["run_id"])
                if len(completed) == 3:
                    return

    follower = threading.Thread(target=follow)
    follower.start()
    assert connected.wait(30), "the event stream did not open within 30 s"

    created = platform.api.post("/api/etl/backfill", json={**asked, "digest": shown["digest"]})
    assert created.status_code == 202, created.text
    backfill = created.json()["backfill_id"]

    def finished() -> dict[str, Any] | None:
        progress: dict[str, Any] = platform.api.get(f"/api/etl/backfill/{backfill}").raise_for_status().json()
        return progress if progress["status"] == "finished" else None

    progress = eventually(finished, within=RUN_SECONDS, what=f"backfill {backfill} finished")
    assert progress["counts"] == {"Completed": 3}
    assert all(rows(release, f"2013-07-0{day}") > 0 for day in (1, 2, 3))
    missing = {**asked, "mode": "missing"}
    assert platform.api.post("/api/etl/backfill", json=missing).json()["count"] == 0
    follower.join(timeout=30)
    assert len(completed) == 3


def test_a_pod_executes_one_day_after_another(release: Release, platform: Platform, kubectl: Kubectl) -> None:
    """A backfill with several runs a pod needs few pods, and each day is a run as whole as any."""
    query = (
        "SELECT count(*), count(DISTINCT run_id) FROM loads WHERE logical_date BETWEEN '2013-08-01' AND '2013-08-12'"
    )
    loads = release.query("warehouse", query)
    before = {job["metadata"]["name"] for job in kubectl.items("jobs")}
    asked = {"from": "2013-08-01", "to": "2013-08-12", "mode": "all", "max_concurrent": 2, "runs_per_pod": 100}
    shown = platform.api.post("/api/etl/backfill", json=asked).raise_for_status().json()
    created = platform.api.post("/api/etl/backfill", json={**asked, "digest": shown["digest"]}).raise_for_status()

    def finished() -> dict[str, Any] | None:
        progress: dict[str, Any] = platform.api.get(created.headers["Location"]).raise_for_status().json()
        return progress if progress["status"] == "finished" else None

    progress = eventually(finished, within=RUN_SECONDS, what="the backfill is finished")
    assert progress["counts"] == {"Completed": 12}
    assert release.query("warehouse", query) == [[str(int(count) + 12) for count in loads[0]]]
    made = {job["metadata"]["name"] for job in kubectl.items("jobs")} - before
    # two to begin with; another only where a pod waited for its next run in vain
    assert 2 <= len(made) <= 4, made


@pytest.mark.usefixtures("slow_source")
def test_a_run_in_anothers_pod_is_cancelled_alone(platform: Platform, kubectl: Kubectl) -> None:
    """It ends Cancelled; the next day is executed all the same."""
    asked = {"from": "2013-08-21", "to": "2013-08-23", "mode": "all", "max_concurrent": 1, "runs_per_pod": 100}
    days = ("2013-08-22", "2013-08-23")

    def runs(day: str) -> list[dict[str, Any]]:
        found = platform.api.get("/api/etl/runs", params={"logical_date": day}).raise_for_status().json()
        return list(found["runs"])

    earlier = {run["run_id"] for day in days for run in runs(day)}
    shown = platform.api.post("/api/etl/backfill", json=asked).raise_for_status().json()
    platform.api.post("/api/etl/backfill", json={**asked, "digest": shown["digest"]}).raise_for_status()

    def of(day: str) -> dict[str, Any] | None:
        begun = (run for run in runs(day) if run["run_id"] not in earlier and run["state"] != "Scheduled")
        return next(begun, None)

    second = eventually(lambda: of(days[0]), within=RUN_SECONDS, what="the second day is begun")
    running(platform, second["run_id"])
    flow_run_id = platform.status(second["run_id"])["flow_run_id"]
    assert kubectl.items("jobs", "--selector", f"prefect.io/flow-run-id={flow_run_id}") == [], "it has a Job of its own"
    assert platform.api.post(f"/api/etl/cancel/{second['run_id']}").status_code == 202
    assert platform.finished(second["run_id"], within=60)["state"] == "Cancelled"
    platform.source.delete("/faults").raise_for_status()
    third = eventually(lambda: of(days[1]), within=RUN_SECONDS, what="the third day is begun")
    assert platform.finished(third["run_id"], within=RUN_SECONDS)["state"] == "Completed"
