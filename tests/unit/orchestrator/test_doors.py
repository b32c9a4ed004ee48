"""Who gets in, what they may do there, and what is told to those who do not: over HTTP, on a real ledger."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import structlog
from orchestrator.app import create_app
from orchestrator.doors import Action, Asked
from orchestrator.ledger.tables import runs
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from .conftest import Serve, answering, settings
from .test_api import problem
from .test_events import listening
from .test_keys import CI, NEXT, OPS, write
from .wire import PrefectWire

BOTH = [{"name": "etl", "deployment": "daily_job/daily-0900"}, {"name": "other", "deployment": "other_job/x"}]
VIEWER = "5d0e92ab7c3f48160e9db7a2c4f8136d"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    """Four callers: one of everything, one that starts, one that reads, one that has nothing here."""
    return write(
        tmp_path / "keys.json",
        {"name": "ops", "key": OPS},
        {"name": "ci", "key": CI, "may": {"etl": ["start"]}},
        {"name": "viewer", "key": VIEWER, "may": {"etl": ["read"]}},
        {"name": "stranger", "key": NEXT, "may": {"gone": ["read"]}},
    )


@pytest.fixture
async def client(database_url: str, keys_file: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The application behind a door of API keys, without a credential so far."""
    guarded = settings(database_url, pipelines=BOTH, auth="apiKey", api_keys_file=keys_file)
    async with answering(create_app(guarded, transport=PrefectWire())) as client:
        yield client


async def every_route(client: httpx.AsyncClient) -> list[tuple[str, str]]:
    """Each route as it is described, with something in place of its parameters."""
    paths = (await client.get("/openapi.json", headers=bearer(OPS))).json()["paths"]
    filled = {"{pipeline}": "etl", "{run_id}": str(uuid4()), "{backfill_id}": str(uuid4())}
    found = []
    for path, item in paths.items():
        concrete = path
        for name, value in filled.items():
            concrete = concrete.replace(name, value)
        found += [(method.upper(), concrete) for method in item]
    return found


