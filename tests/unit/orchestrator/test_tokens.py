"""The door of Kubernetes, with the API server played on a real port; and the memory between the two."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from typing import Any

import httpx
import pytest
import structlog
from aiohttp import web
from orchestrator.app import create_app
from orchestrator.doors.memory import Memory
from orchestrator.errors import TooManyRequests

from .cluster import TOKEN, ClusterWire, refusal, saying, silent
from .conftest import answering, settings
from .test_api import problem
from .test_doors import BOTH, bearer
from .test_rates import Clock
from .wire import PrefectWire

CI = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjaSJ9.c2lnbmF0dXJl"
OPS = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJvcHMifQ.c2lnbmF0dXJl"
# What any cluster lets any user do, by the ClusterRole system:discovery.
DISCOVERY = [("get", path) for path in ("/api", "/api/*", "/apis", "/apis/*", "/healthz", "/openapi/*", "/version")]
CI_NAME = "system:serviceaccount:data:ci"


class ReviewsWire(ClusterWire):
    """An API server that knows two tokens, and by RBAC lets one call little and one everything."""

    def __init__(self) -> None:
        super().__init__()
        self.fault = self.review
        self.audiences = ["https://kubernetes.default.svc"]
        self.tokens = {CI: CI_NAME, OPS: "ops@example.com"}
        self.rules = {
            CI_NAME: [("post", "/orchestrator/api/etl/start"), ("get", "/orchestrator/api/etl/*")],
            "ops@example.com": [("*", "/*")],
        }
        self.token_reviews: list[dict[str, Any]] = []
        self.access_reviews: list[dict[str, Any]] = []

    async def review(self, request: web.Request) -> web.StreamResponse:
        """TokenReview and SubjectAccessReview, as the API server answers them."""
        assert request.headers["authorization"] == f"Bearer {TOKEN}", "the service shows its own token, not a caller's"
        asked = json.loads(await request.read())
        spec = asked["spec"]
        status: dict[str, Any]
        if request.path == "/apis/authentication.k8s.io/v1/tokenreviews":
            self.token_reviews.append(spec)
            name = self.tokens.get(spec["token"])
            audiences = [one for one in spec.get("audiences", self.audiences) if one in self.audiences]
            if name is None or not audiences:
                status = {"user": {}, "error": "invalid bearer token"}
            else:
                user = {"username": name, "uid": "u-1", "groups": ["system:authenticated"], "extra": {"a": ["b"]}}
                status = {"authenticated": True, "user": user, "audiences": audiences}
        elif request.path == "/apis/authorization.k8s.io/v1/subjectaccessreviews":
            self.access_reviews.append(spec)
            assert spec["groups"] == ["system:authenticated"]
            assert (spec["uid"], spec["extra"]) == ("u-1", {"a": ["b"]})
            wanted = spec["nonResourceAttributes"]
            allowed = any(
                verb in {"*", wanted["verb"]} and fnmatchcase(wanted["path"], path)
                for verb, path in [*self.rules.get(spec["user"], []), *DISCOVERY]
            )
            status = {"allowed": allowed, "reason": ""}
        else:
            return refusal(404, "the server could not find the requested resource")
        return web.json_response(asked | {"status": status}, status=201)


@asynccontextmanager
async def guarded(database_url: str, wire: ReviewsWire, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application behind the door of Kubernetes."""
    asked = settings(database_url, pipelines=BOTH, auth="kubernetes", **more)
    async with wire.served() as kubernetes:
        app = create_app(asked, kubernetes=kubernetes, transport=PrefectWire())
        async with answering(app) as client:
            yield client


async def test_a_token_is_reviewed_and_its_user_by_rbac(database_url: str) -> None:
    """401 for nobody's, 403 with the verb and the path that are missing, else the answer."""
    wire = ReviewsWire()
    async with guarded(database_url, wire) as client:
        missing = await client.post("/api/etl/start")
        assert "kubectl create token" in (await problem(missing, 401, "unauthenticated"))["detail"]
        bad = await client.post("/api/etl/start", headers=bearer(CI[:-1]))
        await problem(bad, 401, "unauthenticated")
        assert bad.headers["www-authenticate"].endswith('error="invalid_token"')
        started = await client.post("/api/etl/start", headers=bearer(CI))
        assert started.status_code == 202, started.text
        assert (await client.get(started.headers["location"], headers=bearer(CI))).status_code == 200
        path = f"/api/etl/cancel/{started.json()['run_id']}"
        told = await problem(await client.post(path, headers=bearer(CI)), 403, "forbidden")
        assert f"{CI_NAME} may not cancel in the pipeline etl" in told["detail"]
        assert f"the verb post on the nonResourceURL /orchestrator{path}" in told["detail"]
        assert (await client.post(path, headers=bearer(OPS))).status_code == 202
        for name in ("other", "nowhere"):
            refused = await problem(await client.get(f"/api/{name}/runs", headers=bearer(CI)), 403, "forbidden")
            assert refused["detail"].startswith(f"{CI_NAME} may not read in the pipeline {name}; ")


