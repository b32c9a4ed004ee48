"""What helm says after an installation can be typed."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import CHART, SOURCE, Manifest

COMMAND = str(Path(sys.executable).with_name("pipelines"))
# Without a cluster nothing can be generated once and kept.
GIVEN: Manifest = {
    **SOURCE,
    "postgresql": {"existingSecret": "databases"},
    "prefectServer": {"auth": {"existingSecret": "prefect"}},
}


def notes(values: Manifest) -> str:
    command = ["helm", "install", "pipelines", CHART, "--namespace", "data", "--dry-run=client", "--values", "-"]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("\nNOTES:\n")[2]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, ["pipelines --namespace data start etl --watch", "pipelines --namespace data why"]),
        (
            {
                "expose": {"by": "ingress", "host": "pipelines.example.com"},
                "orchestrator": {
                    "auth": {"mode": "apiKey", "apiKeys": {"existingSecret": "keys"}},
                    "allowFrom": [{"podSelector": {}}],
                },
            },
            ["pipelines start etl --watch", "export PIPELINES_URL=https://pipelines.example.com"],
        ),
        ({"orchestrator": {"auth": {"mode": "kubernetes"}}}, ["export PIPELINES_API_KEY=$TOKEN"]),
    ],
)
def test_the_commands_are_ones_that_there_are(values: dict[str, Any], says: list[str], tmp_path: Path) -> None:
    """`pipelines` takes each as it stands, with the address and the credential that the release asks for."""
    text = notes({**GIVEN, **values})
    assert [line for line in says if f"  {line}\n" not in text] == []
    lines = re.findall(r"^  (pipelines .*)$", text, re.MULTILINE)
    assert lines
    for line in lines:
        _, *arguments = shlex.split(line)
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = subprocess.run([COMMAND, *arguments, "--help"], env=environment, capture_output=True, check=False)
        assert done.returncode == 0, f"{line}: {done.stderr.decode()}"
