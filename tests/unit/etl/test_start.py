"""The flow pod's entry until the flow begins: a bounded wait for the API, a claim, and SIGTERM meanwhile."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import pytest
from etl import claim
from etl.prefect_api import ApiRefused, PrefectApi, Scheduled

RUN = UUID("6f1d1c5e-4d0b-4a43-9b1a-3d2f0e6c7a88")
NOBODY = "http://127.0.0.1:9/api"


class Api(BaseHTTPRequestHandler):
    """Prefect's answers about one flow run: 503 as often as told, then its state and its timeline."""

    failures = 0
    status = 200
    state_type = "PENDING"
    authorizations: ClassVar[set[str | None]] = set()
    proposed: ClassVar[list[Any]] = []
    tags: ClassVar[list[str]] = ["correlation-id:order-7"]

    def do_GET(self) -> None:
        type(self).failures -= 1
        type(self).authorizations.add(self.headers["Authorization"])
        self.send_response(503 if type(self).failures >= 0 else self.status)
        self.end_headers()
        timeline = [
            {"type": "SCHEDULED", "timestamp": "2026-01-16T09:00:00Z"},
            {"type": "SCHEDULED", "name": "AwaitingRetry", "timestamp": "2026-01-16T09:05:00.5Z"},
            {"type": "SCHEDULED", "name": "Late", "timestamp": "2026-01-16T09:05:20Z"},
            {"type": self.state_type, "timestamp": "2026-01-16T09:06:00Z"},
        ]
        answers: dict[str, object] = {
            f"/api/flow_runs/{RUN}": {"state_type": self.state_type, "tags": self.tags, "deployment_id": "one"},
            "/api/deployments/one": {"entrypoint": "flows.py:daily", "pull_steps": [{}]},
        }
        answer = answers.get(self.path, timeline)
        self.wfile.write(json.dumps(answer).encode())

    def do_POST(self) -> None:
        self.proposed.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))["state"]))
        self.send_response(201)
        self.end_headers()
        self.wfile.write(b'{"status": "ACCEPT", "details": {}}')

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing: the tests read what the entry says."""


@pytest.fixture
def api() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Api)
    Api.failures, Api.status, Api.state_type, Api.authorizations = 0, 200, "PENDING", set()
    Api.proposed = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_api_that_comes_back_is_waited_for(api: str) -> None:
    """Two refusals, then an answer: the wait ends with it, and the attempt is the last time the run was scheduled."""
    Api.failures = 2
    run = PrefectApi(api, auth_string="user:pass").read_flow_run(RUN, within_seconds=10)
    attempt = datetime(2026, 1, 16, 9, 5, 0, 500_000, tzinfo=UTC)
    assert run == Scheduled(state_type="PENDING", attempt=attempt, correlation_id="order-7")
    assert Api.authorizations == {"Basic dXNlcjpwYXNz"}


def test_an_api_that_never_answers_ends_the_wait() -> None:
    """The text names the API, the time and the last reason."""
    with pytest.raises(TimeoutError, match=r"http://127.0.0.1:9/api did not answer within 0.3 s: .*refused"):
        PrefectApi(NOBODY, auth_string=None).read_flow_run(RUN, within_seconds=0.3)


def test_a_connection_is_tried_anew_long_before_tcp_does(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a new pod the first packets are lost. Once it is there, an answer has the time that it has."""
    connect = socket.create_connection
    given: list[float] = []

    def lost_at_first(address: tuple[str, int], timeout: float, source_address: None = None) -> socket.socket:
        given.append(timeout)
        if len(given) < 6:
            raise TimeoutError
        connected.append(connect(address, timeout, source_address))
        return connected[-1]

    connected: list[socket.socket] = []
    monkeypatch.setattr(socket, "create_connection", lost_at_first)
    PrefectApi(api, auth_string=None).read_flow_run(RUN, within_seconds=0)
    first, again = given[:6], given[6:]
    assert first == sorted(first)
    assert sum(first) < 1.0
    assert again == first[:1]
    assert [one.gettimeout() for one in connected] == [5.0, 5.0]


