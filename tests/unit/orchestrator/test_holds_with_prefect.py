"""Pools, queues, limits and workers of a real Prefect server: what it really holds, and that it is named."""

from typing import Any
from uuid import uuid4

import pytest
from orchestrator import diagnosis

from .conftest import Serve, eventually
from .test_with_prefect import Prefect, of, prefect

__all__ = ["prefect"]

QUEUE = "week-10"


class Place:
    """A work pool of the test's own, with a queue that its worker polls when it is told to."""

    def __init__(self, prefect: Prefect, name: str) -> None:
        self.prefect, self.name = prefect, name
        self.path = f"/work_pools/{name}"

    async def pool(self, **values: Any) -> None:
        await self.prefect.call("PATCH", self.path, values)

    async def queue(self, **values: Any) -> None:
        await self.prefect.call("PATCH", f"{self.path}/queues/{QUEUE}", values)

    async def poll(self, *queues: str) -> list[str]:
        """What a worker does every few seconds; the flow runs that it would take."""
        body = {"work_queue_names": list(queues) or None}
        answer = await self.prefect.call("POST", f"{self.path}/get_scheduled_flow_runs", body)
        return [one["flow_run"]["id"] for one in answer]


@pytest.fixture
async def place(prefect: Prefect) -> Place:
    one = Place(prefect, f"pool-{uuid4().hex[:8]}")
    await prefect.call("POST", "/work_pools/", {"name": one.name, "type": "process"})
    await prefect.call("POST", f"{one.path}/queues", {"name": QUEUE})
    body = {"work_pool_name": one.name, "work_queue_name": QUEUE}
    await prefect.call("PATCH", f"/deployments/{prefect.deployment_id}", body)
    return one


async def test_what_prefect_holds_is_named(
    serve: Serve,
    prefect: Prefect,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run of the API, held by one thing after another, and each time what Prefect itself gives a worker."""
    monkeypatch.setattr(diagnosis, "LOOK_SECONDS", 0.2)
    async with serve(**of(prefect), worker_query_seconds=1) as client:
        where = (await client.post("/api/etl/start", json={"logical_date": "2026-03-01"})).headers["location"]

        async def named(kind: str, *evidence: str) -> None:
            async def told() -> bool:
                reason = (await client.get(where)).json()["reason"]
                return bool(reason and reason["id"] == kind and all(one in reason["detail"] for one in evidence))

            await eventually(told, within=60, what=f"the run is held by {kind}: {evidence}")

        await named("PL001", place.name, "it never had a worker")
        await place.poll("default")
        await named("PL005", "workers poll default")

        await place.queue(is_paused=True)
        await named("PL003")
        assert await place.poll() == []
        await place.pool(is_paused=True)
        await named("PL002")
        assert await place.poll() == []
        await place.pool(is_paused=False, concurrency_limit=0)
        await place.queue(is_paused=False, concurrency_limit=0)
        assert await place.poll() == []
        await named("PL006")
        await place.pool(concurrency_limit=None)
        await place.poll()
        await named("PL007")
        await place.queue(concurrency_limit=None)

        await prefect.call("PATCH", f"/deployments/{prefect.deployment_id}", {"concurrency_limit": 1})
        other = await prefect.call("POST", f"/deployments/{prefect.deployment_id}/create_flow_run", {})
        pending = {"state": {"type": "PENDING"}}
        taken = await prefect.call("POST", f"/flow_runs/{other['id']}/set_state", pending)
        assert taken["status"] == "ACCEPT", taken
        flow_run_id = (await client.get(where)).json()["flow_run_id"]
        assert flow_run_id in await place.poll()
        refused = await prefect.call("POST", f"/flow_runs/{flow_run_id}/set_state", pending)
        assert refused["state"]["name"] == "AwaitingConcurrencySlot"
        await named("PL008", "1 of 1", other["id"])

        await prefect.move(flow_run_id, "RUNNING")

        async def free() -> bool:
            return (await client.get(where)).json()["reason"] is None

        await eventually(free, within=60, what="the run is held by nothing")


async def test_a_paused_deployment_holds_no_run_made_by_hand(
    serve: Serve,
    prefect: Prefect,
    place: Place,
) -> None:
    """Prefect gives it to a worker all the same; what stands still is the schedule, and the pipeline says so."""
    await prefect.call("POST", f"/deployments/{prefect.deployment_id}/pause_deployment")
    async with serve(**of(prefect)) as client:

        async def held() -> Any:
            (pipeline,) = (await client.get("/api/pipelines")).json()["pipelines"]
            return [one["reason"]["id"] for one in pipeline["held"]]

        assert await eventually(held, within=20, what="the pause is told") == ["PL004"]
        where = (await client.post("/api/etl/start", json={"logical_date": "2026-03-01"})).headers["location"]

        async def handed_over() -> Any:
            return (await client.get(where)).json()["flow_run_id"]

        flow_run_id = await eventually(handed_over, within=20, what="the run has a flow run")
        assert flow_run_id in await place.poll()
