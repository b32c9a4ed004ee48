"""The command `pipelines` on the whole path: the service as a process, a real Prefect, runs as their pods run them."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..conftest import Postgres
from ..unit.client.running import COMMAND, Done, clean, hold
from .pods import DAY, FLIGHTS_OF_THE_DAY, RUN_SECONDS, Platform, eventually

FAILING = DAY + timedelta(days=1)
LAST = DAY + timedelta(days=2)


@pytest.fixture
def service(platform: Platform, postgres: Postgres, free_port: int, tmp_path: Path) -> Iterator[str]:
    """The URL of `python -m orchestrator serve`, which knows the test's deployment as the pipeline etl."""
    name = platform.prefect.get(f"/deployments/{platform.deployment_id}").raise_for_status().json()["name"]
    environment = {
        variable: value for variable, value in os.environ.items() if not variable.startswith("ORCHESTRATOR_")
    }
    environment |= {
        "ORCHESTRATOR_DATABASE_URL": postgres.create_database(),
        "ORCHESTRATOR_PREFECT_API_URL": str(platform.prefect.base_url).rstrip("/"),
        "ORCHESTRATOR_PIPELINES": json.dumps([{"name": "etl", "deployment": f"daily_job/{name}"}]),
        "ORCHESTRATOR_HOST": "127.0.0.1",
        "ORCHESTRATOR_PORT": str(free_port),
        "ORCHESTRATOR_POLL_SECONDS": "0.5",
    }
    command = [sys.executable, "-m", "orchestrator"]
    subprocess.run([*command, "migrate"], env=environment, check=True, timeout=60)
    log = tmp_path / "orchestrator.log"
    url = f"http://127.0.0.1:{free_port}"

    def is_up() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"{url}/readyz", trust_env=False).is_success
        except httpx.TransportError:
            return False

    with log.open("wb") as output:
        process = subprocess.Popen([*command, "serve"], env=environment, stderr=output)
    try:
        eventually(is_up, within=RUN_SECONDS, what="the service is ready")
        yield url
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def working(platform: Platform) -> Iterator[None]:
    """Whatever Prefect has scheduled gets a pod, as a worker sees to it."""
    over = threading.Event()
    wanted = {
        "deployment_id": {"any_": [platform.deployment_id]},
        "state": {"type": {"any_": ["SCHEDULED"]}},
    }

    def work() -> None:
        with httpx.Client(base_url=platform.prefect.base_url, timeout=30) as prefect:
            while not over.wait(0.3):
                for one in prefect.post("/flow_runs/filter", json={"flow_runs": wanted}).raise_for_status().json():
                    platform.submit(one["id"])
                    platform.execute(one["id"])

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()


def test_a_day_with_the_command(platform: Platform, service: str, tmp_path: Path) -> None:
    """Start and watch, status, runs; a failure explained from its log; a backfill of what is missing; the calendar."""
    environment = clean(tmp_path, PIPELINES_URL=service)

    def pipelines(*arguments: str) -> Done:
        ended = subprocess.run(
            [*COMMAND, *arguments], env=environment, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
        )
        return Done(code=ended.returncode, out=ended.stdout, err=ended.stderr)

    def told(*arguments: str, code: int = 0) -> Any:
        done = pipelines(*arguments, "--json")
        assert done.code == code, done.err
        hold(arguments[0], done.json)
        return done.json

    with working(platform):
        watched = pipelines("start", "etl", "--date", DAY.isoformat(), "--watch")
        assert watched.code == 0, watched.err
        assert f"load: rows {FLIGHTS_OF_THE_DAY}" in watched.err
        steps = [line.split("  ")[-1] for line in watched.err.splitlines()]
        assert steps[-1] == "Completed"
        assert "state     Completed\n" in watched.out
        run = told("status")
        checked = told(
            "doctor", "--category", "service", "--category", "prefect", "--category", "runs", "--timeout", "100"
        )
        assert checked["success"], checked
        assert (run["state"], run["logical_date"], run["origin"]) == ("Completed", DAY.isoformat(), "api")
        log = told("logs", run["run_id"])
        assert [json.loads(line["message"])["step"] for line in log["lines"] if line["message"].startswith('{"step"')]
        assert log["lines"][-1]["message"].startswith("Finished in state Completed")
        followed = pipelines("logs", run["run_id"], "--follow")
        assert followed.code == 0
        assert len(followed.out.splitlines()) >= len(log["lines"])

        platform.source.put("/faults", json={"kind": "status", "status": 404}).raise_for_status()
        failed = told("start", "etl", "--date", FAILING.isoformat(), "--watch", code=5)
        assert failed["reason"]["id"] == "PL102"
        why = told("why")
        assert why["run"]["run_id"] == failed["run_id"]
        assert "answered 404" in why["last_error"]["line"]
        assert why["same_earlier"] == 0
        assert why["commands"] == [failed["reason"]["fix"], f"pipelines start etl --date {FAILING} --watch"]
        assert told("status", FAILING.isoformat(), code=5)["state"] == "Failed"
        assert [one["state"] for one in told("runs")["runs"]] == ["Failed", "Completed"]
        errors = told("logs", failed["run_id"], "--level", "error")["lines"]
        assert {line["level"] for line in errors} == {"error"}

        days = ("--from", DAY.isoformat(), "--to", LAST.isoformat())
        again = told("backfill", "etl", *days, "--yes", code=5)
        assert [one["reason"] for one in again["failed"]] == ["PL102", "PL102"]
        platform.source.delete("/faults").raise_for_status()
        filled = told("backfill", "etl", *days, "--yes")
        assert filled["backfill"]["counts"] == {"Completed": 2}
        assert [one["included"] for one in filled["preview"]["dates"]] == [False, True, True]
        assert [(day["state"], day["runs"]) for day in told("calendar", *days)["days"]] == [
            *(("Completed", 1), ("Completed", 3), ("Completed", 2))
        ]
        assert told("why", FAILING.isoformat())["reason"] is None
    loaded = platform.query("SELECT logical_date FROM flights GROUP BY logical_date ORDER BY logical_date")
    assert loaded == [(DAY,), (FAILING,), (LAST,)]
