"""The flow pod's entry: a bounded wait for the API, then Prefect takes over."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from etl.start import wait_for_api

NOBODY = "http://127.0.0.1:9/api"


class Api(BaseHTTPRequestHandler):
    """Answers 503 as often as told, then 200."""

    failures = 0

    def do_GET(self) -> None:
        type(self).failures -= 1
        self.send_response(503 if type(self).failures >= 0 else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing: the tests read what the entry says."""


@pytest.fixture
def api() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_api_that_comes_back_is_waited_for(api: str) -> None:
    """Two refusals, then an answer: the wait ends with it."""
    Api.failures = 2
    wait_for_api(api, within_seconds=10)
    assert Api.failures == -1


def test_an_api_that_never_answers_ends_the_wait() -> None:
    """The text names the API, the time and the last reason."""
    with pytest.raises(TimeoutError, match=r"http://127.0.0.1:9/api did not answer within 0.3 s: .*refused"):
        wait_for_api(NOBODY, within_seconds=0.3)


def start(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the entry with a `prefect` of ours first in PATH, which says how it was called."""
    stand_in = tmp_path / "prefect"
    stand_in.write_text('#!/bin/sh\necho "prefect $*"\n')
    stand_in.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.run(
        [sys.executable, "-m", "etl.start"],
        env={**inherited, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_process_becomes_prefects_own(api: str, tmp_path: Path) -> None:
    """Same process, stock command: signals and exit codes are Prefect's."""
    Api.failures = 0
    done = start(tmp_path, PREFECT_API_URL=api)
    assert (done.returncode, done.stdout) == (0, "prefect flow-run execute\n")


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "PREFECT_API_URL is ''"),
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
