"""OWASP's API security risks of 2023, one test for each that this API could have, in their order."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from orchestrator.app import create_app
from orchestrator.doors import browsing

from .conftest import Serve, answering, settings
from .test_api import problem
from .test_doors import BOTH, bearer, every_route
from .test_keys import CI, OPS, write
from .wire import PrefectWire


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    """One key of everything and one of another pipeline."""
    return write(
        tmp_path / "keys.json",
        {"name": "ops", "key": OPS},
        {"name": "ci", "key": CI, "may": {"other": ["read", "cancel"]}},
    )


async def test_1_object_level(database_url: str, keys_file: Path) -> None:
    """An id is no right: another pipeline's run is not there, under its own pipeline's name nor under another."""
    guarded = settings(database_url, pipelines=BOTH, auth="apiKey", api_keys_file=keys_file)
    async with answering(create_app(guarded, transport=PrefectWire())) as client:
        run_id = (await client.post("/api/etl/start", headers=bearer(OPS))).json()["run_id"]
        for method, path in (("GET", "status"), ("POST", "cancel")):
            own = await client.request(method, f"/api/etl/{path}/{run_id}", headers=bearer(CI))
            await problem(own, 404, "unknown-pipeline")
            other = await client.request(method, f"/api/other/{path}/{run_id}", headers=bearer(CI))
            await problem(other, 404, "unknown-run")
        state = (await client.get(f"/api/etl/status/{run_id}", headers=bearer(OPS))).json()
        assert state["cancel_requested_at"] is None


async def test_2_authentication(database_url: str, keys_file: Path) -> None:
    """A credential counts in a header alone: not in the address, where logs would have it, nor in a cookie."""
    guarded = settings(database_url, auth="apiKey", api_keys_file=keys_file)
    async with answering(create_app(guarded, transport=PrefectWire())) as client:
        for name in ("key", "api_key", "access_token", "X-API-Key"):
            await problem(await client.get("/api/pipelines", params={name: OPS}), 401, "unauthenticated")
        cookie = await client.get("/api/pipelines", headers={"cookie": f"X-API-Key={OPS}; authorization=Bearer {OPS}"})
        await problem(cookie, 401, "unauthenticated")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("start", {"run_id": str(uuid4())}),
        ("start", {"state": "Completed"}),
        ("start", {"idempotency_key": "a"}),
        ("start", {"tags": ["a"], "job_variables": {"image": "evil"}}),
        ("start", {"deployment": "other_job/x"}),
        ("backfill", {"from": "2026-03-01", "to": "2026-03-01", "mode": "all", "parameters": {"sample": 2}}),
        ("backfill", {"from": "2026-03-01", "to": "2026-03-01", "mode": "all", "count": 0}),
    ],
)
async def test_3_property_level(serve: Serve, path: str, body: dict[str, Any]) -> None:
    """What is not asked for is refused, never passed on or written down."""
    wire = PrefectWire()
    async with serve(wire) as client:
        assert (
            "Extra inputs"
            in (await problem(await client.post(f"/api/etl/{path}", json=body), 422, "invalid-request"))["detail"]
        )
        assert (await client.get("/api/etl/runs")).json()["runs"] == []
    assert wire.creations == []


async def test_4_resources(serve: Serve) -> None:
    """A page, a range, a body, a head and a number have their limits."""
    async with serve(PrefectWire()) as client:
        for path in ("/api/etl/runs?limit=501", "/api/etl/runs.csv?limit=501", "/api/etl/runs?cursor=" + "a" * 201):
            await problem(await client.get(path), 422, "invalid-request")
        years = {"from": "1990-01-01", "to": "2026-03-01", "mode": "all"}
        await problem(await client.post("/api/etl/backfill", json=years), 422, "invalid-request")
        greedy = {"from": "2026-03-01", "to": "2026-03-01", "mode": "all", "max_concurrent": 101}
        await problem(await client.post("/api/etl/backfill", json=greedy), 422, "invalid-request")
        await problem(await client.post("/api/etl/start", content=b"a" * 70_000), 413, "body-too-large")


async def test_5_function_level(serve: Serve) -> None:
    """Nothing of Prefect's API is passed through, and no method does what its route does not name."""
    wire = PrefectWire()
    async with serve(wire) as client:
        wire.requests.clear()
        for path in ("/api/admin/settings", "/api/deployments/filter", "/api/flow_runs/filter", "/api/health", "/docs"):
            for method in ("GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT"):
                assert (await client.request(method, path)).status_code in {404, 405}, (method, path)
        for method, path in await every_route(client):
            for other in {"GET", "POST", "PUT", "PATCH", "DELETE"} - {method}:
                answer = await client.request(other, path)
                assert answer.status_code == 405
                assert method in answer.headers["allow"]
        for spoofed in ("x-http-method-override", "x-method-override"):
            answer = await client.get("/api/etl/runs", headers={spoofed: "POST"})
            assert answer.status_code == 200
    assert not [one for one in wire.requests if "admin" in one.url.path]


