"""The examples as a reader runs them: programs of their own, in a folder of their own."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "flows/examples"
SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Somebody with an empty home directory who runs examples in `folder`."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """Where a Prefect that nobody redirected would keep its files."""
        return self.folder / "home"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start Python with these arguments; nothing of this machine's Prefect, source or warehouse is told to it."""
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "ETL_", "DO_NOT_TRACK"))
        }
        self.home.mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=clean | {"HOME": str(self.home), "PYTHONUTF8": "1"} | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str], *, temporary_server: bool = False) -> str:
        """What the program printed; it has to end well, in time, and without a word on stderr.

        Only Prefect's temporary server may have its say there, and the worker that waits for it with the last events:
        on a busy machine the server is stopped while it still writes.
        """
        try:
            output, errors = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f"{process.args} did not end within {SECONDS} s: {process.communicate()}")
        assert process.returncode == 0, output + errors
        loggers = re.findall(r"^[\d:.]+ \| [A-Z]+ +\| (\S+) - ", errors, re.MULTILINE) or [""]
        servers = ("prefect.server.", "EventsWorker", "asyncio")
        by_server = temporary_server and all(one.startswith(servers) for one in loggers)
        assert not errors or by_server, errors
        return output

    def run(self, example: str) -> str:
        """Run an example by its file's name and return what it printed."""
        return self.finish(self.start(str(EXAMPLES / example)))


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """A reader with nothing but the repository."""
    return Reader(folder=tmp_path)


@pytest.fixture
def reader_with_server(tmp_path: Path, prefect_server: str) -> Reader:
    """A reader who has set PREFECT_API_URL."""
    return Reader(folder=tmp_path, environment={"PREFECT_API_URL": prefect_server})


@pytest.fixture
def source_url(free_port: int) -> Iterator[str]:
    """The URL of a source that runs: `python -m source`."""
    url = f"http://127.0.0.1:{free_port}"
    environment = os.environ | {"SOURCE_HOST": "127.0.0.1", "SOURCE_PORT": str(free_port)}
    process = subprocess.Popen([sys.executable, "-m", "source"], env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + SECONDS
        while not _answers(url):
            assert process.poll() is None, "the source ended before it answered"
            assert time.monotonic() < deadline, f"the source did not answer within {SECONDS} s"
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(15)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=2, trust_env=False).is_success
    except httpx.TransportError:
        return False