async def test_no_route_is_open_but_the_probes(client: httpx.AsyncClient) -> None:
    """Every described route, the description itself and what is not there: 401, and how to do better."""
    routes = [*await every_route(client), ("GET", "/openapi.json"), ("GET", "/nowhere"), ("DELETE", "/api/etl/runs")]
    for method, path in routes:
        answer = await client.request(method, path)
        if path in {"/healthz", "/readyz", "/metrics"}:
            assert answer.status_code == 200
            continue
        told = await problem(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == 'Bearer realm="pipelines"'
        assert "Authorization: Bearer" in told["detail"]
    bad = await client.get("/api/pipelines", headers=bearer(OPS[::-1]))
    await problem(bad, 401, "unauthenticated")
    assert bad.headers["www-authenticate"] == 'Bearer realm="pipelines", error="invalid_token"'


async def test_every_route_has_its_right(client: httpx.AsyncClient) -> None:
    """A route whose action nobody named would need every right: none of ours is one."""
    asked = {Asked.of(method, path).action for method, path in await every_route(client)}
    assert asked == set(Action)


async def test_metrics_may_be_behind_the_door(database_url: str, keys_file: Path) -> None:
    """Where a setting says so; the probes stay open."""
    closed = settings(database_url, auth="apiKey", api_keys_file=keys_file, metrics_open=False)
    async with answering(create_app(closed, transport=PrefectWire())) as client:
        await problem(await client.get("/metrics"), 401, "unauthenticated")
        assert (await client.get("/metrics", headers=bearer(CI))).status_code == 200
        assert (await client.get("/healthz")).status_code == 200
        document = (await client.get("/openapi.json", headers=bearer(CI))).json()
        assert "security" in document["paths"]["/metrics"]["get"]


async def test_each_key_does_what_it_may(client: httpx.AsyncClient) -> None:
    """403 names the pipeline and the right that is missing."""
    started = await client.post("/api/etl/start", headers=bearer(CI))
    assert started.status_code == 202
    where = started.headers["location"]
    told = await problem(await client.get(where, headers=bearer(CI)), 403, "forbidden")
    assert "the key ci may not read in the pipeline etl" in told["detail"]
    assert (await client.get(where, headers=bearer(VIEWER))).status_code == 200
    run_id = where.rpartition("/")[2]
    for action, path in (("start", "start"), ("cancel", f"cancel/{run_id}"), ("backfill", "backfill")):
        refused = await client.post(f"/api/etl/{path}", headers=bearer(VIEWER))
        assert f"may not {action}" in (await problem(refused, 403, "forbidden"))["detail"]
    assert (await client.post(f"/api/etl/cancel/{run_id}", headers={"x-api-key": OPS})).status_code == 202


async def test_a_pipeline_that_is_not_ones_own_is_not_there(client: httpx.AsyncClient) -> None:
    """The same answer, to the letter, as for one that does not exist; and it is not listed."""
    for name, key, known in (("other", VIEWER, "etl"), ("etl", NEXT, "none that you may read")):
        for method, path in (("GET", "runs"), ("POST", "start"), ("GET", f"status/{uuid4()}"), ("GET", "nonsense")):
            hidden = await client.request(method, f"/api/{name}/{path}", headers=bearer(key))
            absent = await client.request(method, f"/api/gone2/{path}", headers=bearer(key))
            told = await problem(hidden, 404, "unknown-pipeline")
            assert told["detail"] == f"there is no pipeline '{name}'; there is: {known}"
            assert (
                absent.text.replace("gone2", name).replace(absent.headers["x-correlation-id"], told["correlation_id"])
                == hidden.text
            )
    listed = await client.get("/api/pipelines", headers=bearer(VIEWER))
    assert [one["name"] for one in listed.json()["pipelines"]] == ["etl"]
    assert (await client.get("/api/pipelines", headers=bearer(NEXT))).json() == {"pipelines": []}
    everything = (await client.get("/api/pipelines", headers=bearer(OPS))).json()["pipelines"]
    assert [one["name"] for one in everything] == ["etl", "other"]


@pytest.mark.parametrize(
    "path",
    ["/api/etl/start%0A", "/api/etl/start%00", "/healthz%0A", "/api/etl%2Fstart/../../start", "//api/etl/start",
     "/api/etl/start/", "/api/other/../etl/start", "/api/etl/./start", "/api/ETL/start", "/api/etl/start;x"],
)  # fmt: skip
async def test_no_spelling_of_a_path_opens_it(client: httpx.AsyncClient, db: AsyncEngine, path: str) -> None:
    """Whatever stands for a path, who may only read starts nothing, and nobody is redirected."""
    url = httpx.URL("http://orchestrator.test").copy_with(raw_path=path.encode())
    for headers, allowed in ((bearer(VIEWER), {403, 404, 405}), ({}, {401}), (bearer(OPS), {404, 405})):
        answer = await client.post(url, headers=headers)
        assert answer.status_code in allowed | ({202} if headers == bearer(OPS) and "start" in path else set())
        assert "location" not in answer.headers or answer.status_code == 202
    async with db.begin() as connection:
        made = (await connection.execute(select(func.count()).select_from(runs))).scalar_one()
    assert made <= 1


async def test_strangers_cause_no_work(client: httpx.AsyncClient) -> None:
    """Without a credential the body is not read and nothing of it is judged: a broken and an endless one are 401."""
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"a" * 1000

    answer = await client.post("/api/etl/start", content=endless())
    await problem(answer, 401, "unauthenticated")
    assert answer.headers["connection"] == "close"
    assert read <= 70, "what is on its way is let pass, for a moment and up to the size a body may have"
    json_type = {"content-type": "application/json"}
    await problem(await client.post("/api/etl/start", content="{", headers=json_type), 401, "unauthenticated")
    refused = await client.post("/api/etl/start", content="{", headers=json_type | bearer(VIEWER))
    await problem(refused, 403, "forbidden")


async def test_the_callers_name_is_logged_and_no_key(database_url: str, keys_file: Path) -> None:
    """With each request, refused ones included; credentials nowhere."""
    guarded = settings(database_url, auth="apiKey", api_keys_file=keys_file)
    with structlog.testing.capture_logs() as told:
        async with answering(create_app(guarded, transport=PrefectWire())) as client:
            await client.post("/api/etl/start", headers=bearer(CI))
            await client.get("/api/etl/runs", headers=bearer(CI))
            await client.get("/api/etl/runs", headers=bearer(NEXT[::-1]))
    requests = [(one["path"], one["caller"], one["status"]) for one in told if one["event"] == "request"]
    assert requests == [
        ("/api/etl/start", "ci", 202),
        ("/api/etl/runs", "ci", 403),
        ("/api/etl/runs", None, 401),
    ]
    assert not any(key in str(told) for key in (OPS, CI, NEXT, NEXT[::-1]))


async def test_keys_change_under_a_running_service(client: httpx.AsyncClient, keys_file: Path) -> None:
    """The file is looked at every two seconds."""
    await problem(await client.get("/api/pipelines", headers=bearer(OPS[::-1])), 401, "unauthenticated")
    write(keys_file, {"name": "ops", "key": OPS[::-1]})
    for _ in range(100):
        if (await client.get("/api/pipelines", headers=bearer(OPS[::-1]))).status_code == 200:
            break
        await asyncio.sleep(0.1)
    else:
        pytest.fail("the new key is not known within 10 s")
    await problem(await client.get("/api/pipelines", headers=bearer(OPS)), 401, "unauthenticated")


async def test_too_many_bad_credentials_are_cut_off(database_url: str, keys_file: Path) -> None:
    """429 with Retry-After from their address; a good key from the same address still gets in."""
    guarded = settings(database_url, auth="apiKey", api_keys_file=keys_file, refusals_per_second=1)
    async with answering(create_app(guarded, transport=PrefectWire())) as client:
        answers = [await client.get("/api/pipelines", headers=bearer(OPS[::-1])) for _ in range(12)]
        assert [one.status_code for one in answers[:4]] == [401] * 4
        refused = await problem(answers[-1], 429, "too-many-requests")
        assert "good credential" in refused["detail"]
        assert int(answers[-1].headers["retry-after"]) == 1
        assert (await client.get("/api/pipelines", headers=bearer(OPS))).status_code == 200


async def test_who_comes_too_often_waits(database_url: str, keys_file: Path) -> None:
    """Each caller for itself, changes apart from reads; probes and metrics always answer."""
    guarded = settings(database_url, auth="apiKey", api_keys_file=keys_file, reads_per_second=1, writes_per_second=1)
    async with answering(create_app(guarded, transport=PrefectWire())) as client:
        reads = [await client.get("/api/etl/runs", headers=bearer(VIEWER)) for _ in range(12)]
        assert [one.status_code for one in reads[:4]] == [200] * 4
        await problem(reads[-1], 429, "too-many-requests")
        assert int(reads[-1].headers["retry-after"]) == 1
        assert (await client.get("/api/etl/runs", headers=bearer(OPS))).status_code == 200
        writes = [await client.post("/api/etl/start", headers=bearer(CI)) for _ in range(12)]
        assert [one.status_code for one in writes[:4]] == [202] * 4
        await problem(writes[-1], 429, "too-many-requests")
        for path in ("/healthz", "/readyz", "/metrics"):
            assert {(await client.get(path)).status_code for _ in range(12)} == {200}


async def test_without_a_door_addresses_are_counted(serve: Serve) -> None:
    """Nobody has a name there; what a caller says of itself does not count."""
    async with serve(PrefectWire(), reads_per_second=1) as client:
        answers = [
            await client.get("/api/etl/runs", headers={"x-forwarded-for": f"10.0.0.{number}"} | bearer(OPS))
            for number in range(12)
        ]
        assert answers[0].status_code == 200
        assert "127.0.0.1" in (await problem(answers[-1], 429, "too-many-requests"))["detail"]


async def test_event_streams_are_counted(database_url: str, keys_file: Path) -> None:
    """A caller's own, and all together; one that was left makes room."""
    limits: dict[str, Any] = {"streams": 3, "streams_per_caller": 2}
    guarded: dict[str, Any] = {"auth": "apiKey", "api_keys_file": keys_file} | limits
    async with listening(database_url, PrefectWire(), **guarded) as client:
        events = "/api/etl/events"
        async with (
            client.stream("GET", events, headers=bearer(OPS)) as first,
            client.stream("GET", events, headers=bearer(OPS)),
        ):
            assert first.status_code == 200
            mine = await client.get(events, headers=bearer(OPS))
            assert "ops holds 2" in (await problem(mine, 429, "too-many-requests"))["detail"]
            assert int(mine.headers["retry-after"]) >= 1
            async with client.stream("GET", events, headers=bearer(VIEWER)) as third:
                assert third.status_code == 200
                full = await client.get(events, headers=bearer(VIEWER))
                assert "3 event streams are open" in (await problem(full, 429, "too-many-requests"))["detail"]
            bad = await client.get(events, headers=bearer(VIEWER) | {"last-event-id": "9" * 18})
            await problem(bad, 422, "invalid-request")
        for _ in range(100):
            async with client.stream("GET", events, headers=bearer(OPS)) as again:
                if again.status_code == 200:
                    break
            await asyncio.sleep(0.05)
        else:
            pytest.fail("a place that was left is not free within 5 s")


async def test_a_mistake_behind_the_door_shows_nothing(database_url: str, keys_file: Path) -> None:
    """500 without a trace of it, and the door still stands."""
    guarded = settings(database_url, auth="apiKey", api_keys_file=keys_file)
    app = create_app(guarded, transport=PrefectWire())

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError(f"secret detail {OPS}")

    async with answering(app) as client:
        await problem(await client.get("/boom"), 401, "unauthenticated")
        answer = await client.get("/boom", headers=bearer(OPS))
        await problem(answer, 500, "internal")
        assert "secret detail" not in answer.text
        assert OPS not in answer.text


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_foreign_page_starts_nothing(serve: Serve, site: str) -> None:
    """A page in the browser of somebody with a port-forward must not start runs; programs and our own pages may."""
    async with serve(PrefectWire()) as client:
        refused = await client.post("/api/etl/start", headers={"sec-fetch-site": site})
        assert "another site" in (await problem(refused, 403, "forbidden"))["detail"]
        assert (await client.get("/api/etl/runs", headers={"sec-fetch-site": site})).json()["runs"] == []
        for own in ("same-origin", "none"):
            assert (await client.post("/api/etl/start", headers={"sec-fetch-site": own})).status_code == 202


async def test_the_document_names_the_door(client: httpx.AsyncClient, serve: Serve) -> None:
    """Both ways to send a key, and the answers it may get; without a door neither is there."""
    document = (await client.get("/openapi.json", headers=bearer(OPS))).json()
    schemes = document["components"]["securitySchemes"]
    assert (schemes["bearer"]["scheme"], schemes["key"]["name"]) == ("bearer", "X-Api-Key")
    for path, item in document["paths"].items():
        for operation in item.values():
            guarded = path not in {"/healthz", "/readyz", "/metrics"}
            assert ("security" in operation) == guarded
            assert {"408", "413", "422", "431"} <= set(operation["responses"])
            assert ({"401", "403", "429", "503"} <= set(operation["responses"])) == guarded or path == "/readyz"
            for status, answer in operation["responses"].items():
                assert answer["headers"]["X-Correlation-ID"]["required"]
                assert ("Retry-After" in answer["headers"]) == (status in {"429", "503"})
                assert ("WWW-Authenticate" in answer["headers"]) == (status == "401")
    async with serve(PrefectWire()) as open_client:
        document = (await open_client.get("/openapi.json")).json()
    assert "securitySchemes" not in document["components"]
    assert not any("security" in operation for item in document["paths"].values() for operation in item.values())
    assert "401" not in document["paths"]["/api/pipelines"]["get"]["responses"]