async def test_the_clusters_own_paths_are_no_right(database_url: str) -> None:
    """Any user may `get` the cluster's `/api/*`: here that is nothing. Who may scrape the cluster may scrape this."""
    wire = ReviewsWire()
    wire.rules[CI_NAME] = [("get", "/metrics")]
    async with guarded(database_url, wire, metrics_open=False) as client:
        for path in ("/api/etl/runs", "/api/pipelines", "/openapi.json"):
            await problem(await client.get(path, headers=bearer(CI)), 403, "forbidden")
        assert (await client.get("/metrics", headers=bearer(CI))).status_code == 200


async def test_pipelines_are_those_that_rbac_lets_one_read(database_url: str) -> None:
    """By the path of each one's runs."""
    wire = ReviewsWire()
    wire.rules[CI_NAME].append(("get", "/orchestrator/api/pipelines"))
    async with guarded(database_url, wire) as client:
        listed = (await client.get("/api/pipelines", headers=bearer(CI))).json()["pipelines"]
        assert [one["name"] for one in listed] == ["etl"]
        everything = (await client.get("/api/pipelines", headers=bearer(OPS))).json()["pipelines"]
        assert [one["name"] for one in everything] == ["etl", "other"]


async def test_the_cluster_is_asked_once_for_many(database_url: str) -> None:
    """For requests at once and for those that follow soon."""
    wire = ReviewsWire()
    async with guarded(database_url, wire) as client:
        calls = [client.get("/api/etl/runs", headers=bearer(CI)) for _ in range(20)]
        assert {one.status_code for one in await asyncio.gather(*calls)} == {200}
        assert (await client.get("/api/etl/runs", headers=bearer(CI))).status_code == 200
        assert (len(wire.token_reviews), len(wire.access_reviews)) == (1, 1)


async def test_a_token_for_somebody_else_is_nobodys(database_url: str) -> None:
    """Where an audience is set, a token has to be made for it."""
    wire = ReviewsWire()
    async with guarded(database_url, wire, token_audience="pipelines") as client:
        await problem(await client.get("/api/etl/runs", headers=bearer(CI)), 401, "unauthenticated")
        assert wire.token_reviews[0]["audiences"] == ["pipelines"]
    wire.audiences.append("pipelines")
    async with guarded(database_url, wire, token_audience="pipelines") as client:
        assert (await client.get("/api/etl/runs", headers=bearer(CI))).status_code == 200


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (saying(503, "etcd is away"), "try again"),
        (saying(500, "panic"), "try again"),
        (saying(401, "Unauthorized"), "try again"),
        (saying(403, "tokenreviews is forbidden"), "system:auth-delegator"),
        (silent, "try again"),
    ],
)
async def test_without_the_cluster_nobody_comes_in(database_url: str, fault: Any, told: str) -> None:
    """503 with Retry-After, soon; the probes still answer."""
    wire = ReviewsWire()
    wire.fault = fault
    async with guarded(database_url, wire) as client:
        answer = await client.get("/api/etl/runs", headers=bearer(OPS))
        assert told in (await problem(answer, 503, "door-unavailable"))["detail"]
        assert int(answer.headers["retry-after"]) >= 1
        assert (await client.get("/healthz")).status_code == 200


