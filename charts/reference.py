"""The values' reference: what values.yaml says beside each key, put into the schema and into the chart's README.

    python charts/reference.py           rewrite both
    python charts/reference.py --check   exit 1 where one of them is not what values.yaml says

A key's description is the comment right above it or behind it; a map on one line is described as a whole, and so are
`resources` and `pod`, whose keys are Kubernetes' own. What the entries of `pipelines` may hold, the schema describes.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "pipelines"
BEGIN, END = "<!-- values: made by `make chart-reference` -->", "<!-- values: end -->"
WHOLE = {"resources", "pod"}


@dataclass(frozen=True)
class Value:
    """A key of values.yaml: its path, its default as written, and what the comment beside it says."""

    path: tuple[str, ...]
    default: str
    description: str
    leaf: bool


def values(text: str) -> list[Value]:
    """Every key that is described, in the order of the file, groups before what they hold."""
    node = yaml.compose(text)
    if not isinstance(node, yaml.MappingNode):
        raise TypeError("values.yaml is no map")
    return list(_walk(node, text.splitlines(), ()))


def _walk(node: yaml.MappingNode, lines: list[str], at: tuple[str, ...]) -> Iterator[Value]:
    for key, value in node.value:
        path = (*at, str(key.value))
        group = (
            isinstance(value, yaml.MappingNode) and bool(value.value) and not value.flow_style and path[-1] not in WHOLE
        )
        default = "" if group else _written(value)
        yield Value(path, default, _comment(lines, key.start_mark.line, value, group=group), leaf=not group)
        if group:
            yield from _walk(value, lines, path)


def _written(node: yaml.Node) -> str:
    """A default on one line, as JSON but for the quotes of keys."""
    value = yaml.safe_load(yaml.serialize(node))
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 70 else "see values.yaml"


def _comment(lines: list[str], line: int, value: yaml.Node, *, group: bool) -> str:
    said: list[str] = []
    for above in reversed(lines[:line]):
        if not above.lstrip().startswith("#"):
            break
        said.insert(0, above.strip().lstrip("#").strip())
    last = line if group else value.end_mark.line
    behind = lines[last].partition(" #")[2] if last == line else ""
    return " ".join([*said, behind.strip()]).strip()


def described_schema(schema: dict[str, Any], found: list[Value]) -> dict[str, Any]:
    """The schema with the descriptions of values.yaml."""
    described: dict[str, Any] = json.loads(json.dumps(schema))
    for value in found:
        place = described
        for key in value.path:
            if "$ref" in place:
                place = described["$defs"][place["$ref"].rpartition("/")[2]]
            place = place["properties"][key]
        place["description"] = value.description
    return described


def table(schema: dict[str, Any], found: list[Value]) -> str:
    """The README's tables: every value, and what an entry of `pipelines` may hold."""
    rows = ["| value | default | |", "|---|---|---|"]
    for value in found:
        name = ".".join(value.path)
        default = f"`{value.default}`" if value.default else ""
        rows.append(f"| `{name}` | {default} | {_cell(value.description)} |" if value.leaf else _group(name, value))
    rows += ["", "An entry of `pipelines`:", "", "| key | |", "|---|---|"]
    entry = schema["properties"]["pipelines"]["items"]
    for name, one in entry["properties"].items():
        needed = "**" if name in entry["required"] else ""
        rows.append(f"| {needed}`{name}`{needed} | {_cell(one['description'])} |")
    return "\n".join(rows)


def _group(name: str, value: Value) -> str:
    return f"| **{name}** | | {_cell(value.description)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="The values' reference, in the schema and in the chart's README.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where something would change")
    asked = parser.parse_args()
    found = values((CHART / "values.yaml").read_text())
    silent = [".".join(value.path) for value in found if not value.description]
    if silent:
        sys.exit(f"values.yaml: no comment says what these are for: {', '.join(silent)}")
    schema_path, readme_path = CHART / "values.schema.json", CHART / "README.md"
    schema = described_schema(json.loads(schema_path.read_text()), found)
    before, _, rest = readme_path.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    wanted = {
        schema_path: json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
        readme_path: f"{before}{BEGIN}\n\n{table(schema, found)}\n\n{END}{after}",
    }
    stale = [path for path, text in wanted.items() if path.read_text() != text]
    if asked.check and stale:
        sys.exit(f"not as values.yaml says: {', '.join(path.name for path in stale)}; run `make chart-reference`")
    for path in stale:
        path.write_text(wanted[path])


if __name__ == "__main__":
    main()
