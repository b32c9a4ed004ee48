"""Prefect's HTTP as it is spoken: who we say we are, what counts as away, as no, and as nonsense."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from orchestrator import prefect_api
from orchestrator.errors import EngineConfused, EngineRefused, EngineUnavailable
from orchestrator.prefect_api import PrefectApi
from orchestrator.resilience import Guard, Limits

from .conftest import settings
from .wire import DEPLOYMENT, PrefectWire, saying

URL = "postgresql://u:p@db/orchestrator"
OUTAGES: list[type[httpx.TransportError]] = [
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.RemoteProtocolError,
    httpx.PoolTimeout,
]


@contextlib.asynccontextmanager
async def prefect_on(
    transport: httpx.AsyncBaseTransport | None, *, limits: Limits | None = None, **more: Any
) -> AsyncIterator[tuple[PrefectApi, list[tuple[str, str]]]]:
    """The client on that transport, and the calls it told of."""
    told: list[tuple[str, str]] = []
    quick = limits or Limits(attempts=2, backoff_first=0.001, backoff_most=0.001, budget_ratio=1.0)
    async with prefect_api.client(settings(URL, **more), transport=transport) as client:
        observe: Callable[[str, str, float], None] = lambda operation, outcome, _: told.append((operation, outcome))  # noqa: E731
        yield PrefectApi(client, Guard("prefect", limits=quick), observe=observe), told


async def test_the_auth_string_is_sent_as_basic_auth() -> None:
    """A password may hold colons; without an auth string nothing is sent."""
    wire = PrefectWire()
    async with prefect_on(wire, prefect_auth_string="admin:pa:ss") as (prefect, _):
        await prefect.ready()
    assert wire.requests[-1].headers["authorization"] == httpx.BasicAuth("admin", "pa:ss")._auth_header
    assert "admin" not in repr(settings(URL, prefect_auth_string="admin:pass"))
    async with prefect_on(wire) as (prefect, _):
        await prefect.ready()
    assert "authorization" not in wire.requests[-1].headers


async def test_names_are_quoted() -> None:
    """A deployment's name is data, not a path."""
    wire = PrefectWire()
    async with prefect_on(wire) as (prefect, _):
        assert await prefect.deployment("a flow/..%2F?x=1") is None
    assert wire.requests[-1].url.raw_path == b"/api/deployments/name/a%20flow/..%252F%3Fx%3D1"


@pytest.mark.parametrize("kind", OUTAGES)
async def test_a_broken_connection_is_tried_again(kind: type[httpx.TransportError]) -> None:
    """Every call here reads or carries a key: what broke may be repeated."""
    wire = PrefectWire()

    def once(request: httpx.Request) -> httpx.Response:
        wire.fault = None
        raise kind("broken", request=request)

    wire.fault = once
    async with prefect_on(wire) as (prefect, told):
        assert wire.deployment is not None
        deployment = await prefect.deployment(DEPLOYMENT)
        assert deployment is not None
        wire.fault = once
        key = str(uuid4())
        made = await prefect.create_flow_run(
            deployment.deployment_id, key=key, parameters={}, tags=[], labels={}, job_variables={}
        )
    assert (len(wire.requests), wire.keys) == (4, [key])
    assert str(made.flow_run_id) in wire.flow_runs
    assert told == [("deployment", "ok"), ("create_flow_run", "ok")]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_what_passes_is_unavailable(status: int) -> None:
    """500 as well: it is Prefect's answer while its own database is away."""
    wire = PrefectWire()
    wire.fault = saying(status, headers={"retry-after": "0"})
    async with prefect_on(wire) as (prefect, told):
        with pytest.raises(EngineUnavailable, match=str(status)):
            await prefect.ready()
    assert len(wire.requests) == 2
    assert told == [("ready", "unavailable")]


