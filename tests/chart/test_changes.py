"""The gate for upgrades: the previous chart version and this one, rendered alike, differ in nothing that must stay."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from . import changes
from .conftest import CHART, ROOT, SCENARIOS, SOURCE, Manifest, run_helm

LISTED = yaml.safe_load((CHART / "CHANGES.yaml").read_text())


def schema(chart: Path) -> Manifest:
    document: Manifest = json.loads((chart / "values.schema.json").read_text())
    return document


def value_paths(chart: Path) -> set[str]:
    return changes.paths(yaml.safe_load((chart / "values.yaml").read_text())) | changes.schema_paths(schema(chart))


@pytest.fixture(scope="session")
def previous() -> Path:
    """The chart of the previous version, from git."""
    shallow = ["git", "rev-parse", "--is-shallow-repository"]
    if subprocess.run(shallow, capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip() != "false":
        pytest.skip("the previous version is not in a shallow clone: git fetch --unshallow")
    done = subprocess.run(
        [ROOT / "charts" / "previous"], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip()) / "charts" / "pipelines"


def test_the_previous_version_is_an_earlier_one(previous: Path) -> None:
    """The checkout is the chart that previous.yaml names, and this version's number is higher."""
    was = yaml.safe_load((previous / "Chart.yaml").read_text())
    now = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert was["version"] == yaml.safe_load((ROOT / "charts" / "previous.yaml").read_text())["version"]

    def number(chart: Manifest) -> tuple[int, ...]:
        return tuple(map(int, chart["version"].split(".")))

    assert number(was) < number(now)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_upgrade_can_do_what_it_has_to(scenario: str, previous: Path) -> None:
    """No immutable field, claim, kept object or removed object is in its way, but for what is listed."""
    values = changes.known(SCENARIOS[scenario], schema(previous))
    before, after = run_helm(values, chart=previous), run_helm(values)
    if before.returncode != 0:
        pytest.skip(f"the previous version had no such installation: {before.stderr.strip()[-300:]}")
    assert after.returncode == 0, f"values that installed the previous version are refused now: {after.stderr}"
    rendered = [[one for one in yaml.safe_load_all(done.stdout) if one] for done in (before, after)]
    found = changes.unlisted(changes.of_objects(*rendered), [one["object"] for one in LISTED["objects"]])
    assert not found, "an upgrade would fail or lose something:\n" + "\n".join(map(str, found))


def test_no_value_goes_silently(previous: Path) -> None:
    """A removed or renamed value is listed in CHANGES.yaml with what to write instead."""
    gone = changes.of_values(value_paths(previous), value_paths(CHART))
    found = changes.unlisted(gone, [one["value"] for one in LISTED["values"]])
    assert not found, "not in CHANGES.yaml:\n" + "\n".join(map(str, found))


def test_the_list_is_of_what_is_gone(previous: Path) -> None:
    """Each entry has a reason, is of a value that was there and is gone, and is refused in its own words."""
    gone = {change.where for change in changes.of_values(value_paths(previous), value_paths(CHART))}
    for one in LISTED["values"]:
        assert set(one) == {"value", "reason", "instead"}, one
        assert one["value"] in gone, f"CHANGES.yaml lists {one['value']}, which is not gone"
        message = run_helm(_setting(one["value"])).stderr
        assert one["instead"] in message, message
    for one in LISTED["objects"]:
        assert set(one) == {"object", "reason"}, one


def _setting(path: str) -> Manifest:
    """Values that set one path."""
    value: Any = True
    for key in reversed(path.split(".")):
        value = {key.removesuffix("[]"): [value] if key.endswith("[]") else value}
    merged: Manifest = {**SOURCE, **value}
    return merged


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """This chart with two values removed: one of a part, one of a list's entries."""
    chart = tmp_path / "pipelines"
    shutil.copytree(CHART, chart)
    instead = {"worker.pollSeconds": "Set worker.querySeconds.", "pipelines[].schedules[].rrule": "Set cron."}
    listed = [{"value": value, "reason": "it had two names", "instead": fix} for value, fix in instead.items()]
    (chart / "CHANGES.yaml").write_text(yaml.safe_dump({"values": listed, "objects": []}))
    described = schema(chart)
    described["properties"]["worker"]["properties"]["pollSeconds"] = {"deprecated": True}
    schedule = described["properties"]["pipelines"]["items"]["properties"]["schedules"]["items"]
    schedule["properties"]["rrule"] = {"deprecated": True}
    (chart / "values.schema.json").write_text(json.dumps(described))
    return chart


def test_a_removed_value_is_refused_by_its_new_place(changed: Path) -> None:
    """Who still sets it reads what to write instead, in lists too; who does not is left alone."""
    message = run_helm({**SOURCE, "worker": {"pollSeconds": 0}}, chart=changed).stderr
    assert "worker.pollSeconds: it was removed in version" in message
    assert "because it had two names. Set worker.querySeconds." in message
    [pipeline] = yaml.safe_load((CHART / "values.yaml").read_text())["pipelines"]
    [daily] = pipeline["schedules"]
    pipelines = [{**pipeline, "schedules": [daily, {**daily, "slug": "second", "rrule": "FREQ=DAILY"}]}]
    message = run_helm({**SOURCE, "pipelines": pipelines}, chart=changed).stderr
    assert "pipelines[].schedules[].rrule: it was removed" in message, message
    assert run_helm(SOURCE, chart=changed).returncode == 0


def test_a_shallow_clone_says_what_to_fetch(tmp_path: Path) -> None:
    """Without the history there is no previous version: the message names the commit and the command."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"

    def git(*arguments: str, folder: Path) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout.strip()

    (origin / "charts").mkdir(parents=True)
    git("init", "--quiet", folder=origin)
    git("commit", "--quiet", "--allow-empty", "--message", "the previous version", folder=origin)
    commit = git("rev-parse", "HEAD", folder=origin)
    shutil.copy(ROOT / "charts" / "previous", origin / "charts")
    (origin / "charts" / "previous.yaml").write_text(f"version: 0.1.0\ncommit: {commit}\n")
    git("add", ".", folder=origin)
    git("commit", "--quiet", "--message", "this version", folder=origin)
    git("clone", "--quiet", "--depth", "1", f"file://{origin}", str(clone), folder=tmp_path)
    done = subprocess.run([clone / "charts" / "previous"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert commit in done.stderr
    assert "git fetch --unshallow" in done.stderr
