"""The file of API keys: what it may hold, what is said of a bad one, and how it changes under a running service."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import structlog
from orchestrator.doors import Action, Asked
from orchestrator.doors.keys import ApiKeys, UnusableKeys
from orchestrator.errors import Forbidden, TooManyRequests, Unauthenticated
from starlette.datastructures import Headers

OPS = "0f4c1b7d9e2a6835c4d7f01b2e9a8c63"
CI = "b3a1f5e87d20496c8be4175fa09d36c2"
NEXT = "77aa10c3e5d94b28f6013c9b4de8af52"


def write(path: Path, *keys: dict[str, Any]) -> Path:
    """The keys as a file; replaced as a whole, as a Secret's volume is."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"keys": keys}))
    new.rename(path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two keys: one may do everything, the other little."""
    return write(
        tmp_path / "keys.json",
        {"name": "ops", "key": OPS},
        {"name": "ci", "key": CI, "may": {"etl": ["read", "start"], "*": ["read"]}},
    )


def nobody_doubts() -> None:
    """Keys are compared here: nobody else is asked, so there is nothing to pay for."""
    raise TooManyRequests("asked", retry_after=1)


async def admitted(keys: ApiKeys, **headers: str) -> Any:
    given = Headers({name.replace("_", "-"): value for name, value in headers.items()})
    return await keys.admit(given, doubt=nobody_doubts)


async def test_a_key_is_a_caller(file: Path) -> None:
    """In either header; the scheme's case does not matter."""
    keys = ApiKeys(file)
    assert (await admitted(keys, authorization=f"Bearer {OPS}")).name == "ops"
    assert (await admitted(keys, authorization=f"bearer {CI}")).name == "ci"
    assert (await admitted(keys, x_api_key=CI)).name == "ci"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": f"Basic {OPS}"},
        {"authorization": OPS},
        {"authorization": f"Bearer {OPS[:-1]}"},
        {"authorization": f"Bearer {OPS}0"},
        {"authorization": f"Bearer {OPS.upper()}"},
        {"authorization": f"Bearer {OPS} {CI}"},
        {"authorization": f"Bearer {OPS}", "x_api_key": OPS},
        {"authorization": "Bearer " + "a" * 20_000},
        {"authorization": "Bearer \xe9"},
        {"x_api_key": ""},
    ],
)
async def test_anything_else_is_nobody(file: Path, headers: dict[str, str]) -> None:
    """And what was sent is not told back."""
    with pytest.raises(Unauthenticated) as refused:
        await admitted(ApiKeys(file), **headers)
    assert refused.value.challenge.startswith('Bearer realm="pipelines"')
    assert OPS not in str(refused.value)
    assert OPS[:-1] not in str(refused.value)


async def test_two_authorizations_are_nobody(file: Path) -> None:
    """A proxy and this service must not read two different ones."""
    twice = Headers(raw=[(b"authorization", f"Bearer {one}".encode()) for one in (OPS, CI)])
    with pytest.raises(Unauthenticated, match="several"):
        await ApiKeys(file).admit(twice, doubt=nobody_doubts)


async def test_a_key_may_what_its_line_says(file: Path) -> None:
    """A pipeline by name, the others by `*`; what no route does takes every right."""
    keys = ApiKeys(file)
    ci, ops = await admitted(keys, x_api_key=CI), await admitted(keys, x_api_key=OPS)
    assert await ci.may(Asked.of("POST", "/api/etl/start"))
    assert await ci.may(Asked.of("GET", "/api/other/runs"))
    for method, path in [
        ("POST", "/api/etl/cancel/7"),
        ("POST", "/api/etl/backfill"),
        ("POST", "/api/other/start"),
        ("POST", "/api/etl/start\n"),
        ("DELETE", "/api/etl/runs"),
    ]:
        with pytest.raises(Forbidden, match="the key ci may not"):
            await ci.may(Asked.of(method, path))
        assert await ops.may(Asked.of(method, path))
    assert await ci.readable(["etl", "other"]) == ["etl", "other"]


async def test_a_pipeline_that_a_key_has_nothing_on_is_hidden(tmp_path: Path) -> None:
    """Not refused: refusing would say that it is there."""
    file = write(tmp_path / "keys.json", {"name": "ci", "key": CI, "may": {"etl": ["start"]}})
    ci = await admitted(ApiKeys(file), x_api_key=CI)
    assert not await ci.may(Asked.of("GET", "/api/other/runs"))
    with pytest.raises(Forbidden, match="may not read in the pipeline etl"):
        await ci.may(Asked.of("GET", "/api/etl/runs"))
    assert await ci.readable(["etl", "other"]) == []


def test_only_digests_stay(file: Path) -> None:
    """No key is in what the service keeps."""
    keys = ApiKeys(file)
    kept = repr(vars(keys)) + repr([vars(holder) for _, holder in keys._holders])
    assert OPS not in kept
    assert CI not in kept


