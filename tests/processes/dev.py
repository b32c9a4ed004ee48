"""`make dev` as a process: started on ports of its own, told of by what it prints, and stopped."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from .pods import eventually

READY_SECONDS = 480
# A busy machine may take its time over an answer.
ANSWER_SECONDS = 60


@dataclass
class Dev:
    """The platform that runs: where it listens, where its databases are, what it has printed."""

    process: subprocess.Popen[str]
    ports: dict[str, int]
    printed: list[str] = field(default_factory=list)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.ports['api']}"

    @property
    def source(self) -> str:
        return f"http://127.0.0.1:{self.ports['source']}"

    @property
    def prefect(self) -> str:
        return f"http://127.0.0.1:{self.ports['prefect']}/api"

    def database(self, name: str) -> str:
        """The URL of one of the three databases."""
        [warehouse] = re.findall(r"^warehouse\s+(\S+)", "".join(self.printed), re.MULTILINE)
        return str(warehouse).replace("/warehouse", f"/{name}", 1)

    def read(self) -> None:
        assert self.process.stdout is not None
        self.printed.extend(self.process.stdout)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, "".join(self.printed)[-4000:]
        return any(line.startswith("Ctrl-C stops everything") for line in self.printed)

    def call(self, method: str, url: str, **options: Any) -> httpx.Response:
        """Ask one of the parts; what is not a success ends the test."""
        return httpx.request(method, url, timeout=ANSWER_SECONDS, trust_env=False, **options).raise_for_status()

    def start(self, pipeline: str, day: str) -> str:
        """Start a run; its id."""
        answer = self.call("POST", f"{self.api}/api/{pipeline}/start", json={"logical_date": day})
        return str(answer.json()["run_id"])

    def status(self, pipeline: str, run_id: str) -> dict[str, Any]:
        document: dict[str, Any] = self.call("GET", f"{self.api}/api/{pipeline}/status/{run_id}").json()
        return document

    def finished(self, pipeline: str, run_id: str, *, within: float = 120) -> dict[str, Any]:
        """The run's status once it is over."""

        def ended() -> dict[str, Any] | None:
            status = self.status(pipeline, run_id)
            return status if status["ended_at"] else None

        found: dict[str, Any] = eventually(ended, within=within, what=f"run {run_id} of {pipeline} is over")
        return found


@contextlib.contextmanager
def running_dev(
    state: Path,
    ports: dict[str, int],
    *,
    command: Sequence[str] = (),
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[Dev]:
    """The platform on that state folder; `command`: another than this environment's local_platform."""
    options = [option for part, port in ports.items() for option in (f"--{part}-port", str(port))]
    ours = [sys.executable, "-m", "local_platform", "dev", "--state", str(state), *options]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "ETL_"))}
    process = subprocess.Popen(
        [*command] or ours,
        cwd=cwd,
        env=environment or clean,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    dev = Dev(process, ports)
    reader = threading.Thread(target=dev.read)
    reader.start()
    try:
        eventually(dev.is_ready, within=READY_SECONDS, what="make dev is ready")
        yield dev
    finally:
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: make alone would wait for its child
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail("make dev did not stop:\n" + "".join(dev.printed)[-4000:])
        finally:
            reader.join(10)
            if process.stdout is not None:
                process.stdout.close()
