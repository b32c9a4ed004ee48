"""What of the HTTP API somebody may rely on, and whether a change takes it away.

`python -m tests.unit.orchestrator.compatibility` (make api-document) writes the API as it is now to
services/orchestrator/openapi.json, with which a test compares every later one.

A caller may rely on each route, on what it may send, and on what it reads: so nothing is removed, nothing that is sent
becomes required or refused, and nothing that is read becomes optional or another type. Anything may be added.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.app import create_app
from orchestrator.settings import Settings

KEPT = Path(__file__).parents[3] / "services" / "orchestrator" / "openapi.json"
METHODS = {"get", "post", "put", "patch", "delete"}

Json = dict[str, Any]


def document() -> Json:
    """The API as it is now."""
    pipeline = {"name": "etl", "deployment": "daily_job/daily-0900"}
    asked = {"database_url": "postgresql://h/d", "prefect_api_url": "http://prefect/api", "pipelines": [pipeline]}
    found: Json = create_app(Settings.model_validate(asked)).openapi()
    return found


def breaks(before: Json, now: Json) -> list[str]:
    """What somebody who relied on `before` misses `now`, a line each."""
    found = []
    for path, item in before["paths"].items():
        for method in METHODS & item.keys():
            where = f"{method.upper()} {path}"
            later = now["paths"].get(path, {}).get(method)
            if later is None:
                found.append(f"{where} is gone")
            else:
                found += [f"{where}: {one}" for one in _operation(item[method], later, before, now)]
    return found


def _operation(old: Json, new: Json, before: Json, now: Json) -> Iterator[str]:
    parameters = {(one["in"], one["name"]): one for one in new.get("parameters", ())}
    for one in old.get("parameters", ()):
        later = parameters.pop((one["in"], one["name"]), None)
        if later is None:
            yield f"the {one['in']} parameter {one['name']} is gone"
        else:
            yield from _sent(one.get("schema", {}), later.get("schema", {}), before, now, one["name"])
            if later.get("required") and not one.get("required"):
                yield f"the {one['in']} parameter {one['name']} is required now"
    yield from (f"the new parameter {name} is required" for (_, name), one in parameters.items() if one.get("required"))
    body, later_body = old.get("requestBody", {}), new.get("requestBody", {})
    if later_body.get("required") and not body.get("required"):
        yield "a body is required now"
    for kind, one in body.get("content", {}).items():
        yield from _sent(
            one["schema"], later_body.get("content", {}).get(kind, {}).get("schema", {}), before, now, "body"
        )
    for status, one in old["responses"].items():
        later = new["responses"].get(status)
        if later is None:
            yield f"it never answers {status} now"
            continue
        for kind, content in one.get("content", {}).items():
            told = later.get("content", {}).get(kind, {}).get("schema")
            if told is None:
                yield f"{status} has no {kind} now"
            else:
                yield from _read(content.get("schema", {}), told, before, now, status)


def _sent(old: Json, new: Json, before: Json, now: Json, where: str) -> Iterator[str]:
    """What callers send: everything that was taken has to be."""
    old, new = _resolved(old, before), _resolved(new, now)
    yield from _types(old, new, where)
    for one, later in zip(old.get("anyOf", ()), new.get("anyOf", ()), strict=False):
        yield from _sent(one, later, before, now, where)
    if "enum" in old and "enum" in new:
        yield from (f"{where} refuses {one!r} now" for one in old["enum"] if one not in new["enum"])
    for name, one in old.get("properties", {}).items():
        if name not in new.get("properties", {}):
            yield f"{where}.{name} is gone"
        else:
            yield from _sent(one, new["properties"][name], before, now, f"{where}.{name}")
    yield from (
        f"{where}.{name} is required now" for name in set(new.get("required", ())) - set(old.get("required", ()))
    )


def _read(old: Json, new: Json, before: Json, now: Json, where: str) -> Iterator[str]:
    """What callers read: everything that was told has to be."""
    old, new = _resolved(old, before), _resolved(new, now)
    yield from _types(old, new, where)
    if "items" in old and "items" in new:
        yield from _read(old["items"], new["items"], before, now, f"{where}[]")
    for one, later in zip(old.get("anyOf", ()), new.get("anyOf", ()), strict=False):
        yield from _read(one, later, before, now, where)
    for name, one in old.get("properties", {}).items():
        if name not in new.get("properties", {}):
            yield f"{where}.{name} is gone"
        else:
            yield from _read(one, new["properties"][name], before, now, f"{where}.{name}")
    optional = (
        set(old.get("required", ()))
        - set(new.get("required", ()))
        - (old.get("properties", {}).keys() - new.get("properties", {}).keys())
    )
    yield from (f"{where}.{name} may be missing now" for name in sorted(optional))


def _types(old: Json, new: Json, where: str) -> Iterator[str]:
    for word in ("type", "format"):
        if word in old and old[word] != new.get(word):
            yield f"{where} was {old[word]} and is {new.get(word)}"


def _resolved(schema: Json, whole: Json) -> Json:
    while "$ref" in schema:
        schema = whole["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


if __name__ == "__main__":
    KEPT.write_text(json.dumps(document(), indent=1, sort_keys=True) + "\n")