async def test_retry_after_reaches_the_caller() -> None:
    """Prefect's own word on when to come back; a date, or nonsense, is as good as nothing."""
    wire = PrefectWire()
    async with prefect_on(wire, limits=Limits(attempts=1, failures_to_open=9)) as (prefect, _):
        for header, expected in (("17", 17.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-5", 0.0), ("9999", 60.0)):
            wire.fault = saying(503, headers={"retry-after": header})
            with pytest.raises(EngineUnavailable) as raised:
                await prefect.ready()
            assert raised.value.retry_after == expected


@pytest.mark.parametrize("status", [401, 403])
async def test_wrong_credentials_are_named(status: int) -> None:
    """Not counted as an outage, and told with the variable to set."""
    wire = PrefectWire()
    wire.fault = saying(status)
    async with prefect_on(wire, limits=Limits(failures_to_open=1)) as (prefect, told):
        for _ in range(3):
            with pytest.raises(EngineUnavailable, match="ORCHESTRATOR_PREFECT_AUTH_STRING"):
                await prefect.ready()
        assert prefect.breaker == "closed"
    assert told == [("ready", "denied")] * 3


@pytest.mark.parametrize("status", [400, 404, 409, 422])
async def test_a_no_is_told_with_its_reason(status: int) -> None:
    """Not repeated, not counted."""
    wire = PrefectWire()
    wire.fault = saying(status, json={"detail": "because"})
    async with prefect_on(wire, limits=Limits(failures_to_open=1)) as (prefect, told):
        with pytest.raises(EngineRefused, match="because") as raised:
            await prefect.ready()
        assert (raised.value.status, prefect.breaker, len(wire.requests)) == (status, "closed", 1)
    assert told == [("ready", "refused")]


@pytest.mark.parametrize(
    "answer",
    [
        saying(200, text="<html>welcome</html>", json=None),
        saying(200, json={}),
        saying(200, json=[{"id": "7"}]),
        saying(200, json=None, content=b"\xff\xfe"),
        saying(200, json=None, content=b'{"id": "tru'),
        saying(404, json=None, text="404 page not found"),
        saying(302, headers={"location": "http://elsewhere.test/"}),
    ],
)
async def test_nonsense_is_told_apart(answer: Any) -> None:
    """A page, another shape, half an answer, a proxy's 404, a redirect: none is followed or believed."""
    wire = PrefectWire()
    wire.fault = answer
    async with prefect_on(wire) as (prefect, told):
        with pytest.raises(EngineConfused):
            await prefect.deployment(DEPLOYMENT)
    assert len(wire.requests) == 1
    assert told[0][0] == "deployment"


async def test_an_open_circuit_sends_nothing() -> None:
    """After five failures the next call is refused here, with the time to come back."""
    wire = PrefectWire()
    wire.fault = saying(503)
    async with prefect_on(wire, limits=Limits(attempts=1)) as (prefect, told):
        for _ in range(5):
            with pytest.raises(EngineUnavailable):
                await prefect.ready()
        sent = len(wire.requests)
        with pytest.raises(EngineUnavailable, match="left alone") as raised:
            await prefect.ready()
        assert (len(wire.requests), prefect.breaker) == (sent, "open")
        assert raised.value.retry_after is not None
        assert 1 <= raised.value.retry_after <= 5
    assert told[-1] == ("ready", "circuit_open")


async def test_a_server_that_hangs_is_left_in_time() -> None:
    """A real socket that takes the request and says nothing."""
    hung: list[asyncio.StreamWriter] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hung.append(writer)

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    limits = Limits(total=0.5, attempt=0.1, attempts=2, budget_ratio=1.0)
    try:
        url = f"http://127.0.0.1:{port}/api"
        async with prefect_on(None, limits=limits, prefect_api_url=url) as (prefect, _):
            began = asyncio.get_running_loop().time()
            with pytest.raises(EngineUnavailable, match=r"no answer within 0\.1 s"):
                await prefect.ready()
            assert asyncio.get_running_loop().time() - began < 2
    finally:
        server.close()
        for writer in hung:
            writer.close()
        await server.wait_closed()


async def test_idle_connections_are_dropped_before_uvicorn_drops_them() -> None:
    """Prefect's server closes after 5 s; a connection must not be reused at that moment."""
    async with prefect_api.client(settings(URL)) as client:
        pool = client._transport._pool  # type: ignore[attr-defined]
        assert 0 < pool._keepalive_expiry <= 3


async def test_flow_runs_are_asked_for_two_hundred_at_a_time() -> None:
    """More would be refused."""
    wire = PrefectWire()
    ids = [wire.add("RUNNING")["id"] for _ in range(401)]
    async with prefect_on(wire) as (prefect, _):
        found = await prefect.flow_runs(ids)
    assert {str(one.flow_run_id) for one in found} == set(ids)
    sizes = [len(json.loads(request.content)["flow_runs"]["id"]["any_"]) for request in wire.requests]
    assert max(sizes) == 200


@pytest.mark.parametrize(("failures_to_open", "most"), [(5, 0.5), (10**9, 1.1)], ids=["as shipped", "no circuit"])
async def test_a_full_outage_is_hardly_amplified_on_the_wire(failures_to_open: int, most: float) -> None:
    """What a dead server's port counts, of calls from many callers: a tenth more at most, and with the circuit less."""
    offered, requests = 400, 0

    async def dead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        asked = await reader.read(65536)
        requests += bool(asked)
        writer.close()

    server = await asyncio.start_server(dead, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api"
    limits = Limits(failures_to_open=failures_to_open, backoff_first=0.001, backoff_most=0.01)
    async with server, prefect_api.client(settings(URL, url)) as http:
        api = PrefectApi(http, Guard("prefect", limits=limits))

        async def caller() -> None:
            for _ in range(offered // 20):
                with pytest.raises(EngineUnavailable):
                    await api.ready()

        await asyncio.gather(*(caller() for _ in range(20)))
    assert 0 < requests <= offered * most
