"""The whole path on a real Prefect server: accepted here, handed over, followed, adopted."""

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import httpx
import pytest

from .conftest import Serve, eventually

SCHEMA = {
    "type": "object",
    "title": "Parameters",
    "properties": {
        "logical_date": {
            "anyOf": [{"type": "string", "format": "date"}, {"type": "null"}],
            "default": None,
            "position": 0,
            "title": "logical_date",
        },
        "sample": {"type": "integer", "minimum": 1, "default": 1, "position": 1, "title": "sample"},
    },
}


TRACE_LABEL = "__OTEL_TRACEPARENT"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Prefect:
    """What people and workers do to a Prefect server, by its HTTP API."""

    def __init__(self, api: str, client: httpx.AsyncClient, deployment: str, deployment_id: str) -> None:
        self.api = api
        self.client = client
        self.deployment = deployment
        self.deployment_id = deployment_id

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.client.request(method, path, json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    async def move(self, flow_run_id: str, state: str, name: str | None = None, message: str | None = None) -> None:
        body = {"state": {"type": state, "name": name, "message": message}, "force": True}
        told = await self.call("POST", f"/flow_runs/{flow_run_id}/set_state", body)
        assert told["status"] == "ACCEPT", told


@pytest.fixture
async def prefect(prefect_server: str) -> AsyncIterator[Prefect]:
    """The server with a deployment of the test's own."""
    flow = f"daily_job_{uuid4().hex[:8]}"
    async with httpx.AsyncClient(base_url=prefect_server, timeout=20, trust_env=False) as client:
        flow_id = (await client.post("/flows/", json={"name": flow})).raise_for_status().json()["id"]
        await client.post("/work_pools/", json={"name": "local", "type": "process"})  # 409 when it is there
        body = {
            "name": "daily-0900",
            "flow_id": flow_id,
            "work_pool_name": "local",
            "entrypoint": "etl.flow.daily_job",
            "parameter_openapi_schema": SCHEMA,
            "enforce_parameter_schema": True,
            "schedules": [
                {"slug": "daily-0900", "schedule": {"cron": "0 9 * * *", "timezone": "Europe/Madrid"}, "active": True}
            ],
        }
        made = (await client.post("/deployments/", json=body)).raise_for_status().json()
        yield Prefect(prefect_server, client, f"{flow}/daily-0900", made["id"])


def of(prefect: Prefect) -> dict[str, Any]:
    """Settings for that deployment."""
    return {
        "prefect_api_url": prefect.api,
        "pipelines": [{"name": "etl", "deployment": prefect.deployment}],
    }


async def test_a_run_is_accepted_handed_over_and_followed_to_its_end(serve: Serve, prefect: Prefect) -> None:
    """start answers 202; the run appears in Prefect once, tagged; its states and its reason come back."""
    async with serve(**of(prefect)) as client:
        started = await client.post(
            "/api/etl/start",
            json={"logical_date": "2026-03-01", "parameters": {"sample": 3}},
            headers={"traceparent": TRACEPARENT},
        )
        assert started.status_code == 202, started.text
        run_id = started.json()["run_id"]
        assert started.json() == {"run_id": run_id, "status": "scheduled"}
        where = started.headers["location"]
        assert where == f"/api/etl/status/{run_id}"

        async def handed_over() -> Any:
            told = (await client.get(where)).json()
            return told if told["flow_run_id"] else None

        told = await eventually(handed_over, within=10, what="the run has a flow run")
        flow_run = await prefect.call("GET", f"/flow_runs/{told['flow_run_id']}")
        assert flow_run["idempotency_key"] == run_id
        assert {f"run-id:{run_id}", f"correlation-id:{started.headers['x-correlation-id']}"} <= set(flow_run["tags"])
        assert flow_run["parameters"] == {"sample": 3, "logical_date": "2026-03-01"}
        correlation_id = started.headers["x-correlation-id"]
        assert (
            flow_run["labels"].items() >= {"pipelines.correlation-id": correlation_id, TRACE_LABEL: TRACEPARENT}.items()
        )
        assert flow_run["job_variables"]["labels.pipelines/run-id"] == run_id

        async def is_in(state: str) -> Any:
            told = (await client.get(where)).json()
            return told if told["state"] == state else None

        for state in ("PENDING", "RUNNING"):
            await prefect.move(told["flow_run_id"], state)
            await eventually(lambda state=state: is_in(state.title()), within=10, what=f"the run is {state}")  # type: ignore[misc]
        await prefect.move(told["flow_run_id"], "FAILED", message="the source answers 503")
        told = await eventually(lambda: is_in("Failed"), within=10, what="the run failed")
        assert told["message"] == "the source answers 503"
        assert told["duration_ms"] >= 0
        assert told["logical_date"] == "2026-03-01"
        assert told["dispatch"] == {"attempts": 1, "last_error": None, "next_attempt_at": None}

        listed = (await client.get("/api/etl/runs")).json()
        assert [one["run_id"] for one in listed["runs"]] == [run_id]
        lines = list(csv.DictReader(io.StringIO((await client.get("/api/etl/runs.csv")).text)))
        assert [line["state"] for line in lines] == ["Failed", "Scheduled"]
        assert lines[0]["flow"] == prefect.deployment.split("/")[0]
        assert lines[0]["duration_ms"] == str(told["duration_ms"])
        assert "reason=the source answers 503" in lines[0]["notes"]


async def test_runs_made_by_others_are_adopted_when_they_are_due(serve: Serve, prefect: Prefect) -> None:
    """A run made in Prefect shows up under its own id; one that is not due yet does not."""
    path = f"/deployments/{prefect.deployment_id}/create_flow_run"
    due = await prefect.call("POST", path, {"parameters": {"logical_date": "2026-02-03"}})
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": later}}
    await prefect.call("POST", path, {"state": state})
    await prefect.move(due["id"], "RUNNING")
    await prefect.move(due["id"], "COMPLETED", name="Degraded")
    async with serve(**of(prefect)) as client:

        async def adopted() -> Any:
            return (await client.get("/api/etl/runs")).json()["runs"]

        (run,) = await eventually(adopted, within=10, what="the run made in Prefect is known")
        assert run["run_id"] == run["flow_run_id"] == due["id"]
        assert (run["state"], run["state_name"]) == ("Completed", "Degraded")
        assert (run["origin"], run["logical_date"]) == ("prefect", "2026-02-03")
        lines = list(csv.DictReader(io.StringIO((await client.get("/api/etl/runs.csv")).text)))
        assert [line["state"] for line in lines] == ["Completed", "Scheduled"]


async def test_pipelines_show_the_schedule_and_its_next_run(serve: Serve, prefect: Prefect) -> None:
    """The next run is Prefect's own next scheduled one, at nine in Madrid."""
    async with serve(**of(prefect)) as client:

        async def known() -> Any:
            (one,) = (await client.get("/api/pipelines")).json()["pipelines"]
            return one if one["seen_at"] else None

        pipeline = await eventually(known, within=10, what="the deployment is known")
        assert pipeline["schedules"][0]["cron"] == "0 9 * * *"
        assert pipeline["schedules"][0]["timezone"] == "Europe/Madrid"
        assert (pipeline["registered"], pipeline["paused"], pipeline["breaker"]) == (True, False, "closed")


async def test_what_the_schedule_made_is_adopted_as_such(serve: Serve, prefect: Prefect) -> None:
    """Prefect's scheduler makes the runs; each shows up once it is due, about the day before, and the next is told."""
    every_two_seconds = [{"active": True, "schedule": {"interval": 2, "timezone": "Europe/Madrid"}}]
    await prefect.call("POST", f"/deployments/{prefect.deployment_id}/schedules", every_two_seconds)

    async def planned() -> Any:
        mine = {"deployment_id": {"any_": [prefect.deployment_id]}}
        return await prefect.call("POST", "/flow_runs/count", {"flow_runs": mine})

    await eventually(planned, within=30, what="Prefect's scheduler has made runs")
    async with serve(**of(prefect)) as client:

        async def adopted() -> Any:
            return (await client.get("/api/etl/runs")).json()["runs"]

        runs = await eventually(adopted, within=15, what="a scheduled run is known")
        assert {(one["origin"], one["flow_run_id"] == one["run_id"]) for one in runs} == {("schedule", True)}
        due = datetime.fromisoformat(runs[0]["accepted_at"])
        assert due <= datetime.now(UTC)
        yesterday = due.astimezone(ZoneInfo("Europe/Madrid")).date() - timedelta(days=1)
        assert runs[0]["logical_date"] == yesterday.isoformat()
        (pipeline,) = (await client.get("/api/pipelines")).json()["pipelines"]
        assert datetime.fromisoformat(pipeline["next_run"]) > due


async def test_an_id_unknown_to_prefect_and_ledger_is_404(serve: Serve, prefect: Prefect) -> None:
    """A run is found in its own pipeline only."""
    async with serve(**of(prefect)) as client:
        answer = await client.get(f"/api/etl/status/{UUID(int=7)}")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_change_in_prefect_is_known_before_the_next_poll(serve: Serve, prefect: Prefect) -> None:
    """Prefect announces it; the poll alone would take minutes, for a run of ours and for one it never met."""
    async with serve(**of(prefect), poll_seconds=60) as client:
        run_id = (await client.post("/api/etl/start", json={"logical_date": "2026-03-01"})).json()["run_id"]

        async def told() -> Any:
            return (await client.get(f"/api/etl/status/{run_id}")).json()

        async def flow_run() -> Any:
            return (await told())["flow_run_id"]

        flow_run_id = await eventually(flow_run, within=10, what="the run has a flow run")
        for state in ("PENDING", "RUNNING", "COMPLETED"):
            await prefect.move(flow_run_id, state)

            async def known(state: str = state) -> bool:
                return bool((await told())["state"] == state.title())

            await eventually(known, within=10, what=f"the run is {state}")
        path = f"/deployments/{prefect.deployment_id}/create_flow_run"
        made = await prefect.call("POST", path, {"parameters": {"logical_date": "2026-02-03"}})

        async def adopted() -> bool:
            return (await client.get(f"/api/etl/status/{made['id']}")).status_code == 200

        await eventually(adopted, within=10, what="a run made in Prefect is adopted")


@pytest.mark.parametrize("before", [None, "PENDING", "RUNNING"])
async def test_cancelling_with_prefects_own_rules(serve: Serve, prefect: Prefect, before: str | None) -> None:
    """Scheduled and never-started runs are Cancelled in seconds; a running one is told and then ends by itself."""
    async with serve(**of(prefect), cancel_grace_seconds=0.5) as client:
        where = (await client.post("/api/etl/start", json={"logical_date": "2026-03-01"})).headers["location"]

        async def handed_over() -> Any:
            return (await client.get(where)).json()["flow_run_id"]

        flow_run_id = await eventually(handed_over, within=10, what="the run has a flow run")
        if before:
            await prefect.call("PATCH", f"/flow_runs/{flow_run_id}", {"infrastructure_pid": "flows:a-job"})
            await prefect.move(flow_run_id, before)
        answer = await client.post(where.replace("status", "cancel"))
        assert answer.status_code == 202, answer.text

        async def is_in(state: str) -> Any:
            return (await client.get(where)).json()["state"] == state

        if before == "RUNNING":
            await eventually(lambda: is_in("Cancelling"), within=10, what="the run is Cancelling")
            await prefect.move(flow_run_id, "CANCELLED")
        await eventually(lambda: is_in("Cancelled"), within=10, what="the run is Cancelled")
        assert (await prefect.call("GET", f"/flow_runs/{flow_run_id}"))["state_type"] == "CANCELLED"
        assert (await client.post(where.replace("status", "cancel"))).status_code == 409
