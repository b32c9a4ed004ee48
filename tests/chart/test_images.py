"""Every image of an installation is known: to Artifact Hub, and to the script that mirrors them (images/mirror)."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import CHART, ROOT, SCENARIOS, Manifest, containers, pods, registration, render

PARTS = yaml.safe_load((ROOT / "images" / "parts.yaml").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
OURS = ("prefect", "etl", "delay_model", "orchestrator", "source")
# What the chart takes as others made it.
THEIRS = ["postgres:17", "valkey/valkey:8"]

# Keeps what it is asked, has the images named in LOCAL alone, and answers as docker does.
DOCKER = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$CALLS"
case "$1 $2" in
  "image inspect")
    if [ "$3" = --format ]; then
      echo "${5%:*}@sha256:$(printf 'd%.0s' {1..64})"
    else
      grep -qxF "$3" <<< "$LOCAL"
    fi ;;
  "pull "*) [ "$2" != "$UNKNOWN" ] ;;
  "load "*) printf 'Loaded image: %s\\n' pipelines-etl:1a2b postgres:17 ;;
  "push "*) echo "progress of $1" ;;
esac
"""


class Mirror:
    """images/mirror with a docker that keeps what it is asked."""

    def __init__(self, folder: Path) -> None:
        docker = folder / "docker"
        docker.write_text(DOCKER)
        docker.chmod(0o755)
        self.calls = folder / "calls"
        self.calls.touch()
        self.environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(self.calls)}
        self.environment |= {"LOCAL": "", "UNKNOWN": ""}

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "images" / "mirror"), *arguments]
        return subprocess.run(
            command, env={**self.environment, **environment}, capture_output=True, text=True, timeout=60, check=False
        )

    def asked(self, verb: str) -> list[str]:
        """The arguments of each call of a docker command."""
        lines = self.calls.read_text().splitlines()
        return [line.removeprefix(f"{verb} ") for line in lines if line.startswith(f"{verb} ")]


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    return Mirror(tmp_path)


@pytest.fixture(scope="session")
def checkout() -> dict[str, str]:
    """Each image of ours by its name, with the tag that this checkout builds."""
    tag = {part: subprocess.check_output([ROOT / "images" / "tag", part], text=True).strip() for part in OURS}
    return {part: f"pipelines-{part}:{tag[part]}" for part in OURS}


def used(objects: list[Manifest]) -> set[str]:
    """The images of every container, and that of flow runs."""
    variables = registration(objects)["workPool"]["baseJobTemplate"]["variables"]["properties"]
    images = {container["image"] for pod in pods(objects).values() for container in containers(pod)}
    return {image for image in images if "{{" not in image} | {variables["image"]["default"]}


def annotation(name: str) -> list[dict[str, Any]]:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    entries: list[dict[str, Any]] = yaml.safe_load(chart["annotations"][f"artifacthub.io/{name}"])
    return entries


def test_artifact_hub_is_told_every_image() -> None:
    """Under the names of the values, and as they are rendered with every part on."""
    told = {entry["name"]: entry["image"] for entry in annotation("images")}
    assert set(told.values()) == used(render(PARTS))
    assert {name: image.rpartition(":")[0] for name, image in told.items()} == {
        name: image["repository"]
        for name, image in VALUES["images"].items()
        if isinstance(image, dict) and "repository" in image
    }


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_scenario_uses_an_image_that_the_parts_do_not(scenario: str) -> None:
    """images/parts.yaml has every part on: whatever values people choose, its images suffice."""

    def names(objects: list[Manifest]) -> set[str]:
        return {image.rpartition("/")[2].rpartition(":")[0] for image in used(objects)}

    assert names(render(SCENARIOS[scenario])) <= names(render(PARTS))


def test_artifact_hub_can_read_links_and_changes() -> None:
    """In the forms that it asks for."""
    assert all(re.match(r"https://", entry["url"]) and entry["name"] for entry in annotation("links"))
    kinds = {"added", "changed", "deprecated", "removed", "fixed", "security"}
    assert annotation("changes")
    assert all(entry["kind"] in kinds and entry["description"] for entry in annotation("changes"))


def test_the_list_is_what_a_full_installation_uses(mirror: Mirror, checkout: dict[str, str]) -> None:
    """Each image that is rendered with every part on and this checkout's tags, by where it comes from and goes to."""
    tags = {"images": {part: {"tag": image.rpartition(":")[2]} for part, image in checkout.items()}}
    images = used(render({**PARTS, **tags}))
    assert images == {*checkout.values(), *THEIRS}
    done = mirror.run("--list", "registry.example.com/team")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {f"{image} → registry.example.com/team/{image}" for image in images}
    assert mirror.calls.read_text() == ""


def test_every_image_is_pulled_tagged_and_pushed(mirror: Mirror, checkout: dict[str, str]) -> None:
    """What is on this machine is not pulled; the digests and the command that installs from there are printed."""
    done = mirror.run("registry.example.com/team/", LOCAL="\n".join(checkout.values()))
    assert done.returncode == 0, done.stderr
    images = {*checkout.values(), *THEIRS}
    assert mirror.asked("pull") == THEIRS
    assert set(mirror.asked("tag")) == {f"{image} registry.example.com/team/{image}" for image in images}
    assert set(mirror.asked("push")) == {f"registry.example.com/team/{image}" for image in images}
    *pushed, install = done.stdout.splitlines()
    assert set(pushed) == {f"registry.example.com/team/{image} sha256:{'d' * 64}" for image in images}
    # The command that is printed gives the chart those images.
    told = dict(argument.split("=") for argument in re.findall(r"--set-string (\S+)", install))
    assert told.pop("images.registry") == "registry.example.com/team"
    tags = {part: {"tag": told.pop(f"images.{part}.tag")} for part in OURS}
    assert not told
    values = {**PARTS, "images": {"registry": "registry.example.com/team", **tags}}
    assert used(render(values)) == {f"registry.example.com/team/{image}" for image in images}


