"""Airflow on this machine: an environment of its own, and its three processes with LocalExecutor on a PostgreSQL."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from secrets import token_hex

import httpx

from ..machine import HOST, Unready, awaited, free_port, postgres, serving

VERSION = "3.3.2"

_DAGS = Path(__file__).with_name("dags")
_DAG_SECONDS = 180
_RUN_SECONDS = 180
_PARTS = ("api-server", "scheduler", "dag-processor")


class Airflow:
    """A running Airflow whose API takes everybody for an administrator."""

    def __init__(self, api: httpx.Client) -> None:
        self._api = api

    def run(self) -> float:
        """Ask for a run of the DAG and wait for its end; the seconds from the request to the end that Airflow keeps.

        Raises:
            Unready: the run failed, or did not end in time.
        """
        begun = datetime.now().astimezone()
        made = self._api.post("/api/v2/dags/trivial/dagRuns", json={"logical_date": None}).raise_for_status().json()
        path = f"/api/v2/dags/trivial/dagRuns/{made['dag_run_id']}"

        def ended() -> Mapping[str, str] | None:
            told: Mapping[str, str] = self._api.get(path).raise_for_status().json()
            return told if told["state"] in {"success", "failed"} else None

        end = awaited(ended, within=_RUN_SECONDS, every=0.25, what=f"Airflow's run {made['dag_run_id']} ended")
        if end["state"] != "success":
            raise Unready(f"Airflow's run {made['dag_run_id']} ended {end['state']}")
        return (datetime.fromisoformat(end["end_date"]) - begun).total_seconds()


@contextmanager
def running(folder: Path) -> Iterator[Airflow]:
    """Installed once under the folder, with an empty database; it stops with the block.

    Raises:
        Unready: it cannot be installed or does not start.
    """
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    command = str(_installed(folder / "environment"))
    with ExitStack() as stack:
        database = stack.enter_context(postgres(folder)).database("airflow")
        port = free_port()
        url = f"http://{HOST}:{port}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")} | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(_DAGS),
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.replace("postgresql://", "postgresql+psycopg2://", 1),
            "AIRFLOW__API__HOST": HOST,
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API_AUTH__JWT_SECRET": token_hex(32),
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        }
        _done([command, "db", "migrate"], environment)
        # each part listens for itself, be it only to serve logs: one port is enough to know that all have been started
        for part in _PARTS:
            log = folder / f"{part}.log"
            stack.enter_context(serving([command, part], port=port, log=log, environment=environment, within=180))
        with httpx.Client(base_url=url, timeout=60) as api:
            token = api.get("/auth/token").raise_for_status().json()["access_token"]
            api.headers["authorization"] = f"Bearer {token}"

            def known() -> bool | None:
                return api.get("/api/v2/dags/trivial").is_success or None

            awaited(known, within=_DAG_SECONDS, every=1, what=f"Airflow knows its DAG; its logs are in {folder}")
            yield Airflow(api)


def _installed(environment: Path) -> Path:
    """The command `airflow` of that version."""
    command = environment / "bin" / "airflow"
    if not command.exists():
        uv = os.environ.get("UV", "uv")  # which `make bench` names
        _done([uv, "venv", "--clear", "--python", sys.executable, str(environment)], os.environ)
        # with bytecode, as every side has it
        packages = [f"apache-airflow=={VERSION}", "psycopg2-binary", "asyncpg"]
        python = str(environment / "bin" / "python")
        _done([uv, "pip", "install", "--compile-bytecode", "--python", python, *packages], os.environ)
    return command


def _done(command: list[str], environment: Mapping[str, str]) -> None:
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unready(f"{' '.join(command[:3])} … ended with {done.returncode}:\n{done.stderr[-2000:]}")
