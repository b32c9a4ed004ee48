"""What Prefect's command does with three processes for a flow run, done by the one process of `python -m etl.start`."""

import asyncio
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from etl.deploy import register_within
from etl.registration import DAILY_JOB, Registration, WorkPool
from prefect.settings import PREFECT_API_URL, temporary_settings

from .outage import Outage
from .pods import RUN_SECONDS, Platform, eventually, signal_pod

FLOWS = Path(__file__).with_name("flows")
STOPPED_WITHIN_SECONDS = 10.0  # what etl.ending gives a flow to stop
GRACE_SECONDS = 30.0  # what Kubernetes gives a pod
PREFECT_GIVES_UP_SECONDS = 27.0  # how long the server may be away until Prefect's own observers stop
NAMES = ("sleeping", "awaiting", "blocking", "ablocking", "exiting", "starving", "asking", "telling", "stepping",
         "generating", "agenerating", "writing", "forking")  # fmt: skip


@dataclass(kw_only=True)
class Behaving:
    """The flows of flows/behaving.py, deployed, and processes that execute their runs as pods do."""

    platform: Platform
    deployments: dict[str, str]
    work: Path

    @property
    def prefect(self) -> httpx.Client:
        return self.platform.prefect

    def accept(self, name: str, **parameters: Any) -> str:
        """Create a run of the flow."""
        answer = self.prefect.post(
            f"/deployments/{self.deployments[name]}/create_flow_run",
            json={"parameters": parameters, "enforce_parameter_schema": False},
        )
        flow_run_id = str(answer.raise_for_status().json()["id"])
        self.platform.submit(flow_run_id)
        return flow_run_id

    def execute(self, flow_run_id: str, **environment: str) -> Any:
        """Start a pod's process."""
        path = os.pathsep.join([str(FLOWS), os.environ.get("PYTHONPATH", "")])
        own = {"PYTHONPATH": path, "MARKS": str(self.marks_of(flow_run_id)), "ETL_WAREHOUSE_URL": ""}
        return self.platform.execute(flow_run_id, cwd=self.work, **own | environment)

    def marks_of(self, flow_run_id: str) -> Path:
        return self.platform.home / flow_run_id

    def marks(self, flow_run_id: str) -> list[str]:
        """What the flow wrote down."""
        path = self.marks_of(flow_run_id)
        return path.read_text().splitlines() if path.exists() else []

    def begun(self, name: str, **environment: str) -> tuple[str, Any]:
        """A run whose flow is in the middle of it, and its process."""
        flow_run_id = self.accept(name)
        process = self.execute(flow_run_id, **environment)

        def has_begun() -> bool:
            assert process.poll() is None, process.communicate()[1]
            return bool(self.marks(flow_run_id))

        eventually(has_begun, within=RUN_SECONDS, what="the flow begins")
        return flow_run_id, process

    def cancel(self, flow_run_id: str) -> None:
        """Ask for the run's end, as people and the orchestrator do."""
        state = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        self.prefect.post(f"/flow_runs/{flow_run_id}/set_state", json=state).raise_for_status()

    def ended(self, flow_run_id: str, process: Any) -> tuple[int, dict[str, Any], str]:
        """The process's exit status, the run's state then, and what the process said."""
        _, stderr = process.communicate(timeout=RUN_SECONDS)
        state: dict[str, Any] = self.platform.run(flow_run_id)["state"]
        return process.returncode, state, stderr

    def events(self, flow_run_id: str, name: str) -> list[dict[str, Any]]:
        resource = {"id": [f"prefect.flow-run.{flow_run_id}"]}
        asked = {"filter": {"event": {"name": [name]}, "resource": resource}}
        found: list[dict[str, Any]] = (
            self.prefect.post("/events/filter", json=asked).raise_for_status().json()["events"]
        )
        return found


