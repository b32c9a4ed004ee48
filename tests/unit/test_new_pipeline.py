"""`make new-pipeline`: which names it takes, what it says of the others, and that nothing is overwritten."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import new_pipeline
import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "templates" / "new_pipeline.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a checkout as is looked at."""
    for name in ("templates/pipeline", "tests/unit/my_pipeline"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "charts" / "pipelines").mkdir(parents=True)
    shutil.copy(ROOT / "charts" / "pipelines" / "values.yaml", tmp_path / "charts" / "pipelines")
    shutil.copy(ROOT / "uv.lock", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Flight-Times", "such as flight_times"),
        ("1st", "begin with a letter"),
        ("a__b", "single underscores, and begin with a letter, such as a_b"),
        ("../x", "such as x"),
        ("x" * 41, "at most 40"),
        ("import", "a word of Python's own"),
        ("json", "a module of Python's own"),
        ("polars", "a package that this project installs"),
        ("pipelines_client", "a package that this project installs"),
        ("etl", "a package that this project installs"),
        ("examples", "flows/examples is there already"),
        ("flow", "images/flow is there already"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_what_to_do(name: str, says: str) -> None:
    """Exit code 2, each fault on a line, nothing made."""
    done = run(name)
    assert done.returncode == 2
    assert says in done.stderr
    assert not (ROOT / "tests" / "unit" / name).exists() or name in {"etl"}


def test_without_a_name_it_says_how_it_is_used() -> None:
    """Exit code 2 and the usage; asked for help it is 0."""
    missing, asked = run(""), run("--help")
    assert (missing.returncode, asked.returncode) == (2, 0)
    assert missing.stderr == asked.stdout == new_pipeline.USAGE


def test_a_name_that_a_pipeline_has_is_refused(checkout: Path) -> None:
    """In the chart's values, or beside another flow."""
    (checkout / "flows" / "other").mkdir(parents=True)
    (checkout / "flows" / "other" / "pipeline.yaml").write_text("# mine\nname: flight-times\nflow: other\n")
    assert list(new_pipeline.what_is_wrong_with("flight_times", checkout)) == [
        "a pipeline flight-times is there already: choose another"
    ]
    assert list(new_pipeline.what_is_wrong_with("flight_delays", checkout)) == []


def test_what_is_laid_down_is_the_template_by_another_name(checkout: Path) -> None:
    """At most five files and the test's; a second time it is refused, and what was changed stays."""
    new_pipeline.lay_down("flight_times", checkout)
    made = {str(path.relative_to(checkout)) for path in checkout.rglob("*flight_times*/**/*") if path.is_file()}
    assert made == {
        "flows/flight_times/pipeline.yaml",
        "flows/flight_times/pyproject.toml",
        "flows/flight_times/src/flight_times/__init__.py",
        "flows/flight_times/src/flight_times/flow.py",
        "tests/unit/flight_times/test_flight_times.py",
    }
    for name in made:
        text = (checkout / name).read_text()
        assert "my_pipeline" not in text
        assert "my-pipeline" not in text
    flow = checkout / "flows" / "flight_times" / "src" / "flight_times" / "flow.py"
    flow.write_text("mine\n")
    faults = list(new_pipeline.what_is_wrong_with("flight_times", checkout))
    assert [fault.split(" is there already")[0] for fault in faults] == [
        "flows/flight_times",
        "tests/unit/flight_times",
        "a pipeline flight-times",
    ]
    with pytest.raises(FileExistsError):
        new_pipeline.lay_down("flight_times", checkout)
    assert flow.read_text() == "mine\n"


def test_what_is_laid_down_is_installed_as_its_image_installs_it(checkout: Path, tmp_path: Path) -> None:
    """Outside the workspace, which an image has not, by the very options of images/flow/Dockerfile."""
    uv = shutil.which("uv", path=os.pathsep.join([str(ROOT / ".local" / "uv" / "bin"), os.environ["PATH"]]))
    if uv is None:
        pytest.skip("uv is not installed")
    new_pipeline.lay_down("flight_times", checkout)
    dockerfile = (ROOT / "images" / "flow" / "Dockerfile").read_text()
    options = re.findall(r"/uv pip install (.+) --target /opt/app /tmp/flow", dockerfile)[0].split()
    flow = shutil.copytree(checkout / "flows" / "flight_times", tmp_path / "elsewhere" / "flow")
    command = [uv, "pip", "install", *options, "--python", sys.executable, "--target", str(tmp_path / "app"), str(flow)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "app" / "flight_times" / "flow.py").is_file()
