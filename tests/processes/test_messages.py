"""The texts that Prefect keeps of a failed run: others read its cause from them."""

import json
import os
import re
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from etl.errors import EtlError

from .failing import ERRORS
from .pods import DAY, RUN_SECONDS, Platform

PREFIX = "Flow run encountered an exception: "


def test_what_prefect_keeps_of_each_error(prefect_server: str, tmp_path: Path) -> None:
    """Prefect's words, then the type's name, a colon, and the error's own text; a step's time that is over has a state
    and words of its own.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("failing.py"), f"http://127.0.0.1:{silent.getsockname()[1]}"],
            env=os.environ | {"PREFECT_API_URL": prefect_server, "PREFECT_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout.splitlines()[-1])
    late = "Flow run failed due to timeout: TaskRunTimeoutError('Scope timed out after 0.5 second(s).')"
    assert ended.pop("timeout") == ["FAILED", "TimedOut", late]
    assert ended == {
        type(error).__name__: ["FAILED", "Failed", f"{PREFIX}{type(error).__name__}: {error}"] for error in ERRORS
    }


def test_every_error_of_the_flow_was_tried() -> None:
    """All but the registration's and the migration's, which no run raises."""
    tried = {type(error).__name__ for error in ERRORS}
    known = {one.__name__ for one in EtlError.__subclasses__() if one.__module__ == EtlError.__module__}
    assert known - tried == {"RegistrationRefused", "SchemaTooNew"}


def test_the_deployed_flow_names_what_refused_it(platform: Platform, free_port: int) -> None:
    """A source that refuses the day, and a warehouse that is away."""
    platform.source.put("/faults", json={"kind": "status", "status": 404}).raise_for_status()
    refused, away = platform.accept(), platform.accept(DAY + timedelta(days=1))
    processes = [
        platform.execute(refused),
        platform.execute(
            away,
            ETL_WAREHOUSE_URL=f"postgresql://somebody:secret@127.0.0.1:{free_port}/warehouse",
            ETL_API_WAIT_SECONDS="5",
            ETL_WAREHOUSE_WAIT_SECONDS="0",
        ),
    ]
    stderr = [process.communicate(timeout=RUN_SECONDS)[1] for process in processes]
    messages = [str(platform.run(one)["state"]["message"]) for one in (refused, away)]
    assert re.match(rf"{PREFIX}SourceRefused: GET http://\S+/flights\?date={DAY} answered 404: ", messages[0]), stderr[
        0
    ]
    assert messages[1].startswith(f"{PREFIX}ConnectionRefusedError: "), stderr[1]
    assert "secret" not in messages[1]