def test_a_connection_that_is_never_there_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time of one attempt, and not before, it is the API that does not answer."""

    def lost(*address: object) -> socket.socket:
        now.append(now[-1] + 1)
        raise TimeoutError("timed out")

    now = [0.0]
    monkeypatch.setattr(socket, "create_connection", lost)
    monkeypatch.setattr(time, "monotonic", lambda: now[-1])
    with pytest.raises(TimeoutError, match=f"{NOBODY} did not answer within 0 s: .*timed out"):
        PrefectApi(NOBODY, auth_string=None).read_state(RUN)
    assert now[-1] == 5


@pytest.mark.parametrize(("status", "says"), [(401, "set PREFECT_API_AUTH_STRING"), (404, "knows no flow run")])
def test_a_refusal_is_not_waited_out(api: str, status: int, says: str) -> None:
    """Wrong credentials and an unknown run end the wait at once, with what to do."""
    Api.status = status
    with pytest.raises(ApiRefused, match=says):
        PrefectApi(api, auth_string=None).read_flow_run(RUN, within_seconds=30)
    assert Api.failures == -1


def pod(tmp_path: Path, **environment: str) -> subprocess.Popen[str]:
    """The entry with a `prefect` package of ours first in the path, for a deployment that fetches its code.

    Its command says how it was called; told to, it is as slow as the real one is to begin, or to be imported.
    """
    stand_in = tmp_path / "prefect"
    for package in ("client", "logging"):
        (stand_in / package).mkdir(parents=True, exist_ok=True)
    for empty in ("__init__", "flows", "flow_engine", "client/__init__", "logging/__init__"):
        (stand_in / f"{empty}.py").touch()
    (stand_in / "settings.py").write_text("class Settings:\n    def to_environment_variables(self): pass\n")
    (stand_in / "logging" / "formatters.py").write_text("class PrefectFormatter: pass\n")
    (stand_in / "client" / "orchestration.py").write_text(
        "import os, time\n"
        "if 'SLOW_IMPORT' in os.environ:\n"
        "    print('importing', flush=True)\n"
        "    time.sleep(float(os.environ['SLOW_IMPORT']))\n"
    )
    (stand_in / "cli.py").write_text(
        "import os, sys, time\n"
        "def app():\n"
        "    print(*sys.argv, 'claim=' + os.environ.get('ETL_CLAIM', ''), flush=True)\n"
        "    time.sleep(float(os.environ.get('SLOW', '0')))\n"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "ETL_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "etl.start"],
        env={**inherited, "PYTHONPATH": str(tmp_path), "PREFECT__FLOW_RUN_ID": str(RUN), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the entry to its end."""
    with pod(tmp_path, **environment) as process:
        stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def evict(process: subprocess.Popen[str]) -> str:
    """Send SIGTERM, twice as an impatient node may, and return the last line of stderr."""
    process.terminate()
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    return str(json.loads(stderr.splitlines()[-1])["event"])


def test_a_deployment_that_fetches_its_code_is_prefects_own_command_to_run(
    api: str, tmp_path: Path, warehouse: str
) -> None:
    """Stock command, same process, the claim handed over; a second process of the attempt becomes nothing."""
    first = start(tmp_path, PREFECT_API_URL=api, ETL_WAREHOUSE_URL=warehouse)
    assert (first.returncode, first.stdout) == (0, "prefect flow-run execute claim=1\n"), first.stderr
    second = start(tmp_path, PREFECT_API_URL=api, ETL_WAREHOUSE_URL=warehouse)
    assert (second.returncode, second.stdout) == (0, "")
    told = json.loads(second.stderr)
    assert told["event"] == "nothing to execute: another process is executing the run"
    assert (told["flow_run_id"], told["correlation_id"]) == (str(RUN), "order-7")


@pytest.mark.parametrize("state_type", ["COMPLETED", "FAILED", "CANCELLED"])
def test_a_run_that_is_over_is_not_executed_again(api: str, tmp_path: Path, state_type: str) -> None:
    """Prefect would run it a second time."""
    Api.state_type = state_type
    done = start(tmp_path, PREFECT_API_URL=api)
    assert (done.returncode, done.stdout) == (0, "")
    told = json.loads(done.stderr)
    assert (told["state_type"], told["correlation_id"]) == (state_type, "order-7")


def test_a_warehouse_that_is_away_is_the_flows_to_report(api: str, tmp_path: Path) -> None:
    """Without a claim Prefect starts all the same: the flow fails with a reason in its state, not as a crashed Job."""
    away = "postgresql://user:secret@127.0.0.1:9/warehouse"
    done = start(tmp_path, PREFECT_API_URL=api, ETL_WAREHOUSE_URL=away, ETL_API_WAIT_SECONDS="0.3")
    assert (done.returncode, done.stdout) == (0, "prefect flow-run execute claim=\n")
    told = json.loads(done.stderr)
    assert (told["event"], told["correlation_id"]) == ("no claim yet: the flow will take it", "order-7")
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "PREFECT_API_URL is ''"),
        ({"PREFECT__FLOW_RUN_ID": ""}, "PREFECT__FLOW_RUN_ID is not a flow run's id"),
        ({"PREFECT_API_URL": "server:4200"}, "PREFECT_API_URL is 'server:4200'"),
        ({"PREFECT_API_URL": NOBODY, "ETL_API_WAIT_SECONDS": "0.2"}, "did not answer within 0.2 s"),
        (
            {"PREFECT_API_URL": "http://127.0.0.1:9/api", "ETL_API_WAIT_SECONDS": "soon"},
            "ETL_API_WAIT_SECONDS is 'soon'",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, environment: dict[str, str], says: str) -> None:
    """One line on stderr, status 1, and Prefect is not started."""
    done = start(tmp_path, **environment)
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


