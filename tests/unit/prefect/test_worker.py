"""The woken worker on a real Prefect server: it takes a run when it is scheduled, not when it would have asked next."""

import asyncio
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import anyio.abc
import httpx
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.settings import PREFECT_API_URL, PREFECT_WORKER_QUERY_SECONDS, temporary_settings
from prefect.states import Completed
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorker, BaseWorkerResult
from prefect_worker import LEFT_TO_PODS_LABEL, Woken, _left_seconds

TAKEN_SECONDS = 60
LEFT_SECONDS = 15


class Taking(Woken, BaseWorker[BaseJobConfiguration, BaseVariables, BaseWorkerResult]):
    """Takes runs, and lets them be."""

    type = "taking"
    job_configuration = BaseJobConfiguration

    async def run(
        self,
        flow_run: FlowRun,
        configuration: BaseJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> BaseWorkerResult:
        """Done at once."""
        if task_status is not None:
            task_status.started(1)
        return BaseWorkerResult(status_code=0, identifier=str(flow_run.id))


class Executing(Taking):
    """Has each run end by itself, a moment after it was taken."""

    type = "executing"

    async def run(
        self,
        flow_run: FlowRun,
        configuration: BaseJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> BaseWorkerResult:
        """Completed, by a name of its own."""
        result = await super().run(flow_run, configuration, task_status)
        await asyncio.sleep(0.5)
        await self.client.set_flow_run_state(flow_run.id, Completed(name="Degraded"), force=True)
        return result


@pytest.fixture
async def api(prefect_server: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=prefect_server, timeout=30) as client:
        yield client


async def deployed(api: httpx.AsyncClient, pool: str) -> str:
    """A deployment in a pool of that name; its id."""
    (await api.post("/work_pools/", json={"name": pool, "type": "taking"})).raise_for_status()
    flow = (await api.post("/flows/", json={"name": pool})).raise_for_status().json()
    body = {"name": "one", "flow_id": flow["id"], "work_pool_name": pool, "entrypoint": "nothing.here"}
    return str((await api.post("/deployments/", json=body)).raise_for_status().json()["id"])


async def made(api: httpx.AsyncClient, deployment: str, **body: Any) -> str:
    """A run of the deployment; its id."""
    answer = await api.post(f"/deployments/{deployment}/create_flow_run", json=body)
    return str(answer.raise_for_status().json()["id"])


async def taken(api: httpx.AsyncClient, run: str) -> float:
    """Wait until a worker has taken the run; for how long that was waited."""
    begun = time.monotonic()
    while (await api.get(f"/flow_runs/{run}")).raise_for_status().json()["state_type"] == "SCHEDULED":
        assert time.monotonic() < begun + TAKEN_SECONDS, f"not within {TAKEN_SECONDS} s: run {run} is taken"
        await asyncio.sleep(0.1)
    return time.monotonic() - begun


async def test_a_run_is_taken_when_it_is_scheduled(prefect_server: str, api: httpx.AsyncClient) -> None:
    """By a worker that would have asked again in an hour."""
    pool = f"woken-{uuid.uuid4().hex[:8]}"
    deployment = await deployed(api, pool)

    first = await made(api, deployment)
    with temporary_settings({PREFECT_API_URL: prefect_server, PREFECT_WORKER_QUERY_SECONDS: 3600}):
        working = asyncio.create_task(Taking(work_pool_name=pool).start(printer=lambda *_: None))
        try:
            await taken(api, first)
            for _ in range(2):
                await taken(api, await made(api, deployment))
            # Given back: scheduled again, under a name of its own.
            again = await made(api, deployment)
            await taken(api, again)
            state = {"type": "SCHEDULED", "name": "AwaitingRetry"}
            answer = await api.post(f"/flow_runs/{again}/set_state", json={"state": state, "force": True})
            assert answer.raise_for_status().json()["status"] == "ACCEPT"
            await taken(api, again)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


async def test_a_run_that_ends_makes_room_for_another(prefect_server: str, api: httpx.AsyncClient) -> None:
    """Under a full limit nothing is scheduled anew: an end, whatever its name, has the worker ask."""
    deployment = await deployed(api, f"woken-{uuid.uuid4().hex[:8]}")
    pool = (await api.get(f"/deployments/{deployment}")).raise_for_status().json()["work_pool_name"]
    (await api.patch(f"/work_pools/{pool}", json={"concurrency_limit": 1})).raise_for_status()
    runs = [await made(api, deployment) for _ in range(3)]
    with temporary_settings({PREFECT_API_URL: prefect_server, PREFECT_WORKER_QUERY_SECONDS: 3600}):
        working = asyncio.create_task(Executing(work_pool_name=pool).start(printer=lambda *_: None))
        try:
            for run in runs:
                await taken(api, run)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


async def test_a_run_meant_for_a_pod_is_left_to_it(prefect_server: str, api: httpx.AsyncClient) -> None:
    """For as long as its label says, while other runs are taken; then the worker asks for it, and takes it."""
    deployment = await deployed(api, f"woken-{uuid.uuid4().hex[:8]}")
    pool = (await api.get(f"/deployments/{deployment}")).raise_for_status().json()["work_pool_name"]

    with temporary_settings({PREFECT_API_URL: prefect_server, PREFECT_WORKER_QUERY_SECONDS: 3600}):
        working = asyncio.create_task(Taking(work_pool_name=pool).start(printer=lambda *_: None))
        try:
            await taken(api, await made(api, deployment))
            left = await made(api, deployment, labels={LEFT_TO_PODS_LABEL: LEFT_SECONDS})
            began = time.monotonic()
            for _ in range(3):
                await taken(api, await made(api, deployment))
            assert time.monotonic() - began < LEFT_SECONDS, "the others were taken too slowly to tell"
            assert (await api.get(f"/flow_runs/{left}")).json()["state_type"] == "SCHEDULED"
            await taken(api, left)
            assert time.monotonic() - began > LEFT_SECONDS - 1
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


def test_the_command_is_prefects_own(prefect_server: str) -> None:
    """`--help` is that of `prefect worker start`, and the worker that its type names is the woken one."""
    program = (
        "import sys, prefect_worker\n"
        "from prefect.workers.base import BaseWorker\n"
        "from prefect.utilities.dispatch import lookup_type\n"
        "sys.argv[1:] = ['--help']\n"
        "try:\n    prefect_worker.main()\n"
        "except SystemExit:\n    pass\n"
        "print(lookup_type(BaseWorker, 'kubernetes').__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PREFECT_API_URL": prefect_server},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--with-healthcheck" in done.stdout
    assert done.stdout.splitlines()[-1] == "WokenKubernetesWorker"
    assert "overridden" not in done.stderr


@pytest.mark.parametrize(("label", "seconds"), [(5, 5.0), (10**12, 60.0), ("5", 0.0), (None, 0.0), (-3, -3.0)])
def test_what_a_label_says_has_a_limit(label: Any, seconds: float) -> None:
    """Anybody may write one: a run is left for a minute at most, and not at all where it says nothing sensible."""
    run = FlowRun(flow_id=uuid.uuid4())
    run.labels = {} if label is None else {LEFT_TO_PODS_LABEL: label}
    found = WorkerFlowRunResponse(work_pool_id=uuid.uuid4(), work_queue_id=uuid.uuid4(), flow_run=run)
    assert _left_seconds(found) == seconds
