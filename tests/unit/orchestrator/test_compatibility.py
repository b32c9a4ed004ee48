"""The HTTP API stays what it was for those who use it: a gate, and that it notices."""

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from .compatibility import KEPT, breaks, document

Change = Callable[[Any], Any]


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    """The API that was written down last."""
    found: dict[str, Any] = json.loads(KEPT.read_text())
    return found


def test_nothing_is_taken_away(kept: dict[str, Any]) -> None:
    """Who relied on the API as it was written down misses nothing."""
    assert breaks(kept, document()) == []


def test_what_was_added_is_written_down(kept: dict[str, Any]) -> None:
    """So that it too stays: `make api-document` after a change."""
    assert kept == json.loads(json.dumps(document())), "make api-document"


def test_additions_break_nobody(kept: dict[str, Any]) -> None:
    """A route, an optional parameter, a field of a body and one of an answer."""
    now = copy.deepcopy(kept)
    now["paths"]["/api/new"] = {"get": {"responses": {}}}
    start = now["paths"]["/api/{pipeline}/start"]["post"]
    start["parameters"].append({"in": "query", "name": "new", "schema": {"type": "string"}})
    now["components"]["schemas"]["StartRequest"]["properties"]["new"] = {"type": "string"}
    now["components"]["schemas"]["RunStatus"]["properties"]["new"] = {"type": "string"}
    assert breaks(kept, now) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda it: it["paths"].pop("/api/{pipeline}/runs.csv"), "GET /api/{pipeline}/runs.csv is gone"),
        (lambda it: it["paths"]["/api/{pipeline}/runs"]["get"]["parameters"].pop(), "parameter .* is gone"),
        (lambda it: it["paths"]["/api/{pipeline}/start"]["post"]["responses"].pop("202"), "never answers 202 now"),
        (lambda it: schema(it, "RunStatus")["properties"].pop("state"), r"\.state is gone"),
        (lambda it: schema(it, "RunStatus")["required"].remove("run_id"), r"\.run_id may be missing now"),
        (
            lambda it: schema(it, "RunStatus")["properties"]["run_id"].update(type="integer"),
            "was string and is integer",
        ),
        (lambda it: schema(it, "StartRequest")["properties"].pop("parameters"), r"body\.parameters is gone"),
        (lambda it: schema(it, "BackfillRequest")["required"].append("digest"), r"body\.digest is required now"),
        (lambda it: schema(it, "Mode")["enum"].remove("degraded"), "refuses 'degraded' now"),
    ],
)
def test_what_breaks_somebody_is_named(kept: dict[str, Any], change: Change, said: str) -> None:
    """Each of them, with the route."""
    now = copy.deepcopy(kept)
    change(now)
    found = breaks(kept, now)
    assert found
    assert any(re.search(said, one) for one in found), found


def schema(whole: Any, name: str) -> Any:
    return whole["components"]["schemas"][name]
