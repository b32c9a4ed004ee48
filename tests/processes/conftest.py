"""What the tests of flow runs share: the source, a warehouse for each test, and a deployment on the Prefect server."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from etl.deploy import register_within
from etl.migrate import migrate
from etl.registration import DAILY_JOB, Registration, WorkPool
from prefect.settings import PREFECT_API_URL, temporary_settings

from .pods import Platform, eventually, signal_pod


@pytest.fixture
async def warehouse(postgres: Any) -> str:
    """A migrated, empty warehouse's URL."""
    url: str = postgres.create_database()
    await migrate(url)
    return url


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The URL of `python -m source`, and its log."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("source") / "log"
    environment = os.environ | {"SOURCE_HOST": "127.0.0.1", "SOURCE_PORT": str(port)}
    with log.open("wb") as stderr:
        process = subprocess.Popen([sys.executable, "-m", "source"], env=environment, stderr=stderr)

    def is_up() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{port}/healthz").is_success
        except httpx.TransportError:
            return False

    try:
        eventually(is_up, within=30, what="the source listens")
        yield f"http://127.0.0.1:{port}", log
    finally:
        process.terminate()
        process.wait(15)


@pytest.fixture
def platform(prefect_server: str, source: tuple[str, Path], warehouse: str, tmp_path: Path) -> Iterator[Platform]:
    name = f"run-{uuid.uuid4().hex[:8]}"
    deployment = DAILY_JOB.model_copy(update={"name": name, "schedules": ()})
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        asyncio.run(
            register_within(Registration(work_pool=WorkPool(name=name), deployments=(deployment,)), wait_seconds=10)
        )
    with (
        httpx.Client(base_url=prefect_server, timeout=30) as prefect,
        httpx.Client(base_url=source[0]) as source_client,
    ):
        deployment_id = prefect.get(f"/deployments/name/daily_job/{name}").raise_for_status().json()["id"]
        platform = Platform(
            prefect=prefect,
            source=source_client,
            source_log=source[1],
            warehouse=warehouse,
            deployment_id=deployment_id,
            home=tmp_path,
        )
        yield platform
        source_client.delete("/faults").raise_for_status()
        for process in platform.processes:
            if process.poll() is None:
                signal_pod(process, signal.SIGKILL)
            process.wait()
            if process.stderr is not None:
                process.stderr.close()