async def test_6_business_flow(serve: Serve) -> None:
    """A start that is replayed under its key is one run, however often."""
    async with serve(PrefectWire()) as client:
        answers = [await client.post("/api/etl/start", headers={"idempotency-key": "once"}) for _ in range(5)]
        assert len({one.json()["run_id"] for one in answers}) == 1


async def test_7_no_address_of_a_caller_is_called(serve: Serve) -> None:
    """Whatever looks like one, in whichever place: all this service calls is its Prefect."""
    wire = PrefectWire()
    evil = "http://169.254.169.254/latest/meta-data"
    async with serve(wire) as client:
        await client.post(
            "/api/etl/start", json={"parameters": {"note": evil, "options": {"$schema": evil, "url": evil}}}
        )
        await client.post("/api/etl/start", json={"parameters": {"options": {"$ref": evil}}})
        await client.get("/api/etl/runs", headers={"host": "169.254.169.254", "x-forwarded-host": "169.254.169.254"})
        answer = await client.post("/api/etl/start", headers={"host": "evil.test"})
        assert answer.headers["location"].startswith("/api/etl/status/")
    assert {one.url.host for one in wire.requests} == {"prefect.test"}


async def test_8_configuration(database_url: str, keys_file: Path) -> None:
    """Every answer: no sniffing, no storing, no word of the server, no origin let in; no page of documentation."""
    guarded = settings(database_url, auth="apiKey", api_keys_file=keys_file)
    async with answering(create_app(guarded, transport=PrefectWire())) as client:
        routes = [one for one in await every_route(client) if not one[1].endswith("/events")]
        for method, path in [*routes, ("GET", "/nowhere"), ("GET", "/docs"), ("GET", "/redoc")]:
            for headers in (bearer(OPS), {}):
                answer = await client.request(method, path, headers=headers | {"origin": "https://evil.test"})
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["cache-control"] == "no-store"
                assert not {"server", "x-powered-by", "access-control-allow-origin", "set-cookie"} & set(answer.headers)
                assert "Traceback" not in answer.text


async def test_9_inventory(serve: Serve, database_url: str) -> None:
    """What is served is what is described, the pages that are listed here, and nothing beside it."""
    app = create_app(settings(database_url), transport=PrefectWire())
    served = {(route.path, method) for route in _flat(app.routes) for method in route.methods or ()}
    async with serve(PrefectWire()) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    described = {(path, method.upper()) for path, item in paths.items() for method in item}
    pages = {one for one in served if browsing.is_page(one[0])}
    assert {one for one in served - pages if one[1] != "HEAD"} == described | {("/openapi.json", "GET")}
    of_one = "/pipelines/{pipeline}"
    assert pages == {
        ("/", "GET"),
        ("/live", "GET"),
        ("/sign-in", "GET"),
        ("/sign-in", "POST"),
        ("/sign-out", "POST"),
        ("/static/{name}", "GET"),
        (of_one, "GET"),
        (f"{of_one}/{{day}}", "GET"),
        (f"{of_one}/runs/{{run_id}}", "GET"),
        (f"{of_one}/backfill/{{backfill_id}}", "GET"),
        (f"{of_one}/start", "POST"),
        (f"{of_one}/cancel/{{run_id}}", "POST"),
        (f"{of_one}/backfill", "POST"),
        (f"{of_one}/backfill/{{backfill_id}}/{{what}}", "POST"),
    }


def _flat(routes: Any) -> list[Any]:
    """The routes, those of included routers too."""
    found: list[Any] = []
    for one in routes:
        found += [one] if hasattr(one, "methods") else _flat(one.effective_candidates())
    return found


async def test_10_prefects_answers_are_not_believed(serve: Serve) -> None:
    """Garbage, another's page and an endless redirect are told apart from a run."""
    for fault in (
        lambda _: httpx.Response(200, text="<html>"),
        lambda _: httpx.Response(200, json=[]),
        lambda request: httpx.Response(302, headers={"location": str(request.url)}),
        lambda _: httpx.Response(200, content=json.dumps({"id": "x" * 100_000}).encode()),
    ):
        wire = PrefectWire()
        wire.fault = fault
        async with serve(wire) as client:
            await problem(await client.post("/api/etl/start"), 502, "engine-confused")
