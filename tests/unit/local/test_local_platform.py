"""The local platform's own parts: ports, processes, failures with evidence."""

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
from etl.registration import DAILY_JOB, Registration
from local_platform.database import without_password
from local_platform.demo import Progress, run_once
from local_platform.errors import PartFailed, PlatformError
from local_platform.pipelines import DAILY, declared
from local_platform.ports import free_port, require_free
from local_platform.processes import Processes
from local_platform.screen import Screen
from local_platform.stack import Stack
from rich.console import Console

PYTHON = sys.executable


def test_a_port_in_use_is_reported_with_the_way_out() -> None:
    """The message names the port, who wants it, and the variable that chooses another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PlatformError, match=rf"port {port} is in use.*make dev PREFECT_PORT={port + 1}"):
            require_free(port, part="the Prefect server", option="PREFECT_PORT")


def test_a_free_port_is_accepted() -> None:
    """A port that nobody has is given back."""
    port = free_port()
    assert require_free(port, part="the source", option="SOURCE_PORT") == port


async def test_parts_stop_with_the_block_and_leave_their_logs(tmp_path: Path) -> None:
    """Also what a part started itself is gone afterwards."""
    child = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    async with Processes(tmp_path) as processes:
        await processes.start("parent", [PYTHON, "-c", child], {})
        log = processes.log("parent")
        deadline = time.monotonic() + 10
        while not (log.exists() and log.read_text().endswith("\n")):
            assert time.monotonic() < deadline, "the part never printed its child's id"
            await asyncio.sleep(0.05)
        processes.check()
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(log.read_text())).wait(timeout=10)
    assert not (tmp_path / "processes.json").exists()


async def until_one_ends(processes: Processes) -> None:
    async with asyncio.timeout(10):
        while True:
            processes.check()
            await asyncio.sleep(0.05)


async def test_a_part_that_ends_is_named_with_its_status_and_log(tmp_path: Path) -> None:
    """The first check after a part's end tells which, and where its last words are."""
    async with Processes(tmp_path) as processes:
        await processes.start("source", [PYTHON, "-c", "print('no data'); raise SystemExit(3)"], {})
        with pytest.raises(PartFailed, match="source: ended with status 3") as failed:
            await until_one_ends(processes)
    output = io.StringIO()
    Screen(Console(file=io.StringIO()), Console(file=output, width=200)).failure(failed.value)
    assert "source: ended with status 3" in output.getvalue()
    assert "  no data" in output.getvalue()


async def test_a_command_that_fails_is_named(tmp_path: Path) -> None:
    """A step's command with another status than 0 ends the start-up."""
    async with Processes(tmp_path) as processes:
        with pytest.raises(PartFailed, match="etl-deploy: ended with status 1"):
            await processes.run("etl-deploy", [PYTHON, "-c", "raise SystemExit(1)"], {})


