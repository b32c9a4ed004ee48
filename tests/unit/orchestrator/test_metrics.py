"""What is asked of /metrics by the chart's alerts and its dashboard is there, under those names."""

import asyncio
import re
import time
from typing import Any

import httpx
import pytest
import yaml
from orchestrator import diagnosis, sync
from orchestrator.catalogue import CATALOGUE

from .cluster import NAMESPACE, ClusterWire
from .conftest import Serve, eventually
from .queries import CHART, TARGET, Query, Reading, alerts, dashboard
from .test_diagnosis import adopted
from .test_service import samples
from .wire import PrefectWire, refused

QUERIES = [*alerts(), *dashboard()]


async def told(client: httpx.AsyncClient) -> str:
    return (await client.get("/metrics")).text


async def test_every_query_finds_what_it_asks_for(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an orchestrator that has seen runs complete, degrade, fail, crash and be held: metrics, labels and values.

    And each of them is missed once it has another name.
    """
    monkeypatch.setattr(diagnosis, "LOOK_SECONDS", 0.0)
    wire, cluster = PrefectWire(), ClusterWire()
    wire.variables["source_breaker"] = {"state": "open", "generation": 7}
    wire.add_pool()
    wire.pools["pipelines"]["is_paused"] = True
    async with (
        cluster.served() as configuration,
        serve(wire, kubernetes=configuration, kubernetes_namespace=NAMESPACE, worker_query_seconds=1) as client,
    ):
        for end in ("COMPLETED", "DEGRADED", "FAILED", "CRASHED"):
            where = (await client.post("/api/etl/start")).headers["location"]

            async def status(where: str = where) -> Any:
                return (await client.get(where)).json()

            async def handed_over() -> Any:
                return (await status())["flow_run_id"]

            async def running() -> Any:
                return (await status())["state"] == "Running"

            flow_run_id = await eventually(handed_over, within=10, what="a flow run")
            wire.move(flow_run_id, "RUNNING")
            await eventually(running, within=10, what="the run is running")
            wire.move(flow_run_id, "COMPLETED" if end == "DEGRADED" else end, name=end.title())
        adopted(wire)

        async def lacks() -> list[str]:
            reading = Reading(await told(client))
            return [lack for query in QUERIES for lack in query.missing(reading)]

        for _ in range(200):
            if not await lacks():
                break
            await asyncio.sleep(0.1)
        assert await lacks() == []
        text = await told(client)

    asked = [one for query in QUERIES for one in query.asked if one.metric != "up"]
    for metric in {one.metric for one in asked}:
        renamed = Reading(re.sub(rf"\b{metric.removesuffix('_total')}", "other", text))
        assert [lack for query in QUERIES for lack in query.missing(renamed)], metric
    for label in {label for one in asked for label in one.labels} - TARGET:
        renamed = Reading(text.replace(f'{label}="', 'other="'))
        assert [lack for query in QUERIES for lack in query.missing(renamed)], label


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.where)
def test_every_query_is_about_one_release(query: Query) -> None:
    """Several may be watched by one Prometheus: only the list of namespaces, and of each one's jobs, is wider."""
    wider = {"$namespace": set(), "$job": {"namespace=$namespace"}}
    wanted = wider.get(query.where, {"namespace=$namespace", "job=$job"})
    assert query.asked
    assert all(one.matches >= wanted for one in query.asked)


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.where)
def test_every_reason_that_is_asked_for_is_in_the_catalogue(query: Query) -> None:
    """A reason that is none would never be found."""
    reasons = [[*one.values.get("reason", []), *one.left_out.get("reason", [])] for one in query.asked]
    assert {reason for some in reasons for reason in some} <= set(CATALOGUE)


@pytest.mark.parametrize("query", alerts(), ids=lambda query: query.where)
def test_what_an_alert_says_it_knows(query: Query) -> None:
    """Each label in its texts is one that its series are grouped by."""
    rule = yaml.safe_load((CHART / "alerts" / f"{query.where}.yaml").read_text())
    said = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    grouped = re.search(r"by \(([^)]*)\)", query.text)
    assert said <= set(grouped[1].split(", ") if grouped else ())


async def test_the_runs_counters_begin_at_0(serve: Serve) -> None:
    """A first failure is a growth, which a counter that came with it would not show."""
    async with serve(PrefectWire()) as client:
        now = await samples(client)
    assert now[("orchestrator_run_states_total", "etl", "Failed")] == 0
    assert now[("orchestrator_runs_degraded_total", "etl")] == 0


async def test_when_prefect_last_told_is_known(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """It moves on with each look, and stands still while Prefect does not answer."""
    monkeypatch.setattr(sync, "FACTS_SECONDS", 0.0)
    name = ("orchestrator_prefect_seen_timestamp_seconds", "etl")
    wire = PrefectWire()
    began = time.time()
    async with serve(wire, poll_seconds=0.1) as client:

        async def told_since(moment: float) -> Any:
            seen = (await samples(client)).get(name, 0.0)
            return seen if seen > moment else None

        first = await eventually(lambda: told_since(began), within=10, what="Prefect told of the pipeline")
        await eventually(lambda: told_since(first), within=10, what="Prefect told again")
        wire.fault = refused

        async def failures() -> Any:
            return (await samples(client))[("orchestrator_sync_failures_total",)]

        await eventually(failures, within=10, what="a look failed")
        last = await told_since(0)
        await asyncio.sleep(0.5)
        assert await told_since(0) == last
