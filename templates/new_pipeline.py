"""Lays down a pipeline of one's own: `make new-pipeline NAME=flight_times`.

The template is a pipeline that works, with tests of its own: `templates/pipeline` and `tests/unit/my_pipeline`. It is
copied under another name, and nothing that is there already is written.
"""

import keyword
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEMPLATE = "my_pipeline"
# Where the template is, and where its copy goes.
PLACES = (("templates/pipeline", "flows/{}"), ("tests/unit/my_pipeline", "tests/unit/{}"))

USAGE = """\
make new-pipeline NAME=flight_times

lays down a pipeline that runs at once, and that you then make yours:

  flows/flight_times/src/flight_times/flow.py   what it does: fetch a day, sum it up, replace that day in its table
  flows/flight_times/pipeline.yaml              its name in the API, its schedule, memory, retries
  flows/flight_times/pyproject.toml             what it imports
  tests/unit/flight_times                       its tests

The name is one of Python: small letters, digits and underscores, at most 40. In the API it has dashes: flight-times.
"""
NEXT = """\
flows/{name} is laid down. Next:

  .venv/bin/pytest tests/unit/{name}      # its tests
  make dev                                # runs it on this machine; then, in another terminal,
  .venv/bin/pipelines start {api} --date 2013-01-15 --watch
  make up                                 # the same on Kubernetes
"""

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_LONGEST = 40


def main() -> int:
    """The command; the exit status."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in {"", "-h", "--help"}:
        (sys.stdout if name else sys.stderr).write(USAGE)
        return 0 if name else 2
    faults = list(what_is_wrong_with(name, ROOT))
    if faults:
        sys.stderr.write("".join(f"NAME={name}: {fault}\n" for fault in faults))
        return 2
    lay_down(name, ROOT)
    sys.stdout.write(NEXT.format(name=name, api=name.replace("_", "-")))
    return 0


def what_is_wrong_with(name: str, root: Path) -> Iterator[str]:
    """Why a pipeline cannot have this name, each with what to do; nothing where it can."""
    if not _NAME.fullmatch(name):
        meant = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        hint = f", such as {meant}" if _NAME.fullmatch(meant) else ""
        yield f"it must be small letters, digits and single underscores, and begin with a letter{hint}"
        return
    if len(name) > _LONGEST:
        yield f"it has {len(name)} characters, at most {_LONGEST} fit into names of Kubernetes and PostgreSQL"
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        yield "it is a word of Python's own: choose another"
    if name in sys.stdlib_module_names:
        yield "it is a module of Python's own, which it would hide: choose another"
    dashed = name.replace("_", "-")
    if dashed in _packages(root):
        yield "it is a package that this project installs (uv.lock): choose another"
    for _, place in PLACES:
        if root.joinpath(place.format(name)).exists():
            yield f"{place.format(name)} is there already, and nothing is overwritten: choose another, or remove it"
    if (root / "images" / name).exists():
        yield f"images/{name} is there already: choose another"
    if dashed in _pipelines(root):
        yield f"a pipeline {dashed} is there already: choose another"


def lay_down(name: str, root: Path) -> None:
    """Copy the template under the name, which nothing is wrong with."""
    for origin, place in PLACES:
        for file in sorted(root.joinpath(origin).rglob("*")):
            if not file.is_file() or "__pycache__" in file.parts:
                continue
            target = root / place.format(name) / _renamed(str(file.relative_to(root / origin)), name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("x") as new:
                new.write(_renamed(file.read_text(), name))


def _renamed(text: str, name: str) -> str:
    return text.replace(TEMPLATE, name).replace(TEMPLATE.replace("_", "-"), name.replace("_", "-"))


def _packages(root: Path) -> set[str]:
    return {package["name"] for package in tomllib.loads((root / "uv.lock").read_text())["package"]}


def _pipelines(root: Path) -> set[str]:
    """The names of pipelines in the chart's values and beside other flows."""
    values = (root / "charts" / "pipelines" / "values.yaml").read_text()
    chart = re.search(r"^pipelines:\n(.*?)(?=^\S)", values, re.MULTILINE | re.DOTALL)
    texts = [chart[1] if chart else "", *(file.read_text() for file in root.glob("flows/*/pipeline.yaml"))]
    return {name for text in texts for name in re.findall(r"^(?:  - )?name: *([a-z0-9-]+)", text, re.MULTILINE)}


if __name__ == "__main__":
    sys.exit(main())