async def test_survivors_of_a_killed_platform_are_stopped(tmp_path: Path) -> None:
    """Parts of a platform that was killed would take the next one's runs: they are ended first, strangers are not."""
    survivor, stranger = [await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True) for _ in "12"]
    try:
        born = psutil.Process(survivor.pid).create_time()
        (tmp_path / "processes.json").write_text(json.dumps({survivor.pid: born, stranger.pid: born - 100}))
        async with Processes(tmp_path):
            assert await asyncio.wait_for(survivor.wait(), 10) == -signal.SIGKILL
            assert stranger.returncode is None
    finally:
        for process in (survivor, stranger):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def run(command: str, state: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYTHON, "-m", "local_platform", command, "--state", str(state)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_database_that_refuses_ends_the_demo(tmp_path: Path) -> None:
    """Status 1, the part by name, and nothing of the password."""
    done = run("demo", tmp_path, DATABASE_URL="postgresql://user:hunter2@127.0.0.1:9/postgres")
    assert done.returncode == 1
    assert "postgresql: refused" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


def test_a_second_platform_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    """Two on one database would take each other's runs."""
    holder = "import fcntl, sys; fcntl.flock(f := open(sys.argv[1], 'w'), 2); print('held', flush=True); input()"
    process = subprocess.Popen(
        [PYTHON, "-c", holder, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        done = run("dev", tmp_path)
        assert done.returncode == 1
        assert "another `make demo` or `make dev` runs" in done.stderr
    finally:
        process.kill()
        process.communicate()


async def test_an_api_that_does_not_answer_is_named(tmp_path: Path) -> None:
    """A demo whose API is gone ends with the part's name, not with a traceback."""
    nobody = f"http://127.0.0.1:{free_port()}"
    async with Processes(tmp_path) as processes:
        stack = Stack(api_url=nobody, prefect_url=nobody, source_url=nobody, warehouse_url="", processes=processes)
        with pytest.raises(PartFailed, match=r"orchestrator: POST .*/api/etl/start: ConnectError"):
            await run_once(stack, on_state=str)


def test_a_shown_url_has_no_password() -> None:
    """What `make dev` prints can be looked at by anybody; everything else of the URL stays."""
    assert without_password("postgresql://me:hunter2@db:5432/warehouse") == "postgresql://me@db:5432/warehouse"
    embedded = "postgresql://postgres:@/warehouse?host=/tmp/pg"
    assert without_password(embedded) == "postgresql://postgres@/warehouse?host=/tmp/pg"


async def test_the_demo_shows_the_steps_that_are_logged_after_the_end() -> None:
    """A short run's lines come in pieces, the last of them when the run has ended: none is left out."""
    pieces = [['{"step": "extract"}'], [], ['{"step": "load"}', "Finished in state Completed()"], ["never asked for"]]

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=[{"message": message} for message in pieces.pop(0)])

    async with httpx.AsyncClient(base_url="http://prefect", transport=httpx.MockTransport(answer)) as client:
        shown = await Progress(client).new_steps("run", patient=True)
    assert [line.strip() for line in shown] == ["extract:", "load:"]
    assert pieces == [["never asked for"]]


def checkout(folder: Path, **flows: str) -> Path:
    """As much of a checkout as declares pipelines: a pipeline.yaml for each flow."""
    for name, declaration in flows.items():
        (folder / "flows" / name).mkdir(parents=True)
        (folder / "flows" / name / "pipeline.yaml").write_text(declaration)
    return folder


MINE = "{name: mine, flow: mine, deployment: daily, entrypoint: mine.flow.mine, workQueue: mine, maxAttempts: 1}"


def test_a_flow_that_declares_a_pipeline_is_registered_and_offered(tmp_path: Path) -> None:
    """With what the registration takes, and what the orchestrator takes, of its entry."""
    [mine] = declared(checkout(tmp_path, mine=MINE), taken={"etl"})
    assert mine.offered == {"name": "mine", "deployment": "mine/daily", "max_attempts": 1}
    told = Registration.model_validate({"deployments": [DAILY.deployment, mine.deployment]})
    assert told.deployments[0] == DAILY_JOB
    assert (told.work_pool.type, told.deployments[1].entrypoint) == ("process", "mine.flow.mine")


@pytest.mark.parametrize(
    ("declaration", "says"),
    [
        ("name: [", r"mine/pipeline.yaml cannot be read"),
        ("- name: mine", r"mine/pipeline.yaml: it is no map"),
        ("name: mine\nflow: mine", r"mine/pipeline.yaml: deployment, entrypoint, workQueue is missing"),
        (MINE.replace("name: mine", "name: etl"), r"mine/pipeline.yaml: a pipeline etl is there already"),
    ],
)
def test_a_declaration_that_cannot_be_used_is_named(tmp_path: Path, declaration: str, says: str) -> None:
    """The file, and what is wrong with it."""
    with pytest.raises(PlatformError, match=says):
        declared(checkout(tmp_path, mine=declaration), taken={"etl"})
