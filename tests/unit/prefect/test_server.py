"""The server that costs less: Prefect's own command, whose background work is done all the same."""

import asyncio
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import httpx
import prefect_server
import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.conftest import Postgres

READY_SECONDS = 90


def test_the_command_is_prefects_own() -> None:
    """`start --help` is that of `prefect server start`."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect_server", "start", "--help"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--no-services" in done.stdout


def test_its_background_work_is_done(free_port: int, tmp_path: Path) -> None:
    """A run that nobody takes is called late, by a task of the queue, which is asked once a second."""
    program = (
        "import atexit, prefect_server, sys\n"
        "begin = prefect_server.Patient.__init__\n"
        "def noting(self, *arguments, **options):\n"
        "    begin(self, *arguments, **options)\n"
        "    print('asks every', self.minimum_check_interval, self.scheduling_resolution, flush=True)\n"
        "prefect_server.Patient.__init__ = noting\n"
        f"sys.argv[1:] = ['start', '--port={free_port}']\n"
        "prefect_server.main()\n"
    )
    settings = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{tmp_path}/prefect.db",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "PT1S",
    }
    server = subprocess.Popen(
        [sys.executable, "-c", program],
        env={key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")} | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{free_port}/api", timeout=30) as api:
            _await_ready(api)
            flow = api.post("/flows/", json={"name": "nobody"}).raise_for_status().json()["id"]
            deployment = {"name": "nobody", "flow_id": flow, "entrypoint": "nothing.here"}
            made = api.post("/deployments/", json=deployment).raise_for_status().json()["id"]
            run = api.post(f"/deployments/{made}/create_flow_run", json={}).raise_for_status().json()["id"]
            began = time.monotonic()
            while api.get(f"/flow_runs/{run}").raise_for_status().json()["state_name"] != "Late":
                assert time.monotonic() < began + READY_SECONDS, "not within the time: the run is called late"
                time.sleep(0.5)
    finally:
        server.terminate()
        said, _ = server.communicate(timeout=60)
    assert "asks every 0:00:01 0:00:01" in said


async def test_connections_that_nobody_uses_are_closed(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an engine like Prefect's; what is asked afterwards does not notice."""
    monkeypatch.setattr(prefect_server, "UNUSED", timedelta(seconds=0.5))
    watched, own = (
        create_async_engine(
            postgres.create_database().replace("postgresql://", "postgresql+asyncpg://", 1),
            pool_pre_ping=True,
            pool_use_lifo=True,
        )
        for _ in range(2)
    )
    event.listen(watched.sync_engine.pool, "connect", prefect_server.close_unused)
    async with watched.begin() as one, watched.begin():
        name = (await one.execute(text("SELECT current_database()"))).scalar_one()
    open_now = text("SELECT count(*) FROM pg_stat_activity WHERE datname = :name")
    began = time.monotonic()
    async with own.connect() as connection:
        assert (await connection.execute(open_now, {"name": name})).scalar_one() == 2
        while (await connection.execute(open_now, {"name": name})).scalar_one():
            await connection.rollback()  # what it sees of others is as of a transaction's first look
            assert time.monotonic() < began + 10, "not within 10 s: the connections are closed"
            await asyncio.sleep(0.1)
    async with watched.begin() as one:
        assert (await one.execute(text("SELECT 1"))).scalar_one() == 1
    for engine in (watched, own):
        await engine.dispose()


def _await_ready(api: httpx.Client) -> None:
    began = time.monotonic()
    while True:
        try:
            if api.get("/ready").is_success:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > began + READY_SECONDS:
            pytest.fail(f"not within {READY_SECONDS} s: the server is ready")
        time.sleep(0.5)
