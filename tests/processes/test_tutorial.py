"""docs/tutorial.md, typed from beginning to end in a clone of its own, and what it made rendered for Kubernetes."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from .dev import running_dev
from .test_restore import free_ports

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
# On a busy machine; else all steps take about a minute together.
STEP_SECONDS = 1800


@dataclass(frozen=True)
class Block:
    """A block of the page: commands to type, or a change to make; and the exit code that the page tells of."""

    kind: str
    text: str
    exits: int = 0

    @property
    def commands(self) -> list[str]:
        return [line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith("$ ")]


def blocks() -> list[Block]:
    found = re.finditer(r"(?:<!-- exits (\d+) -->\n)?```(console|diff)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [Block(match[2], match[3], int(match[1] or 0)) for match in found]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """This checkout's files as a clone has them, without what is made of them."""
    folder = tmp_path_factory.mktemp("clone") / "pipelines"
    folder.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.rstrip("\0").split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    yield folder
    shutil.rmtree(folder)


def environment() -> dict[str, str]:
    """As a user's shell has it, with this Python and, where there is one, this environment's uv."""
    uv = ROOT / ".local" / "uv" / "bin"
    path = os.pathsep.join([str(uv), os.environ["PATH"]]) if uv.exists() else os.environ["PATH"]
    dropped = ("PREFECT_", "ETL_", "PIPELINES_", "PYTEST_", "VIRTUAL_ENV", "MAKE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return kept | {"PATH": path, "PYTHON": sys.executable, "NO_COLOR": "1"}


def type_in(clone: Path, block: Block, **more: str) -> str:
    """Execute what the page says; what it printed."""
    commands = "\n".join(block.commands)
    if block.kind == "diff":
        commands = "patch --strip=1 --forward <<'END_OF_PATCH'\n" + block.text + "END_OF_PATCH\n"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=clone,
        env=environment() | more,
        capture_output=True,
        text=True,
        timeout=STEP_SECONDS,
        check=False,
    )
    assert done.returncode == block.exits, f"{commands}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def test_every_command_of_it_works(clone: Path) -> None:
    """From `make new-pipeline` to a failure explained; what the page says that one sees is seen."""
    make, own_tests, dev, look, *rest = blocks()
    assert dev.commands == ["make dev"]
    assert "flows/flight_times is laid down" in type_in(clone, make)
    assert re.search(r"\n3 passed in", type_in(clone, own_tests))
    ports = free_ports()
    chosen = [f"{part.upper()}_PORT={port}" for part, port in ports.items()]
    command = ["make", "--no-print-directory", "dev", *chosen]
    with running_dev(clone / ".local", ports, command=command, cwd=clone, environment=environment()) as running:
        url = {"PIPELINES_URL": running.api}
        seen = type_in(clone, look, **url)
        assert "flight-times" in seen
        assert "table flight_times_daily" in seen
        change, rename, again, fill, fail, why = rest
        type_in(clone, change)
        type_in(clone, rename)
        assert "table flight_times_daily_2" in type_in(clone, again, **url)
        filled = type_in(clone, fill, **url)
        assert "3 of 4 dates" in filled
        assert "Completed: 4" in filled
        type_in(clone, fail, **url)
        assert "PL102" in type_in(clone, why, **url)


@pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not installed")
def test_what_it_made_is_in_the_chart(clone: Path) -> None:
    """Its image is built by the shared Dockerfile under a tag of its own; its deployment is registered and offered."""
    if not (clone / "flows" / "flight_times").exists():
        pytest.skip("the tutorial did not come so far")

    def printed(*command: str) -> str:
        return subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True).stdout

    assert printed("images/parts").split() == [
        "prefect",
        "etl",
        "delay_model",
        "orchestrator",
        "source",
        "flight_times",
    ]
    tag = printed("images/tag", "flight_times").strip()
    image = f"registry.example.com/pipelines-flight_times:{tag}"
    values = clone / "pipelines.yaml"
    values.write_text(printed("flows/pipelines"))
    command = ["helm", "template", "pipelines", "charts/pipelines", "--values", "k8s/kind/values.yaml"]
    told_by_push = f"images.registry=registry.example.com,images.flight_times.tag={tag}"
    objects = list(yaml.safe_load_all(printed(*command, "--values", values.name, "--set-string", told_by_push)))
    [told] = [o["data"]["registration.json"] for o in objects if o and "registration.json" in o.get("data", {})]
    etl, mine = json.loads(told)["deployments"]
    assert (etl["name"], mine["name"]) == ("daily-0900", "daily")
    assert mine["entrypoint"] == "flight_times.flow.flight_times"
    assert mine["jobVariables"] == {"image": image}
    [job] = [o for o in objects if o and o["kind"] == "Job" and "-register-" in o["metadata"]["name"]]
    described = [c for c in job["spec"]["template"]["spec"]["initContainers"] if c["name"].startswith("describe-")]
    assert [(c["image"], c["command"][3]) for c in described] == [(image, "flight_times.flow.flight_times")]
    listed = printed("images/mirror", "--list", "registry.example.com").splitlines()
    assert f"pipelines-flight_times:{tag} → {image}" in listed
    assert any(line.startswith("pipelines-delay_model:") for line in listed)
    used = printed("images/used", "--values", "k8s/kind/values.yaml", "--values", values.name).split()
    assert used == ["prefect", "etl", "orchestrator", "source", "flight_times"]
