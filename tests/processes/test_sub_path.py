"""Prefect's page under a path of the API's host, as the chart sets it up behind an Ingress or a Gateway."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.chart.conftest import SCENARIOS, pods, render
from tests.conftest import Postgres

pytestmark = pytest.mark.processes

SECONDS = 120
OUTSIDE = "https://pipelines.example.com/prefect"


@pytest.fixture(scope="module")
def server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server with the environment that the chart gives it under /prefect, but for what Secrets hold."""
    if shutil.which("helm") is None:
        pytest.skip("helm is not installed")
    home = tmp_path_factory.mktemp("prefect")
    [container] = pods(render(SCENARIOS["by an ingress"]))["Deployment/pipelines-prefect-server"]["spec"]["containers"]
    told = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | told
    environment |= {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "ui"),
        "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "true",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": postgres.create_database().replace(
            "postgresql://", "postgresql+asyncpg://"
        ),
    }
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("prefect")), "server", "start", "--no-services"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = home / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=home, stdout=output, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + SECONDS
        while not ready(f"{url}/prefect/api/ready"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"the server is not ready within {SECONDS} s:\n{log.read_text()}"
            time.sleep(0.3)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.TransportError:
        return False


def test_the_page_and_what_it_loads_are_under_the_path(server: str) -> None:
    """A proxy hands the path on as it is: the page, its scripts and its API all answer under it."""
    page = httpx.get(f"{server}/prefect/", follow_redirects=True)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    loaded = re.findall(r'(?:src|href)="(/[^"]+\.(?:js|css))"', page.text)
    assert loaded
    for path in loaded:
        assert path.startswith("/prefect/"), path
        assert httpx.get(f"{server}{path}").status_code == 200, path


def test_the_page_is_told_the_api_that_a_browser_reaches(server: str) -> None:
    """The URL outside, with its scheme and path, not the Service's."""
    assert httpx.get(f"{server}/prefect/ui-settings").json()["api_url"] == f"{OUTSIDE}/api"


def test_nothing_of_prefect_is_at_the_root(server: str) -> None:
    """There the host belongs to the orchestrator."""
    assert httpx.get(f"{server}/api/health").status_code == 404