@pytest.fixture(scope="module")
def deployed(prefect_server: str) -> dict[str, str]:
    """The deployments' ids by flow."""
    name = f"behaving-{uuid.uuid4().hex[:8]}"
    one = DAILY_JOB.model_copy(update={"name": name, "schedules": ()})
    all_of_them = tuple(one.model_copy(update={"entrypoint": f"behaving.{flow}"}) for flow in NAMES)
    sys.path.insert(0, str(FLOWS))
    try:
        with temporary_settings({PREFECT_API_URL: prefect_server}):
            asyncio.run(
                register_within(Registration(work_pool=WorkPool(name=name), deployments=all_of_them), wait_seconds=10)
            )
    finally:
        sys.path.remove(str(FLOWS))
    with httpx.Client(base_url=prefect_server, timeout=30) as prefect:
        return {flow: prefect.get(f"/deployments/name/{flow}/{name}").raise_for_status().json()["id"] for flow in NAMES}


@pytest.fixture
def behaving(prefect_server: str, deployed: dict[str, str], tmp_path: Path) -> Iterator[Behaving]:
    (work := tmp_path / "work").mkdir()
    with httpx.Client(base_url=prefect_server, timeout=30) as prefect:
        platform = Platform(
            prefect=prefect, source=prefect, source_log=tmp_path, warehouse="", deployment_id="", home=tmp_path
        )
        yield Behaving(platform=platform, deployments=deployed, work=work)
        for process in platform.processes:
            if process.poll() is None:
                signal_pod(process, signal.SIGKILL)
            process.wait()
            if process.stderr is not None:
                process.stderr.close()


def test_a_run_is_one_process(behaving: Behaving) -> None:
    """No second interpreter, before the flow or beside it."""
    _, process = behaving.begun("sleeping")
    assert psutil.Process(process.pid).children(recursive=True) == []


@pytest.mark.parametrize("name", ["sleeping", "awaiting"])
def test_a_cancelled_run_cleans_up_and_ends(behaving: Behaving, name: str) -> None:
    """The flow is interrupted, its hooks are called once, one that fails harms none of the others; then Cancelled."""
    flow_run_id, process = behaving.begun(name)
    behaving.cancel(flow_run_id)
    status, state, stderr = behaving.ended(flow_run_id, process)
    assert (status, state["type"], state["message"]) == (0, "CANCELLED", "Flow run was cancelled successfully."), stderr
    assert behaving.marks(flow_run_id) == [
        "begun",
        "cleaned up",
        f"cancellation {flow_run_id} Cancelling",
        "asynchronous Cancelling",
    ]
    assert behaving.platform.states(flow_run_id)[-3:] == ["Running", "Cancelling", "Cancelled"]


@pytest.mark.parametrize("name", ["blocking", "ablocking"])
def test_a_cancelled_run_ends_though_its_flow_is_deep_in_c(behaving: Behaving, name: str) -> None:
    """No exception reaches a COPY or a sort; the process ends all the same, its hooks called and the state written."""
    flow_run_id, process = behaving.begun(name)
    behaving.cancel(flow_run_id)
    status, state, stderr = behaving.ended(flow_run_id, process)
    assert (status, state["type"]) == (0, "CANCELLED"), stderr
    assert f"cancellation {flow_run_id} Cancelling" in behaving.marks(flow_run_id)


def test_a_run_cancelled_before_its_process_began_does_not_run(behaving: Behaving) -> None:
    """The process finds it Cancelling, and ends it."""
    flow_run_id = behaving.accept("sleeping")
    behaving.cancel(flow_run_id)
    status, state, stderr = behaving.ended(flow_run_id, behaving.execute(flow_run_id))
    assert (status, state["type"]) == (0, "CANCELLED"), stderr
    assert "begun" not in behaving.marks(flow_run_id)


def test_a_cancellation_is_noticed_without_events(behaving: Behaving, prefect_server: str) -> None:
    """A proxy on the way refuses websockets; the run's state is asked for instead."""
    outage = Outage(prefect_server, no_events=True)
    flow_run_id, process = behaving.begun("sleeping", PREFECT_API_URL=outage.url)
    eventually(lambda: outage.refused_websockets, within=RUN_SECONDS, what="events are asked for")
    behaving.cancel(flow_run_id)
    status, state, stderr = behaving.ended(flow_run_id, process)
    outage.close()
    assert (status, state["type"]) == (0, "CANCELLED"), stderr


