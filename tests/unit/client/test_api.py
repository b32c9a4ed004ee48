"""The typed client where a service does what a real one cannot be made to do."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from pipelines_client import api
from pipelines_client.answers import LogLine, LogState
from pipelines_client.api import connect
from pipelines_client.errors import Confused, NotAllowed, Refused, TimedOut, Unreachable

RUN = UUID(int=7)
LINE = {
    "id": str(UUID(int=1)),
    "at": "2026-03-02T08:00:41Z",
    "level": "info",
    "logger": "prefect.flow_runs",
    "message": "hello",
    "task_run_id": None,
}


def answering(handler: Callable[[httpx.Request], httpx.Response]) -> Any:
    return connect("http://api.test", key="k", transport=httpx.MockTransport(handler))


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        (httpx.Response(502, text="<html>bad gateway"), Confused, "HTTP 502 by something that is not the orchestrator"),
        (httpx.Response(302, headers={"location": "/login"}), Confused, "HTTP 302"),
        (httpx.Response(200, text="<html>"), Confused, "not what this client knows"),
        (httpx.Response(200, json={"pipelines": [{"name": 1}]}), Confused, "pipelines.0.name"),
    ],
)
def test_who_is_not_the_orchestrator_is_told(answer: httpx.Response, error: type[Exception], told: str) -> None:
    """A proxy's page, a login, another service: none is taken for an answer."""
    with answering(lambda _: answer) as client, pytest.raises(error, match=told):
        client.pipelines()


@pytest.mark.parametrize("error", [httpx.ConnectTimeout, httpx.ReadError, httpx.RemoteProtocolError, httpx.ReadTimeout])
def test_a_network_that_fails_is_told(error: type[httpx.TransportError]) -> None:
    """With the address, and how to name another."""

    def failing(request: httpx.Request) -> httpx.Response:
        raise error("so", request=request)

    with answering(failing) as client, pytest.raises(Unreachable, match="/api/pipelines: ") as raised:
        client.pipelines()
    assert raised.value.hint is not None


def event(name: str, data: Any, place: str | None = None) -> bytes:
    begun = f"id: {place}\n" if place else ""
    return f"{begun}event: {name}\ndata: {json.dumps(data)}\n\n".encode()


class Breaking(httpx.SyncByteStream):
    """A stream that sends what it has and then breaks."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        raise httpx.ReadError("broken")


RUNNING = {"state": "Running", "state_name": "Running", "message": None}
COMPLETED = {"state": "Completed", "state_name": "Completed", "message": None}


def test_a_stream_that_breaks_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the last line on, over refusals that pass and ends that are not the run's; no state is told twice."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    asked: list[httpx.Request] = []
    problem = {"type": "urn:pipelines:problem:engine-unavailable", "title": "x", "status": 503, "detail": "away"}
    answers = [
        httpx.Response(200, stream=Breaking(b"retry: 2000\n\n", event("state", RUNNING), event("line", LINE, "p1"))),
        httpx.Response(503, json=problem),
        httpx.Response(200, content=event("state", RUNNING) + event("end", {"reason": "shutting down", "over": False})),
        httpx.Response(
            200,
            content=b": still here\n\n"
            + event("line", LINE | {"message": "bye"}, "p2")
            + event("state", COMPLETED)
            + event("end", {"reason": "the run is over", "over": True}),
        ),
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answers.pop(0)

    with answering(answer) as client:
        told = list(client.follow("etl", RUN, tail=5))
    assert [one.message if isinstance(one, LogLine) else one.state for one in told] == [
        *("Running", "hello", "bye", "Completed")
    ]
    assert [one.headers.get("last-event-id") for one in asked] == [None, "p1", "p1", "p1"]
    assert [one.url.params.get("tail") for one in asked] == ["5", None, None, None]
    assert {one.headers["authorization"] for one in asked} == {"Bearer k"}


def test_a_stream_that_cannot_begin_is_an_error() -> None:
    """What is refused at once is not waited for."""
    problem = {"type": "urn:pipelines:problem:engine-unavailable", "title": "x", "status": 503, "detail": "away"}
    with answering(lambda _: httpx.Response(503, json=problem)) as client, pytest.raises(Refused, match="away"):
        list(client.follow("etl", RUN))
    problem |= {"status": 403, "detail": "you may not"}
    with answering(lambda _: httpx.Response(403, json=problem)) as client, pytest.raises(NotAllowed, match="may not"):
        list(client.follow("etl", RUN))


def test_a_follower_gives_up_what_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """After half a minute, or when its own time is over."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(api, "RECONNECT_SECONDS", 0.05)
    begun = [httpx.Response(200, stream=Breaking(event("state", RUNNING)))]

    def answer(request: httpx.Request) -> httpx.Response:
        if begun:
            return begun.pop()
        raise httpx.ConnectError("refused", request=request)

    with answering(answer) as client:
        following = client.follow("etl", RUN)
        assert isinstance(next(following), LogState)
        with pytest.raises(Unreachable):
            next(following)
        with pytest.raises(TimedOut):
            list(client.follow("etl", RUN, deadline=time.monotonic() - 1))
