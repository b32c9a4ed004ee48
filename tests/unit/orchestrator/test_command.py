"""The command line as a pod runs it: settings, exit codes, the log, SIGTERM."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from orchestrator.__main__ import main, tend_schema
from orchestrator.settings import HINTS, PREFIX, DatabaseSettings, Settings, complaints
from pydantic import ValidationError

from .conftest import PIPELINES, Postgres, settings

pytestmark = pytest.mark.processes

SECRET = "hunter2"
COMPLETE = {
    "ORCHESTRATOR_DATABASE_URL": f"postgresql://orchestrator:{SECRET}@db/orchestrator",
    "ORCHESTRATOR_PREFECT_API_URL": "http://prefect:4200/api",
    "ORCHESTRATOR_PREFECT_AUTH_STRING": f"admin:{SECRET}",
    "ORCHESTRATOR_PIPELINES": PIPELINES,
}


def environment(**changes: str | None) -> dict[str, str]:
    """This process's environment with a complete set of settings, changed; None takes one away."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return clean | {name: value for name, value in (COMPLETE | changes).items() if value is not None}


def run(*arguments: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments],
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


WRONG = [
    ("ORCHESTRATOR_DATABASE_URL", None, "is missing"),
    ("ORCHESTRATOR_DATABASE_URL", f"mysql://{SECRET}@db/x", "does not start with postgresql://"),
    ("ORCHESTRATOR_DATABASE_URL", f"postgresql://u:{SECRET}/x@db/name", "cannot be read"),
    ("ORCHESTRATOR_DATABASE_URL", f"postgresql://u:{SECRET}@db", "names no database"),
    ("ORCHESTRATOR_PREFECT_API_URL", None, "is missing"),
    ("ORCHESTRATOR_PREFECT_API_URL", "prefect:4200/api", "is not an http"),
    ("ORCHESTRATOR_PREFECT_API_URL", f"http://admin:{SECRET}@prefect:4200/api", "PREFECT_AUTH_STRING"),
    ("ORCHESTRATOR_PREFECT_AUTH_STRING", SECRET, "no colon"),
    ("ORCHESTRATOR_PIPELINES", None, "is missing"),
    ("ORCHESTRATOR_PIPELINES", "etl", "is not JSON"),
    ("ORCHESTRATOR_PIPELINES", "[]", "at least 1"),
    ("ORCHESTRATOR_PIPELINES", '[{"name": "etl"}]', "[0]['deployment']"),
    ("ORCHESTRATOR_PIPELINES", '[{"name": "E T L", "deployment": "a/b"}]', "[0]['name']"),
    ("ORCHESTRATOR_PIPELINES", '[{"name": "etl", "deployment": "daily_job"}]', "[0]['deployment']"),
    ("ORCHESTRATOR_PIPELINES", '[{"name": "a", "deployment": "a/b", "cron": "x"}]', "[0]['cron']"),
    ("ORCHESTRATOR_PIPELINES", '[{"name": "a", "deployment": "a/b"}, {"name": "a", "deployment": "a/c"}]', "one name"),
    (
        "ORCHESTRATOR_PIPELINES",
        '[{"name": "a", "deployment": "a/b"}, {"name": "b", "deployment": "a/b"}]',
        "deployment",
    ),
    ("ORCHESTRATOR_PORT", "tcp://10.0.0.1:8080", "integer"),
    ("ORCHESTRATOR_PORT", "0", "greater than or equal to 1"),
    ("ORCHESTRATOR_LOG_LEVEL", "loud", "'info'"),
    ("ORCHESTRATOR_POLL_SECONDS", "0", "greater than or equal to 0.1"),
    ("ORCHESTRATOR_AUTH", "basic", "'kubernetes'"),
    ("ORCHESTRATOR_READS_PER_SECOND", "0", "greater than or equal to 1"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "otel-collector:4318", "http://"),
]


@pytest.mark.parametrize(("name", "value", "told"), WRONG)
def test_a_wrong_setting_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, told: str
) -> None:
    """The line names the variable, what is wrong and what to put there, and never holds the value of a secret."""
    for variable in [*COMPLETE, *(f"{PREFIX}{field.upper()}" for field in HINTS)]:
        monkeypatch.delenv(variable, raising=False)
    for variable, right in (COMPLETE | {name: value}).items():
        if right is not None:
            monkeypatch.setenv(variable, right)
    with pytest.raises(ValidationError) as raised:
        Settings()
    (line,) = complaints(raised.value)
    assert line.startswith(f"{name} is ")
    assert told in line
    assert "; set it to " in line
    assert SECRET not in line
    assert "\n" not in line