def test_a_cancellation_is_noticed_after_the_server_was_away(behaving: Behaving, prefect_server: str) -> None:
    """For longer than Prefect's own observers wait for it."""
    outage = Outage(prefect_server)
    flow_run_id, process = behaving.begun("sleeping", PREFECT_API_URL=outage.url)
    outage.begin()
    eventually(lambda: outage.turned_away > 1, within=RUN_SECONDS, what="the server is missed")
    time.sleep(PREFECT_GIVES_UP_SECONDS)
    behaving.cancel(flow_run_id)
    assert process.poll() is None
    outage.end()
    status, state, stderr = behaving.ended(flow_run_id, process)
    outage.close()
    assert (status, state["type"]) == (0, "CANCELLED"), stderr


@pytest.mark.parametrize("name", ["sleeping", "awaiting", "blocking", "ablocking"])
def test_sigterm_gives_a_run_back_whatever_its_flow_is_doing(behaving: Behaving, name: str) -> None:
    """Within the time that Kubernetes gives a pod, also where the signal reaches no Python code, and twice."""
    flow_run_id, process = behaving.begun(name)
    asked = time.monotonic()
    process.terminate()
    time.sleep(0.1)
    process.terminate()
    status, state, stderr = behaving.ended(flow_run_id, process)
    assert (status, state["name"]) == (0, "AwaitingRetry"), stderr
    assert time.monotonic() - asked < GRACE_SECONDS
    assert ("cleaned up" in behaving.marks(flow_run_id)) == ("blocking" not in name)


def test_sigterm_leaves_a_run_that_is_being_cancelled_cancelled(behaving: Behaving, prefect_server: str) -> None:
    """The orchestrator removes a cancelled run's Job; what the signal finds Cancelling is not executed again."""
    outage = Outage(prefect_server)
    flow_run_id, process = behaving.begun("sleeping", PREFECT_API_URL=outage.url)
    outage.begin()
    behaving.cancel(flow_run_id)
    process.terminate()
    outage.end()
    status, state, stderr = behaving.ended(flow_run_id, process)
    outage.close()
    assert (status, state["type"]) == (0, "CANCELLED"), stderr


@pytest.mark.parametrize("name", ["sleeping", "blocking"])
def test_sigterm_crashes_a_run_that_nobody_wants_back(behaving: Behaving, name: str) -> None:
    """As Prefect's engine does where no behaviour is set; the hooks are called, the status is the signal's."""
    flow_run_id, process = behaving.begun(name, PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR="crash")
    process.terminate()
    status, state, stderr = behaving.ended(flow_run_id, process)
    assert (status, state["type"]) == (128 + signal.SIGTERM, "CRASHED"), stderr
    assert state["message"] == "Execution was aborted by a termination signal."
    assert f"crashed {flow_run_id} Crashed" in behaving.marks(flow_run_id)


def test_sigterm_leaves_a_run_to_kubernetes_that_retries_it(behaving: Behaving) -> None:
    """Where the Job has a backoff limit, the worker asks for that: the state stays, the status makes the Job retry."""
    flow_run_id, process = behaving.begun("sleeping", PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR="relinquish")
    process.terminate()
    status, state, stderr = behaving.ended(flow_run_id, process)
    assert (status, state["name"]) == (1, "Running"), stderr