BAD: list[tuple[Any, str]] = [
    ("", "not JSON"),
    (f"ops:{OPS}", "not JSON"),
    ({"keys": []}, "keys: "),
    ({"keys": [{"name": "ops"}]}, r"keys\.0\.key: Field required"),
    ({"keys": [{"name": "ops", "key": ""}]}, "too easy to guess"),
    ({"keys": [{"name": "ops", "key": OPS[:31]}]}, "openssl rand"),
    ({"keys": [{"name": "ops", "key": "a" * 64}]}, "too easy to guess"),
    ({"keys": [{"name": "ops", "key": OPS + " x"}]}, "header cannot carry"),
    ({"keys": [{"name": "", "key": OPS}]}, r"keys\.0\.name"),
    ({"keys": [{"name": "a b", "key": OPS}]}, r"keys\.0\.name"),
    ({"keys": [{"name": "a", "key": OPS}, {"name": "b", "key": OPS}]}, "stands twice"),
    ({"keys": [{"name": "a", "key": OPS, "may": {"etl": ["write"]}}]}, "'read', 'start', 'cancel' or 'backfill'"),
    ({"keys": [{"name": "a", "key": OPS, "might": {}}]}, "Extra inputs"),
    ({"keys": [{OPS: "ops"}]}, r"keys\.0\.name: Field required"),
    ({OPS: "ops", "keys": [{"name": "ops", "key": CI}]}, "…: Extra inputs"),
]


@pytest.mark.parametrize(("content", "told"), BAD)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: Any, told: str) -> None:
    """Which file, what is wrong and what to do; never a key."""
    file = tmp_path / "keys.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UnusableKeys, match=told) as refused:
        ApiKeys(file)
    assert str(file) in str(refused.value)
    assert OPS[:31] not in str(refused.value)
    assert OPS[:31] not in repr(refused.value.__cause__)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With what to do about it."""
    with pytest.raises(UnusableKeys, match="mount the Secret"):
        ApiKeys(tmp_path / "none.json")


async def test_a_changed_file_is_taken_over(file: Path) -> None:
    """A caller's new key is good beside its old one, and then alone; a caller that is gone is nobody."""
    keys = ApiKeys(file)
    write(file, {"name": "ops", "key": OPS}, {"name": "ops", "key": NEXT})
    keys.look()
    assert {(await admitted(keys, x_api_key=key)).name for key in (OPS, NEXT)} == {"ops"}
    write(file, {"name": "ops", "key": NEXT})
    keys.look()
    assert (await admitted(keys, x_api_key=NEXT)).name == "ops"
    for gone in (OPS, CI):
        with pytest.raises(Unauthenticated):
            await admitted(keys, x_api_key=gone)


def test_a_broken_file_keeps_the_keys(file: Path) -> None:
    """Whatever it holds or when it is gone; the log says so once, without showing it; the next good one is taken."""
    keys = ApiKeys(file)
    good = file.read_text()
    with structlog.testing.capture_logs() as told:
        file.write_text(f'{{"keys": [{{"name": "ops", "key": "{NEXT}" ')
        keys.look()
        keys.look()
        file.unlink()
        keys.look()
        keys.look()
        assert asyncio.run(admitted(keys, x_api_key=OPS)).name == "ops"
        file.write_text(good)
        keys.look()
        write(file, {"name": "ops", "key": NEXT})
        keys.look()
    assert asyncio.run(admitted(keys, x_api_key=NEXT)).name == "ops"
    events = [one["event"] for one in told]
    assert events.count("the API keys stay as they were") == 2
    assert events[-1] == "API keys taken over"
    assert not any(secret in str(told) for secret in (OPS, CI, NEXT))


@pytest.mark.parametrize(
    ("method", "path", "pipeline", "action"),
    [
        ("GET", "/api/pipelines", None, Action.READ),
        ("GET", "/metrics", None, Action.READ),
        ("GET", "/openapi.json", None, Action.READ),
        ("GET", "/api/etl/backfill/7", "etl", Action.READ),
        ("POST", "/api/etl/start", "etl", Action.START),
        ("POST", "/api/etl/cancel/7", "etl", Action.CANCEL),
        ("POST", "/api/etl/backfill", "etl", Action.BACKFILL),
        ("POST", "/api/etl/backfill/7/cancel", "etl", Action.BACKFILL),
        ("POST", "/api/etl/runs", "etl", None),
        ("POST", "/api/etl/", "etl", None),
        ("POST", "/api//start", "", Action.START),
        ("DELETE", "/api/pipelines", None, Action.READ),
    ],
)
def test_what_a_request_is_about(method: str, path: str, pipeline: str | None, action: Action | None) -> None:
    """By its method and its path, as the routes read them."""
    asked = Asked.of(method, path)
    assert (asked.pipeline, asked.action) == (pipeline, action)