async def test_a_run_is_claimed_as_soon_as_it_was_read(api: str, tmp_path: Path, warehouse: str) -> None:
    """While Prefect is still imported: by the time it is, what was read may be long past."""
    process = pod(tmp_path, PREFECT_API_URL=api, ETL_WAREHOUSE_URL=warehouse, SLOW_IMPORT="60")
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    deadline = time.monotonic() + 30
    async with claim.connected(warehouse) as connection:
        while not await connection.fetchval("SELECT count(*) FROM claims"):
            assert time.monotonic() < deadline, "the run is not claimed"
            await asyncio.sleep(0.05)
    assert process.poll() is None
    process.kill()
    process.communicate()


RESCHEDULE = {"PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR": "reschedule"}


@pytest.mark.parametrize("state_type", ["PENDING", "RUNNING", "CRASHED"])
@pytest.mark.parametrize("slow", ["SLOW_IMPORT", "SLOW"])
def test_sigterm_while_prefect_is_loaded_hands_the_run_back(
    api: str, tmp_path: Path, warehouse: str, state_type: str, slow: str
) -> None:
    """Prefect has no handler yet: the run is scheduled anew, also where an earlier process died in the middle of it."""
    Api.state_type = state_type
    process = pod(tmp_path, PREFECT_API_URL=api, ETL_WAREHOUSE_URL=warehouse, **{slow: "60"}, **RESCHEDULE)
    assert process.stdout is not None
    first_line = {"SLOW_IMPORT": "importing\n", "SLOW": "prefect flow-run execute claim=1\n"}[slow]
    assert process.stdout.readline() == first_line
    assert evict(process) == "handed back"
    [(path, state)] = Api.proposed
    assert path == f"/api/flow_runs/{RUN}/set_state"
    assert (state["type"], state["name"]) == ("SCHEDULED", "AwaitingRetry")


def test_sigterm_while_the_api_is_away_hands_the_run_back_once_it_answers(api: str, tmp_path: Path) -> None:
    """The signal comes while the API is waited for; handing back has its own time to wait."""
    Api.failures = 10_000
    process = pod(tmp_path, PREFECT_API_URL=api, SLOW="60", **RESCHEDULE)
    while Api.failures > 9_998:
        time.sleep(0.01)
    process.terminate()
    Api.failures = 0
    assert evict(process) == "handed back"
    assert len(Api.proposed) == 1


@pytest.mark.parametrize("state_type", ["SCHEDULED", "CANCELLING", "CANCELLED", "COMPLETED", "PAUSED"])
def test_a_run_that_is_decided_is_not_handed_back(api: str, tmp_path: Path, state_type: str) -> None:
    """The pod of a cancelled run ends by SIGTERM too."""
    process = pod(tmp_path, PREFECT_API_URL=api, SLOW="60", **RESCHEDULE)
    assert process.stdout is not None
    process.stdout.readline()
    Api.state_type = state_type
    assert evict(process) == "nothing to hand back"
    assert Api.proposed == []


async def test_a_run_that_another_process_executes_is_not_handed_back(api: str, tmp_path: Path, warehouse: str) -> None:
    """A pod that lost its run to a newer claim of another host leaves it alone."""
    process = pod(tmp_path, PREFECT_API_URL=api, ETL_WAREHOUSE_URL=warehouse, SLOW="60", **RESCHEDULE)
    assert process.stdout is not None
    process.stdout.readline()
    async with claim.connected(warehouse) as connection:
        await connection.execute(
            "INSERT INTO claims (flow_run_id, attempt, holder, lease_until)"
            " VALUES ($1, now(), 'another:1', now() + interval '1 minute')",
            RUN,
        )
    assert evict(process) == "nothing to hand back: another process is executing the run"
    assert Api.proposed == []


def test_without_being_asked_for_sigterm_ends_the_process(api: str, tmp_path: Path) -> None:
    """Where the Job is not to be rescheduled, the signal does what it always does."""
    process = pod(tmp_path, PREFECT_API_URL=api, SLOW="60")
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert Api.proposed == []
