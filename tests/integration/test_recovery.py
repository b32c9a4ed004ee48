"""Runs that stop on their way, on a cluster: rerun after a lost pod or Job, ended by a deadline, cancelled."""

import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ..faults.cluster import Hands
from .conftest import ROOT
from .platform import Kubectl, Platform, Release, eventually

RUN_SECONDS = 240
START_DEADLINE_SECONDS = 45

log = logging.getLogger(__name__)

HASTY: dict[str, Any] = {
    "name": "hasty",
    "flow": "daily_job",
    "deployment": "hasty",
    "entrypoint": "etl.flow.daily_job",
    "workQueue": "week-10",
    "description": "The daily job for those who do not wait.",
    "startDeadlineSeconds": START_DEADLINE_SECONDS,
    "maxAttempts": 2,
}


@pytest.fixture(scope="module", autouse=True)
def hasty(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A second pipeline, which waits for a start less than a minute and tries twice."""
    values = tmp_path_factory.mktemp("values") / "hasty.yaml"
    declared = yaml.safe_load((ROOT / "charts" / "pipelines" / "values.yaml").read_text())["pipelines"]
    values.write_text(json.dumps({"pipelines": [*declared, HASTY]}))
    release.up(values)
    yield
    release.up()


@pytest.fixture(scope="module")
def platform(release: Release, hasty: None) -> Iterator[Platform]:
    """The HTTP APIs: the upgrade has replaced the pods that earlier doors lead to."""
    with Platform.connect(release) as platform:
        yield platform


@pytest.fixture
def slow_source(platform: Platform) -> Iterator[None]:
    """A source that takes its time, so that a run can be met while it is going on."""
    platform.source.put("/faults", json={"kind": "latency", "seconds": 15, "paths": ["/flights"]}).raise_for_status()
    yield
    platform.source.delete("/faults").raise_for_status()


def in_state(platform: Platform, run_id: str, state: str, *, pipeline: str = "etl", within: float) -> dict[str, Any]:
    def is_there() -> dict[str, Any] | None:
        status = platform.status(run_id, pipeline=pipeline)
        return status if status["state"] == state else None

    return eventually(is_there, within=within, what=f"run {run_id} of {pipeline} is {state}")


def unschedulable(platform: Platform, *, pipeline: str) -> str:
    """A run that asks for more CPU than any node has, made in Prefect; the orchestrator adopts it under its id."""
    deployment = "hasty" if pipeline == "hasty" else "daily-0900"
    found = platform.prefect.get(f"/deployments/name/daily_job/{deployment}").raise_for_status().json()
    body = {"job_variables": {"cpu_request": "900"}, "parameters": {"logical_date": "2013-08-09"}}
    made = platform.prefect.post(f"/deployments/{found['id']}/create_flow_run", json=body).raise_for_status().json()
    flow_run_id = str(made["id"])

    def adopted() -> bool:
        return platform.api.get(f"/api/{pipeline}/status/{flow_run_id}").status_code == 200

    eventually(adopted, within=60, what=f"flow run {flow_run_id} is known to the API")
    return flow_run_id


def jobs(kubectl: Kubectl, flow_run_id: str) -> list[Any]:
    return kubectl.items("jobs", "--selector", f"prefect.io/flow-run-id={flow_run_id}")


def executing(platform: Platform, run_id: str, flow_run_id: str, *, attempt: int, pipeline: str = "etl") -> None:
    """Wait until a process of that attempt has begun the flow: the API counts a crash before the rerun is under way."""

    def begun() -> bool:
        status = platform.status(run_id, pipeline=pipeline)
        assert status["state"] not in {"Crashed", "Failed", "Cancelled"}, status
        run = platform.prefect.get(f"/flow_runs/{flow_run_id}").raise_for_status().json()
        told = (status["attempt"], run["state_type"], run["run_count"])
        return bool(told == (attempt, "RUNNING", attempt))

    eventually(begun, within=RUN_SECONDS, what=f"attempt {attempt} of run {run_id} executes the flow")


def kill(kubectl: Kubectl, flow_run_id: str) -> None:
    """SIGKILL from the node: nothing of the run has a last word."""
    hands = Hands(kubectl)
    pods = hands.pods(f"prefect.io/flow-run-id={flow_run_id}")
    assert any(hands.kill(pod) for pod in pods), f"flow run {flow_run_id} has no process to kill"


def loaded_once(release: Release, run_id: str, flow_run_id: str) -> None:
    """Two executions, each under a fence of its own, and one load."""
    fences = release.query("warehouse", f"SELECT count(*) FROM claims WHERE flow_run_id = '{flow_run_id}'")
    assert fences == [["2"]]
    assert release.query("warehouse", f"SELECT count(*) FROM loads WHERE run_id = '{run_id}'") == [["1"]]


@pytest.mark.usefixtures("slow_source")
def test_a_run_whose_process_is_lost_is_rerun(release: Release, platform: Platform, kubectl: Kubectl) -> None:
    """Killed while Running: one more attempt under one new fence, the day loaded once, never over in between."""
    run_id = platform.start({"logical_date": "2013-08-01"})
    flow_run_id = in_state(platform, run_id, "Running", within=RUN_SECONDS)["flow_run_id"]
    lost_at = time.monotonic()
    kill(kubectl, flow_run_id)
    executing(platform, run_id, flow_run_id, attempt=2)
    log.info("pod killed → running again: %.1f s", time.monotonic() - lost_at)
    status = platform.finished(run_id, within=RUN_SECONDS)
    assert (status["state"], status["attempt"]) == ("Completed", 2), status
    loaded_once(release, run_id, flow_run_id)


@pytest.mark.usefixtures("slow_source")
def test_a_run_whose_job_is_deleted_is_resumed(release: Release, platform: Platform, kubectl: Kubectl) -> None:
    """Deleted by hand while Running: the pod gives the run back while it has the time, and it is loaded once."""
    run_id = platform.start({"logical_date": "2013-08-02"})
    flow_run_id = in_state(platform, run_id, "Running", within=RUN_SECONDS)["flow_run_id"]
    [job] = jobs(kubectl, flow_run_id)
    kubectl("delete", "job", job["metadata"]["name"], "--wait=false")
    status = platform.finished(run_id, within=RUN_SECONDS)
    assert status["state"] == "Completed", status
    loaded_once(release, run_id, flow_run_id)


def test_a_run_that_cannot_start_is_ended_by_its_deadline(platform: Platform, kubectl: Kubectl) -> None:
    """Crashed, with what held it, no further attempt, and its Job is gone."""
    run_id = unschedulable(platform, pipeline="hasty")
    status = platform.finished(run_id, within=START_DEADLINE_SECONDS + 120, pipeline="hasty")
    assert (status["state"], status["attempt"], status["max_attempts"]) == ("Crashed", 1, 2), status
    assert f"not started within {START_DEADLINE_SECONDS} s" in status["message"]
    assert "PL010" in status["message"]
    eventually(lambda: not jobs(kubectl, run_id), within=60, what="the run's Job is gone")


def test_a_run_that_never_started_is_cancelled_in_seconds(platform: Platform, kubectl: Kubectl) -> None:
    """Its pod waits for a node: it is Cancelled at once, and its Job is gone."""
    run_id = unschedulable(platform, pipeline="etl")
    eventually(lambda: jobs(kubectl, run_id), within=90, what="the run has a Job")
    in_state(platform, run_id, "Pending", within=60)
    asked_at = time.monotonic()
    assert platform.api.post(f"/api/etl/cancel/{run_id}").status_code == 202
    status = platform.finished(run_id, within=60)
    log.info("cancelled before its start: %.1f s", time.monotonic() - asked_at)
    assert status["state"] == "Cancelled", status
    eventually(lambda: not jobs(kubectl, run_id), within=60, what="the run's Job is gone")


@pytest.mark.usefixtures("slow_source")
def test_attempts_are_limited(platform: Platform, kubectl: Kubectl) -> None:
    """A run whose pods are all killed is Crashed after the second, and says so."""
    run_id = platform.start({"logical_date": "2013-08-03"}, pipeline="hasty")
    flow_run_id = in_state(platform, run_id, "Running", within=RUN_SECONDS, pipeline="hasty")["flow_run_id"]
    for attempt in (1, 2):
        executing(platform, run_id, flow_run_id, attempt=attempt, pipeline="hasty")
        kill(kubectl, flow_run_id)
    status = platform.finished(run_id, within=RUN_SECONDS, pipeline="hasty")
    assert (status["state"], status["attempt"]) == ("Crashed", 2), status
