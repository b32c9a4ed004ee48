"""What both benchmarks of the API ask: a Prefect server and orchestrators as processes, each side on its PostgreSQL."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil

from ..benchmark import Setting
from ..machine import HOST, Unready, free_port, postgres, serving
from ..stock import prefect_server
from .ledgers import pipelines_told

CONNECTIONS = 16


@dataclass(frozen=True, kw_only=True)
class Server:
    """A process that answers HTTP."""

    port: int
    process: int


class Servers:
    """What both benchmarks ask: Prefect and the ledger, each on a PostgreSQL of its own, and orchestrators."""

    def __init__(self, setting: Setting, stack: ExitStack) -> None:
        self._setting = setting
        # a port that is taken, so that no other server gets it, and at which nobody listens
        taken = stack.enter_context(socket.socket())
        taken.bind((HOST, 0))
        self._nobodys = taken.getsockname()[1]
        self.postgres = stack.enter_context(postgres(setting.folder))
        home = setting.folder / "prefect"
        home.mkdir(exist_ok=True)
        theirs = stack.enter_context(postgres(home)).database("bench")
        setting.say("  a Prefect server is started")
        server = stack.enter_context(prefect_server(home, theirs, {"PREFECT_SERVER_UI_ENABLED": "false"}))
        self.prefect = Server(port=server.port, process=server.process)
        _until_ready(f"{server.api_url}/ready", within=240, log=home / "server.log")
        self.deployment = self._deployed()

    def _deployed(self) -> UUID:
        flow = self._ask("POST", "/flows/", {"name": "bench"})["id"]
        schema = {"type": "object", "properties": {}}
        told = {"name": "bench", "flow_id": flow, "parameter_openapi_schema": schema}
        return UUID(self._ask("POST", "/deployments/", told)["id"])

    def deploy_anew(self, ledger: str) -> None:
        """Replace the deployment by one without runs, and have a new ledger know it.

        An orchestrator follows every run of its deployments. It would adopt those that other samples left there.
        """
        self._ask("DELETE", f"/deployments/{self.deployment}")
        self.deployment = self._deployed()
        self.postgres.execute(ledger, f"UPDATE pipelines SET deployment_id = '{self.deployment}'")

    def create_flow_run(self) -> str:
        """One flow run that nobody will execute; its id."""
        return str(self._ask("POST", f"/deployments/{self.deployment}/create_flow_run", {})["id"])

    def ledger(self, name: str, *, pipelines: int = 1) -> None:
        """A new, migrated ledger that knows the pipelines' deployments, as one has it that has ever seen Prefect."""
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", "migrate"],
            env=_clean() | {"ORCHESTRATOR_DATABASE_URL": self.postgres.database(name)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unready(f"the ledger cannot be migrated:\n{done.stderr[-2000:]}")
        self.postgres.execute(
            name,
            "INSERT INTO pipelines (pipeline, deployment, deployment_id, parameter_schema, defaults, schedules,"
            f" next_starts, paused, seen_at) SELECT name, deployment, '{self.deployment}',"
            """ '{"type": "object", "properties": {}}', '{}', '[]', '[]', false, now()"""
            f" FROM jsonb_to_recordset('{json.dumps(pipelines_told(pipelines))}') AS told (name text, deployment text)",
        )

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        url = f"http://{HOST}:{self.prefect.port}/api{path}"
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, content, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - a server of ours
            told = answer.read()
            return json.loads(told) if told else None

    @contextmanager
    def orchestrator(self, ledger: str, number: int, *, prefect: bool, pipelines: int = 1) -> Iterator[Server]:
        """`python -m orchestrator serve`, which has one core at most. Without `prefect`, nobody listens where it is."""
        port = free_port()
        environment = _clean() | {
            "ORCHESTRATOR_DATABASE_URL": ledger,
            "ORCHESTRATOR_PREFECT_API_URL": f"http://{HOST}:{self.prefect.port if prefect else self._nobodys}/api",
            "ORCHESTRATOR_PIPELINES": json.dumps(pipelines_told(pipelines)),
            "ORCHESTRATOR_HOST": HOST,
            "ORCHESTRATOR_PORT": str(port),
            # limits of how often one caller may come are what this is not about
            "ORCHESTRATOR_READS_PER_SECOND": "100000",
            "ORCHESTRATOR_WRITES_PER_SECOND": "100000",
        }
        log = self._setting.folder / f"orchestrator-{number}.log"
        command = [sys.executable, "-m", "orchestrator", "serve"]
        with serving(command, port=port, log=log, environment=environment) as process:
            _until_ready(f"http://{HOST}:{port}/readyz", within=60, log=log)
            yield Server(port=port, process=process)

    def hammered(
        self,
        asked: Sequence[Server],
        method: str,
        paths: Sequence[str],
        *,
        body: str = "",
        per_second: float | None = None,
    ) -> dict[str, float]:
        """Requests for some seconds, by turns to the servers asked, and what that cost their processes.

        As many as get answers, or `per_second` in all, evenly.
        """
        head = f"Host: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        short = self._setting.short
        wanted = {
            "host": HOST,
            "ports": [one.port for one in asked],
            "connections": CONNECTIONS,
            "per_second": per_second,
            "warm_seconds": 0.5 if short else 2,
            "seconds": 1.5 if short else 8,
            "requests": [f"{method} {path} HTTP/1.1\r\n{head}" for path in paths],
        }
        # What copying a database or filling it has written shall not hold up the commits that are timed.
        os.sync()
        processes = [psutil.Process(one.process) for one in asked]
        before = sum(map(_cpu_seconds, processes))
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.api.hammer"],
            input=json.dumps(wanted),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unready(f"the requests were not sent:\n{done.stderr[-2000:]}")
        told = json.loads(done.stdout)
        if not told["count"] or set(told["statuses"]) - {"200", "201", "202"}:
            raise Unready(f"{method} {paths[0]} answered {told['statuses']}: look into {self._setting.folder}/*.log")
        cpu_seconds = sum(map(_cpu_seconds, processes)) - before
        return {
            "requests_per_second": told["per_second"],
            "requests_per_cpu_second": told["count_with_warm"] / cpu_seconds,
            "p50_ms": told["p50_ms"],
            "p99_ms": told["p99_ms"],
            "cpu_seconds": cpu_seconds,
            "sender_cpu_seconds": told["own_cpu_seconds"],
            "rss_bytes": float(sum(one.memory_info().rss for one in processes)),
        }


@contextmanager
def servers_of(setting: Setting) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(setting, stack)


def _clean() -> dict[str, str]:
    """This process's environment without anybody's settings."""
    prefixes = ("PREFECT_", "ORCHESTRATOR_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def _cpu_seconds(process: psutil.Process) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))


def _until_ready(url: str, *, within: float, log: Path) -> None:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - a server of ours
                return
        except OSError:
            time.sleep(0.2)
    raise Unready(f"{url} was not there within {within:g} s; its log is {log}")