def test_keys_are_asked_for_where_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a door is no door: the service does not start open instead."""
    for variable, value in (COMPLETE | {"ORCHESTRATOR_AUTH": "apiKey"}).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("ORCHESTRATOR_API_KEYS_FILE", raising=False)
    with pytest.raises(ValidationError) as raised:
        Settings()
    (line,) = complaints(raised.value)
    assert line.startswith("ORCHESTRATOR_API_KEYS_FILE is wrong: it is not set, and ORCHESTRATOR_AUTH is apiKey; ")


def test_every_setting_has_a_hint_and_none_is_printed() -> None:
    """The table of hints is complete; secrets have no text."""
    assert set(HINTS) == set(Settings.model_fields)
    shown = settings(f"postgresql://u:{SECRET}@db/x", prefect_auth_string=f"admin:{SECRET}")
    assert SECRET not in repr(shown) + str(shown) + shown.model_dump_json()
    with pytest.raises(ValidationError):
        shown.port = 1  # type: ignore[misc]


def test_a_namespace_without_a_service_account_is_a_wrong_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half a configuration ends the process at once, and says which half is missing."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for variable, right in (COMPLETE | {f"{PREFIX}KUBERNETES_NAMESPACE": "flows"}).items():
        monkeypatch.setenv(variable, right)
    assert main(["serve"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "ORCHESTRATOR_KUBERNETES_NAMESPACE" in line
    assert "automountServiceAccountToken" in line


def test_settings_that_are_wrong_end_the_process_with_2() -> None:
    """One line for each variable on stderr, nothing else."""
    ended = run("serve", ORCHESTRATOR_DATABASE_URL=None, ORCHESTRATOR_PORT="x")
    assert ended.returncode == 2
    lines = ended.stderr.splitlines()
    assert [line.split()[0] for line in lines] == ["ORCHESTRATOR_DATABASE_URL", "ORCHESTRATOR_PORT"]
    assert ended.stdout == ""
    assert SECRET not in ended.stderr


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot be read"), ('{"keys": [{"name": "ops", "key": "hunter2"}]}', "openssl rand -hex 32")],
)
def test_keys_that_cannot_be_used_end_the_process_with_2(tmp_path: Path, content: str | None, told: str) -> None:
    """One line in the log that says what to do, and no key."""
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_text(content)
    ended = run("serve", ORCHESTRATOR_AUTH="apiKey", ORCHESTRATOR_API_KEYS_FILE=str(file))
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert told in json.loads(line)["reason"]
    assert SECRET not in ended.stderr


async def test_a_schema_that_does_not_come_is_a_failure(postgres: Postgres) -> None:
    """The gate's exit code is 1 at its deadline."""
    alone = DatabaseSettings.model_validate({"database_url": postgres.create_database()})
    assert await tend_schema(alone, command="check-schema", seconds=0) == 1


def test_migrate_and_check_schema(postgres: Postgres) -> None:
    """A gate that waits passes once the migration is done."""
    url = postgres.create_database()
    # neither needs more than the database
    only = dict.fromkeys(COMPLETE) | {"ORCHESTRATOR_DATABASE_URL": url}
    with ThreadPoolExecutor() as pods:  # the gate waits while the migration runs, as init containers do
        gate = pods.submit(run, "check-schema", "--wait", "30", **only)
        migrated = run("migrate", **only)
        assert migrated.returncode == 0, migrated.stderr
        assert gate.result().returncode == 0, gate.result().stderr


@contextmanager
def serving(tmp_path: Path, port: int, **changes: str | None) -> Iterator[subprocess.Popen[bytes]]:
    """The service as a process; its log is in `tmp_path`."""
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "serve"],
            env=environment(ORCHESTRATOR_HOST="127.0.0.1", ORCHESTRATOR_PORT=str(port), **changes),
            stderr=log,
            stdout=subprocess.PIPE,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(url: str, *, within: float) -> httpx.Response:
    """The first answer from `url`."""
    deadline = time.monotonic() + within
    while True:
        try:
            return httpx.get(url, trust_env=False)
        except httpx.TransportError:
            if time.monotonic() > deadline:
                pytest.fail(f"not within {within:g} s: an answer from {url}")
            time.sleep(0.05)


def test_it_serves_logs_json_and_ends_well(tmp_path: Path, database_url: str, free_port: int) -> None:
    """SIGTERM ends it with 0; each line of its log is a JSON object; no secret is in it."""
    base = f"http://127.0.0.1:{free_port}"
    changes = {"ORCHESTRATOR_DATABASE_URL": database_url, "ORCHESTRATOR_PREFECT_API_URL": "http://127.0.0.1:1/api"}
    with serving(tmp_path, free_port, **changes) as process:
        assert wait_for(f"{base}/healthz", within=90).status_code == 200
        refusal = httpx.post(f"{base}/api/etl/start", headers={"x-correlation-id": "from-test"}, trust_env=False)
        assert refusal.status_code == 503
        assert httpx.get(f"{base}/%00", trust_env=False).status_code == 404
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert stdout == b""
    log = (tmp_path / "log").read_text()
    events = [json.loads(line) for line in log.splitlines()]
    assert all({"event", "level", "timestamp", "logger"} <= set(event) for event in events)
    (access,) = [event for event in events if event["event"] == "request" and event["path"] == "/api/etl/start"]
    assert (access["method"], access["status"], access["correlation_id"]) == ("POST", 503, "from-test")
    assert access["duration_ms"] >= 0
    assert SECRET not in log
    assert "Traceback" not in log


def test_a_taken_port_is_told(tmp_path: Path, database_url: str, free_port: int) -> None:
    """The process ends with 1 and its log says which address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        with serving(tmp_path, free_port, ORCHESTRATOR_DATABASE_URL=database_url) as process:
            process.communicate(timeout=30)
    assert process.returncode == 1
    assert str(free_port) in (tmp_path / "log").read_text()