@pytest.mark.parametrize(
    ("entrypoint", "says"),
    [
        ("nowhere.to_be.found", "could not be loaded: ModuleNotFoundError: No module named 'nowhere'"),
        ("behaving.missing", "could not be loaded: RuntimeError: Function with name 'missing' not found in 'behaving'"),
        ("behaving.NO_FLOW", "could not be loaded: "),
        ("broken.flow", "could not be loaded: ZeroDivisionError: division by zero"),
        ("leaving.flow", "could not be loaded: SystemExit: 7"),
    ],
)
def test_a_flow_that_cannot_be_loaded_crashes_its_run_with_the_reason(
    behaving: Behaving, entrypoint: str, says: str
) -> None:
    """At once, with the error's own words in the state and the traceback in the run's log."""
    flow_run_id = behaving.accept("sleeping")
    changed = {"entrypoint": entrypoint}
    path = f"/deployments/{behaving.deployments['sleeping']}"
    behaving.prefect.patch(path, json=changed).raise_for_status()
    try:
        status, state, stderr = behaving.ended(flow_run_id, behaving.execute(flow_run_id))
    finally:
        behaving.prefect.patch(path, json={"entrypoint": "behaving.sleeping"}).raise_for_status()
    assert (status, state["type"]) == (0, "CRASHED"), stderr
    assert says in state["message"]
    asked = {"logs": {"flow_run_id": {"any_": [flow_run_id]}, "level": {"ge_": 40}}}
    logged = behaving.prefect.post("/logs/filter", json=asked).json()
    assert [line for line in logged if "Traceback" in line["message"]]


@pytest.mark.parametrize(
    ("name", "parameters", "ends", "says"),
    [
        ("asking", {"number": "seven"}, "FAILED", "Validation of flow parameters failed"),
        ("asking", {}, "CRASHED", "missing a required argument: 'number'"),
        ("asking", {"number": 1, "more": 2}, "CRASHED", "SignatureMismatchError"),
        ("exiting", {}, "CRASHED", "Execution was aborted by Python system exit call."),
        ("starving", {}, "FAILED", "MemoryError: out of it"),
    ],
)
def test_what_ends_a_flow_is_reported(
    behaving: Behaving, name: str, parameters: dict[str, Any], ends: str, says: str
) -> None:
    """With the state, the words and the hooks that Prefect's command gives; the process's status is 0, as its own."""
    flow_run_id = behaving.accept(name, **parameters)
    status, state, stderr = behaving.ended(flow_run_id, behaving.execute(flow_run_id))
    assert (status, state["type"]) == (0, ends), stderr
    assert says in state["message"]
    hook = {"FAILED": "failure", "CRASHED": "crashed"}[ends]
    assert [mark.split()[0] for mark in behaving.marks(flow_run_id)] == [hook]


def test_a_crash_that_cannot_be_reported_shows_in_the_status(behaving: Behaving, prefect_server: str) -> None:
    """A run that is gone from Prefect: the worker, which looks at the Job, is left to say so."""
    flow_run_id, process = behaving.begun("sleeping")
    behaving.prefect.delete(f"/flow_runs/{flow_run_id}").raise_for_status()
    process.terminate()
    process.communicate(timeout=RUN_SECONDS)
    assert process.returncode == 1


def test_a_killed_process_says_nothing(behaving: Behaving) -> None:
    """Out of memory is a SIGKILL: the status is all there is, and the worker's to report, by the Job."""
    flow_run_id, process = behaving.begun("sleeping")
    process.kill()
    status, state, stderr = behaving.ended(flow_run_id, process)
    assert (status, state["name"]) == (-signal.SIGKILL, "Running"), stderr


def test_all_is_sent_when_the_process_ends(behaving: Behaving) -> None:
    """Every line that the flow logged up to its end, the engine's last one, and the task's state, which is an event."""
    flow_run_id = behaving.accept("telling", lines=300)
    status, state, stderr = behaving.ended(flow_run_id, behaving.execute(flow_run_id))
    assert (status, state["name"]) == (0, "Completed"), stderr
    messages = []
    for offset in (0, 200):
        asked = {"logs": {"flow_run_id": {"any_": [flow_run_id]}}, "limit": 200, "offset": offset}
        messages += [line["message"] for line in behaving.prefect.post("/logs/filter", json=asked).json()]
    assert {f"line {number}" for number in range(300)} <= set(messages)
    assert "counted 300" in messages
    assert [message for message in messages if message.startswith("Finished in state Completed()")]
    of_the_run = {"flow_runs": {"id": {"any_": [flow_run_id]}}}

    def task_states() -> list[str]:
        return [run["state_name"] for run in behaving.prefect.post("/task_runs/filter", json=of_the_run).json()]

    eventually(lambda: task_states() == ["Completed"], within=RUN_SECONDS, what="the task's state")