async def test_a_nonsense_answer_lets_nobody_in(database_url: str) -> None:
    """What is no review is no yes."""
    wire = ReviewsWire()

    async def nonsense(request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": {"authenticated": "perhaps"}})

    wire.fault = nonsense
    async with guarded(database_url, wire) as client:
        assert (await client.get("/api/etl/runs", headers=bearer(OPS))).status_code == 503


async def test_a_flood_of_bad_tokens_does_not_reach_the_cluster(database_url: str) -> None:
    """Only so many are asked about; a token that was good a while ago still is."""
    wire = ReviewsWire()
    async with guarded(database_url, wire, refusals_per_second=1) as client:
        assert (await client.get("/api/etl/runs", headers=bearer(CI))).status_code == 200
        calls = [client.get("/api/etl/runs", headers=bearer(f"bad.{number}")) for number in range(60)]
        statuses = [one.status_code for one in await asyncio.gather(*calls)]
        assert set(statuses) == {401, 429}
        assert len(wire.token_reviews) == 1 + statuses.count(401) < 30
        assert (await client.get("/api/etl/runs", headers=bearer(CI))).status_code == 200


async def test_no_token_is_kept_or_told(database_url: str) -> None:
    """Not in the log, whatever happens to it."""
    wire = ReviewsWire()
    with structlog.testing.capture_logs() as told:
        async with guarded(database_url, wire) as client:
            await client.get("/api/etl/runs", headers=bearer(CI))
            await client.get("/api/etl/runs", headers=bearer(OPS[:-1]))
            wire.fault = saying(500, "panic")
            failed = await client.get("/api/other/runs", headers=bearer(OPS))
            assert OPS not in failed.text
    assert any(one.get("caller") == CI_NAME for one in told)
    assert not any(token in str(told) for token in (CI, OPS, TOKEN))


async def test_a_good_answer_lasts_longer_than_a_bad_one() -> None:
    """And neither lasts; at most so many are kept; a failure is no answer."""
    clock = Clock()
    memory: Memory[int, bool] = Memory(bool, good_seconds=10, bad_seconds=2, most=3, clock=clock)
    asked: list[int] = []

    async def ask(key: int) -> bool:
        asked.append(key)
        if key < 0:
            raise OSError("away")
        return key % 2 == 0

    for _ in range(2):
        assert await memory.recall(2, lambda: ask(2)) is True
        assert await memory.recall(1, lambda: ask(1)) is False
    assert asked == [2, 1]
    clock.now += 2
    await memory.recall(2, lambda: ask(2))
    await memory.recall(1, lambda: ask(1))
    assert asked == [2, 1, 1]
    clock.now += 8
    await memory.recall(2, lambda: ask(2))
    assert asked == [2, 1, 1, 2]
    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            await memory.recall(-1, lambda: ask(-1))
    assert asked[-2:] == [-1, -1]
    for key in range(100):
        await memory.recall(key, lambda key=key: ask(key))  # type: ignore[misc]
    assert len(memory) == 3


async def test_what_was_good_once_is_worth_asking_about() -> None:
    """`before` stands between an unknown key and the question, and between one that was bad."""
    clock = Clock()
    memory: Memory[str, bool] = Memory(bool, good_seconds=10, bad_seconds=2, most=3, clock=clock)

    def full() -> None:
        raise TooManyRequests("full", retry_after=1)

    async def answer(good: bool) -> bool:
        return good

    with pytest.raises(TooManyRequests):
        await memory.recall("a", lambda: answer(True), before=full)
    assert await memory.recall("a", lambda: answer(True))
    assert not await memory.recall("b", lambda: answer(False))
    clock.now += 11
    assert await memory.recall("a", lambda: answer(True), before=full)
    with pytest.raises(TooManyRequests):
        await memory.recall("b", lambda: answer(False), before=full)


async def test_who_leaves_takes_nothing_from_the_others() -> None:
    """A caller who hangs up while the cluster is asked; and one whose question failed with nobody left to hear it."""
    memory: Memory[str, bool] = Memory(bool, good_seconds=10, bad_seconds=2, most=3)
    going = asyncio.Event()

    async def ask() -> bool:
        await going.wait()
        return True

    first = asyncio.create_task(memory.recall("a", ask))
    second = asyncio.create_task(memory.recall("a", ask))
    await asyncio.sleep(0)
    first.cancel()
    going.set()
    assert await second is True
    with pytest.raises(asyncio.CancelledError):
        await first

    async def fail() -> bool:
        await asyncio.sleep(0)
        raise OSError("away")

    alone = asyncio.create_task(memory.recall("c", fail))
    await asyncio.sleep(0)
    alone.cancel()
    await asyncio.gather(alone, return_exceptions=True)
    await asyncio.sleep(0.01)
    assert len(memory) == 1
