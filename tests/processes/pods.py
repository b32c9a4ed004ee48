"""Flow runs as their pods execute them: processes of `python -m etl.start`, and what is seen of them from outside."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest

DAY = date(2026, 1, 15)
FLIGHTS_OF_THE_DAY = 894
RUN_SECONDS = 240


def eventually(look: Callable[[], Any], *, within: float, what: str) -> Any:
    deadline = time.monotonic() + within
    while not (found := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within:g} s: {what}")
        time.sleep(0.05)
    return found


def signal_pod(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal to every process of a pod, as the end or the freezing of a container does."""
    first = psutil.Process(process.pid)
    for one in (first, *first.children(recursive=True)):
        one.send_signal(number)


@dataclass(kw_only=True)
class Platform:
    """A deployment on the session's Prefect server, and processes that execute its runs as pods do."""

    prefect: httpx.Client
    source: httpx.Client
    source_log: Path
    warehouse: str
    deployment_id: str
    home: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def accept(self, day: date = DAY, **labels: str | int) -> str:
        """Create a flow run as the orchestrator does, and return its id."""
        run_id = str(uuid.uuid4())
        answer = self.prefect.post(
            f"/deployments/{self.deployment_id}/create_flow_run",
            json={
                "parameters": {"logical_date": day.isoformat()},
                "idempotency_key": run_id,
                "tags": [f"run-id:{run_id}", f"correlation-id:corr-{run_id}"],
                "labels": labels,
            },
        )
        return str(answer.raise_for_status().json()["id"])

    def submit(self, flow_run_id: str) -> None:
        """Tell Prefect that the run gets a pod, as the worker does."""
        state = {"state": {"type": "PENDING", "name": "Pending"}}
        self.prefect.post(f"/flow_runs/{flow_run_id}/set_state", json=state).raise_for_status()

    def execute(self, flow_run_id: str, *, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
        """Start a pod's process, in the test's home where no other directory is given."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "ETL_"))}
        process = subprocess.Popen(
            [sys.executable, "-m", "etl.start"],
            env=inherited
            | {
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "PREFECT_HOME": str(self.home),
                "PREFECT_API_URL": str(self.prefect.base_url).rstrip("/"),
                "PREFECT__FLOW_RUN_ID": flow_run_id,
                "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR": "reschedule",
                "ETL_SOURCE_URL": str(self.source.base_url),
                "ETL_WAREHOUSE_URL": self.warehouse,
                "ETL_RETRY_BACKOFF_SECONDS": "0.1",
            }
            | environment,
            cwd=cwd or self.home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, flow_run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.prefect.get(f"/flow_runs/{flow_run_id}").raise_for_status().json()
        return found

    def tagged(self, tag: str) -> list[dict[str, Any]]:
        """The deployment's runs with that tag, in the order in which they were made."""
        wanted = {"deployment_id": {"any_": [self.deployment_id]}, "tags": {"all_": [tag]}}
        found = self.prefect.post("/flow_runs/filter", json={"flow_runs": wanted}).raise_for_status().json()
        return sorted(found, key=lambda run: str(run["created"]))

    def states(self, flow_run_id: str) -> list[str]:
        """The names of the states the run went through, but for Late: that says how busy this machine is."""
        answer = self.prefect.get("/flow_run_states/", params={"flow_run_id": flow_run_id}).raise_for_status()
        told = sorted(answer.json(), key=lambda state: state["timestamp"])
        return [state["name"] for state in told if state["name"] != "Late"]

    def log_lines(self, flow_run_id: str) -> list[dict[str, Any]]:
        """The run's own lines in Prefect's log."""
        logs = self.prefect.post("/logs/filter", json={"logs": {"flow_run_id": {"any_": [flow_run_id]}}}).json()
        return [json.loads(log["message"]) for log in logs if log["message"].startswith("{")]

    def source_lines(self) -> list[dict[str, Any]]:
        """The source's log so far."""
        return [json.loads(line) for line in self.source_log.read_text().splitlines() if line.startswith("{")]

    def artifact(self, flow_run_id: str) -> str:
        """The run's newest report: each attempt may have made one."""
        return str(self.artifacts(flow_run_id)["daily-job"]["data"])

    def artifacts(self, flow_run_id: str) -> dict[str, dict[str, Any]]:
        """The run's artifacts by key, of each the newest."""
        wanted = {"flow_run_id": {"any_": [flow_run_id]}}
        found = self.prefect.post("/artifacts/filter", json={"artifacts": wanted}).raise_for_status().json()
        return {one["key"]: one for one in sorted(found, key=lambda one: str(one["created"]))}

    def reschedule(self, flow_run_id: str) -> None:
        """Have the run executed again, as the orchestrator does."""
        state = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
        self.prefect.post(f"/flow_runs/{flow_run_id}/set_state", json=state).raise_for_status()

    def has_begun(self, process: subprocess.Popen[str], *, requests: int = 1) -> None:
        """Wait until a run has asked the slowed source, that is, until it is in the middle of its work."""

        def asked() -> bool:
            assert process.poll() is None, process.communicate()[1]
            faults = self.source.get("/faults").raise_for_status().json()["faults"]
            return bool(sum(fault["hits"] for fault in faults) >= requests)

        eventually(asked, within=RUN_SECONDS, what="the run asks the source")

    def slow_source(self, seconds: float) -> None:
        self.source.put("/faults", json={"kind": "latency", "seconds": seconds}).raise_for_status()

    def query(self, sql: str, *values: Any) -> list[Any]:
        """Ask the warehouse."""

        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self.warehouse)
            try:
                return [tuple(row) for row in await connection.fetch(sql, *values)]
            finally:
                await connection.close()

        return asyncio.run(ask())