@pytest.mark.parametrize("name", ["generating", "agenerating"])
def test_a_generator_runs_to_its_end(behaving: Behaving, name: str) -> None:
    """Both kinds of generator."""
    flow_run_id = behaving.accept(name)
    status, state, stderr = behaving.ended(flow_run_id, behaving.execute(flow_run_id))
    assert (status, state["name"]) == (0, "Completed"), stderr
    assert behaving.marks(flow_run_id) == ["generated"]


def test_a_signal_to_a_flows_own_process_is_not_the_runs(behaving: Behaving) -> None:
    """A pool of forked processes is ended by SIGTERM: the run goes on."""
    flow_run_id = behaving.accept("forking")
    status, state, stderr = behaving.ended(flow_run_id, behaving.execute(flow_run_id))
    assert (status, state["name"]) == (0, "Completed"), stderr
    assert behaving.marks(flow_run_id) == ["9", "ended"]


def test_a_run_gives_signs_of_life_from_its_beginning_on(behaving: Behaving) -> None:
    """The automation that finds lost runs needs the first, and knows the run by its deployment."""
    flow_run_id, _ = behaving.begun("sleeping")

    def heartbeats() -> list[dict[str, Any]]:
        return behaving.events(flow_run_id, "prefect.flow-run.heartbeat")

    [beat] = eventually(heartbeats, within=RUN_SECONDS, what="a heartbeat")
    related = {one["prefect.resource.id"]: one["prefect.resource.role"] for one in beat["related"]}
    assert related[f"prefect.deployment.{behaving.deployments['sleeping']}"] == "deployment"
    [running] = behaving.events(flow_run_id, "prefect.flow-run.Running")
    assert running["occurred"] < beat["occurred"]


def test_a_suspended_run_stops_at_its_next_step(behaving: Behaving) -> None:
    """The process ends, and the run stays Suspended for whoever resumes it."""
    flow_run_id, process = behaving.begun("stepping")
    suspended = {"state": {"type": "PAUSED", "name": "Suspended"}, "force": True}
    behaving.prefect.post(f"/flow_runs/{flow_run_id}/set_state", json=suspended).raise_for_status()
    status, state, stderr = behaving.ended(flow_run_id, process)
    assert (status, state["name"]) == (0, "Suspended"), stderr


def test_a_flow_works_in_a_copy_of_the_working_directory(behaving: Behaving) -> None:
    """As with Prefect's command: it finds what is there, and may write where the image's own directory is read-only."""
    (behaving.work / "given.txt").write_text("given")
    flow_run_id = behaving.accept("writing")
    status, state, stderr = behaving.ended(flow_run_id, behaving.execute(flow_run_id))
    assert (status, state["name"]) == (0, "Completed"), stderr
    assert behaving.marks(flow_run_id) == ["given"]
    assert [path.name for path in behaving.work.iterdir()] == ["given.txt"]


def test_a_deployment_that_fetches_its_code_is_executed_by_prefects_command(behaving: Behaving) -> None:
    """Pull steps, storages and files are resolved as ever."""
    flow_run_id = behaving.accept("generating")
    path = f"/deployments/{behaving.deployments['generating']}"
    steps = [{"prefect.deployments.steps.set_working_directory": {"directory": str(FLOWS)}}]
    behaving.prefect.patch(path, json={"entrypoint": "behaving.py:generating", "pull_steps": steps}).raise_for_status()
    try:
        status, state, stderr = behaving.ended(flow_run_id, behaving.execute(flow_run_id, PYTHONPATH=""))
    finally:
        restored = {"entrypoint": "behaving.generating", "pull_steps": []}
        behaving.prefect.patch(path, json=restored).raise_for_status()
    assert (status, state["name"]) == (0, "Completed"), stderr
    assert behaving.marks(flow_run_id) == ["generated"]