def test_other_images_are_named_by_helms_arguments(mirror: Mirror) -> None:
    """As an installation names them."""
    arguments = ("--set-string", "images.postgresql.tag=17.6", "--set-string", "images.etl.repository=ours/flows")
    done = mirror.run("--list", "--", *arguments, "--set-string", "images.etl.tag=8")
    assert done.returncode == 0, done.stderr
    assert {"postgres:17.6 → REGISTRY/postgres:17.6", "ours/flows:8 → REGISTRY/ours/flows:8"} <= set(
        done.stdout.splitlines()
    )


def test_a_file_carries_them_to_a_site_of_its_own(mirror: Mirror, checkout: dict[str, str], tmp_path: Path) -> None:
    """--save writes every image into one file; --load pushes what a file holds, and needs no chart for it."""
    done = mirror.run("--save", str(tmp_path / "images.tar"), LOCAL="\n".join(checkout.values()))
    assert done.returncode == 0, done.stderr
    [saved] = mirror.asked("save")
    assert saved.split()[:2] == ["--output", str(tmp_path / "images.tar")]
    assert set(saved.split()[2:]) == {*checkout.values(), *THEIRS}
    assert mirror.asked("push") == []

    (tmp_path / "images.tar").touch()
    copy = tmp_path / "mirror"
    copy.write_bytes((ROOT / "images" / "mirror").read_bytes())
    copy.chmod(0o755)
    loaded = subprocess.run(
        [copy, "--load", str(tmp_path / "images.tar"), "registry.site/x"],
        env=mirror.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr
    assert mirror.asked("push") == ["registry.site/x/pipelines-etl:1a2b", "registry.site/x/postgres:17"]
    assert loaded.stdout.splitlines()[-1].endswith(
        "--set-string images.registry=registry.site/x --set-string images.etl.tag=1a2b"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name the registry"),
        (["--lst"], "--lst: it is no option"),
        (["--save"], "name the file"),
        (["--load", "nowhere.tar", "registry.site"], "nowhere.tar: there is no such file"),
        (["--list", "--", "--set-string", f"images.etl.digest=sha256:{'a' * 64}"], "it is named by digest"),
        (["--list", "--", "--set", "nothing=1"], "nothing"),
    ],
)
def test_what_cannot_be_done_is_said(mirror: Mirror, arguments: list[str], said: str) -> None:
    """Before docker is asked for anything."""
    done = mirror.run(*arguments)
    assert done.returncode != 0
    assert said in done.stderr
    assert mirror.calls.read_text() == ""


def test_an_image_that_is_nowhere_stops_before_anything_is_pushed(mirror: Mirror, checkout: dict[str, str]) -> None:
    """The message names it, and how it is built."""
    done = mirror.run("registry.site", UNKNOWN=checkout["source"])
    assert done.returncode != 0
    assert checkout["source"] in done.stderr
    assert "make images" in done.stderr
    assert mirror.asked("push") == []


def test_the_help_names_every_form(mirror: Mirror) -> None:
    """--help answers without docker or helm."""
    done = mirror.run("--help", PATH="/usr/bin:/bin")
    assert done.returncode == 0
    assert all(form in done.stdout for form in ("--list", "--save", "--load", "REGISTRY"))


def test_the_base_image_may_be_pinned_by_digest(tmp_path: Path) -> None:
    """images/pin writes what the registry answers into images/base, and leaves it alone where it answers nothing."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "pin").write_bytes((ROOT / "images" / "pin").read_bytes())
    (folder / "base").write_text("python:3.13-slim-trixie\n")
    docker = tmp_path / "docker"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def pin(answer: str) -> subprocess.CompletedProcess[str]:
        docker.write_text(f'#!/bin/sh\n[ "$6" = python:3.13-slim-trixie ] || exit 9\n{answer}\n')
        docker.chmod(0o755)
        return subprocess.run(
            ["bash", folder / "pin"], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    offline = pin("exit 1")
    assert offline.returncode == 1
    assert "gives no digest" in offline.stderr
    assert (folder / "base").read_text() == "python:3.13-slim-trixie\n"
    for digit in "ab":  # pinned, then moved
        digest = f"sha256:{digit * 64}"
        assert pin(f"echo {digest}").returncode == 0
        assert (folder / "base").read_text() == f"python:3.13-slim-trixie@{digest}\n"


@pytest.mark.parametrize("part", [*OURS, "flow"])
def test_every_stage_is_built_from_the_pinned_base(part: str) -> None:
    """Each stage is made from BASE, the ETL image or an earlier one; a build gives images/base, the default tag."""
    text = (ROOT / "images" / part / "Dockerfile").read_text()
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", text, flags=re.MULTILINE)
    names = {name for _, name in stages if name}
    assert stages
    assert {source for source, _ in stages} <= {"$BASE", "$ETL", *names}
    [default] = re.findall(r"^ARG BASE=(\S+)$", text, flags=re.MULTILINE)
    assert (ROOT / "images" / "base").read_text().strip().partition("@")[0] == default
    build = (ROOT / "images" / "build").read_text()
    assert '--build-arg BASE="$(cat images/base)" --build-arg ETL="$etl"' in build
    assert "etl=pipelines-etl:$(images/tag etl)\n" in build
