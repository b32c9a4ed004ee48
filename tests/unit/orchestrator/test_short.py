"""The short way through FastAPI: it answers as the long one does, and is for requests that nothing is wrong with."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import routing

from .conftest import Serve
from .wire import PrefectWire

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests whose arguments FastAPI found."""
    paths = list[str]()
    solve = routing.solve_dependencies

    async def noting(**asked: Any) -> Any:
        paths.append(asked["request"].url.path)
        return await solve(**asked)

    monkeypatch.setattr(routing, "solve_dependencies", noting)
    return paths


async def test_plain_requests_go_past_fastapi_and_are_answered_alike(serve: Serve, solved: list[str]) -> None:
    """A run started on either way is one that both ways to its status tell the same about."""
    async with serve(PrefectWire()) as client:
        short = await client.post("/api/etl/start", content=b'{"logical_date": "2026-03-01"}', headers=JSON)
        assert solved == []
        odd = {"Content-Type": "application/json; charset=utf-8"}
        long = await client.post("/api/etl/start", content=b'{"logical_date": "2026-03-01"}', headers=odd)
        assert solved == ["/api/etl/start"]
        for started in (short, long):
            assert started.status_code == 202, started.text
            where = started.headers["location"]
            shouted = where.replace(started.json()["run_id"], started.json()["run_id"].upper())
            plainly, otherwise = await client.get(where), await client.get(shouted)
            assert solved.pop() == shouted
            assert plainly.status_code == otherwise.status_code == 200
            told = [answer.json() for answer in (plainly, otherwise)]
            for one in told:  # handing over goes on between the two
                one.update(dispatch=None, dispatched_at=None, flow_run_id=None)
            assert told[0] == told[1]
            assert told[0]["logical_date"] == "2026-03-01"
        assert set(short.headers) == set(long.headers)


async def test_no_body_is_a_plain_request(serve: Serve, solved: list[str]) -> None:
    """All defaults."""
    async with serve(PrefectWire()) as client:
        assert (await client.post("/api/etl/start")).status_code == 202
        assert solved == []


@pytest.mark.parametrize(
    ("asked", "body", "headers", "status"),
    [
        ("POST /api/elt/start", b"{}", JSON, 404),
        ("POST /api/etl/start", b'{"logical_date": 1}', JSON, 422),
        ("POST /api/etl/start", b'{"unknown": 1}', JSON, 422),
        ("POST /api/etl/start", b"[]", JSON, 422),
        ("POST /api/etl/start", b"{}", {"Content-Type": "text/plain"}, 422),
        ("POST /api/etl/start", b"{}", {}, 422),
        ("POST /api/etl/start", b"null", JSON, 202),
        ("POST /api/etl/start", b"{}", JSON | {"Idempotency-Key": "one"}, 202),
        ("POST /api/etl/start", b"{}", JSON | {"Idempotency-Key": "o ne"}, 422),
        (f"GET /api/elt/status/{UUID(int=7)}", b"", {}, 404),
        ("GET /api/etl/status/one", b"", {}, 422),
        ("GET /api/etl/runs", b"", {}, 200),
    ],
)
async def test_everything_else_is_left_to_fastapi(
    serve: Serve, solved: list[str], *, asked: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    """It says what is wrong, in its own words."""
    method, path = asked.split()
    async with serve(PrefectWire()) as client:
        answer = await client.request(method, path, content=body, headers=headers)
        assert answer.status_code == status, answer.text
        assert solved == [path]


async def test_what_a_plain_request_asks_for_may_be_missing(serve: Serve, solved: list[str]) -> None:
    """An error of ours is answered on the short way too."""
    async with serve(PrefectWire()) as client:
        run_id = uuid4()
        answer = await client.get(f"/api/etl/status/{run_id}")
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:pipelines:problem:unknown-run")
        assert str(run_id) in answer.json()["detail"]
        answer = await client.post("/api/etl/start", content=b'{"logical_date": "soon"}', headers=JSON)
        assert answer.status_code == 422, answer.text
        assert solved == []
