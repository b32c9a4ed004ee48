"""The values' reference is complete and is what values.yaml says; no value is left unused."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import reference
import yaml

from .conftest import CHART, Manifest

FOUND = reference.values((CHART / "values.yaml").read_text())
LEAVES = [value for value in FOUND if value.leaf]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "reference.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_is_what_the_comments_say() -> None:
    done = run(CHART.parent, "--check")
    assert done.returncode == 0, done.stderr


def test_a_changed_comment_is_noticed_and_taken_over(tmp_path: Path) -> None:
    """In the schema and in the README; a value without a comment is refused."""
    charts = tmp_path / "charts"
    charts.mkdir()
    shutil.copy(CHART.parent / "reference.py", charts)
    shutil.copytree(CHART, charts / "pipelines")
    path = charts / "pipelines" / "values.yaml"
    said = "# Labels added to every object."
    path.write_text(path.read_text().replace(said, "# Labels of the site."))
    stale = run(charts, "--check")
    assert stale.returncode == 1
    assert "values.schema.json, README.md" in stale.stderr
    assert run(charts).returncode == 0
    assert run(charts, "--check").returncode == 0
    assert "Labels of the site." in (charts / "pipelines" / "README.md").read_text()
    path.write_text(path.read_text().replace("# Labels of the site.\n", ""))
    silent = run(charts, "--check")
    assert silent.returncode == 1
    assert "commonLabels" in silent.stderr


def test_there_are_few_enough_to_know() -> None:
    """Doors in general instead of a value for each setting."""
    assert 80 < len(LEAVES) <= 150


def properties(schema: Manifest, at: str = "") -> Iterator[tuple[str, Manifest]]:
    for name, one in schema.get("properties", {}).items():
        yield f"{at}.{name}", one
        yield from properties(one, f"{at}.{name}")
    if "items" in schema:
        yield from properties(schema["items"], f"{at}[]")


def test_the_schema_describes_every_value() -> None:
    """Editors show it while somebody types; entries of lists included."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    undescribed = [path for path, one in properties(schema) if not one.get("description")]
    assert undescribed == []


@pytest.mark.parametrize("value", LEAVES, ids=lambda value: ".".join(value.path))
def test_every_value_is_read(value: reference.Value) -> None:
    """By a template or a file of the chart: one that nothing reads would be a promise unkept."""
    texts = [path.read_text() for path in [*(CHART / "templates").rglob("*.*"), *(CHART / "files").rglob("*")]]
    assert any(re.search(rf"\.{value.path[-1]}\b|\"{value.path[-1]}\"", text) for text in texts)


def test_defaults_are_shown_as_they_are() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for value in LEAVES:
        place = values
        for key in value.path:
            place = place[key]
        assert value.default in {json.dumps(place, ensure_ascii=False), "see values.yaml"}
