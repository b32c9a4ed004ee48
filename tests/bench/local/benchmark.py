"""`local`: a trivial run without a cluster, on what `make dev` starts, on stock Prefect and on Airflow."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from anyio.from_thread import start_blocking_portal
from local_platform.pipelines import Pipeline
from local_platform.stack import Ports, run_stack

from ..benchmark import Benchmark, Figures, Say, Setting, Target, Variant
from ..machine import Unready, awaited, free_port, postgres, serving
from ..series import ROOT
from ..stock import PREFECT, prefect_server
from . import airflow

RUN_SECONDS = 180
FLOW = "tests.bench.cluster.flow.trivial"
# the flow's module is this checkout's
_PATH = {"PYTHONPATH": str(ROOT)}


@contextmanager
def opened(setting: Setting) -> Iterator[Callable[[Variant], Figures]]:
    """All three run all the time, so that what an idle one takes meets every sample; each is warmed by one run."""
    with ExitStack() as stack:
        setting.say("  our platform, stock Prefect and Airflow are started")
        runs: Mapping[str, Callable[[], float]] = {
            "ours": stack.enter_context(_ours(setting.folder / "ours", setting.say)),
            "stock": stack.enter_context(_stock(setting.folder / "stock")),
            "airflow": stack.enter_context(airflow.running(setting.folder / "airflow")).run,
        }
        for run in runs.values():
            run()
        yield lambda variant: {"completed_seconds": runs[variant.name]()}


@contextmanager
def _ours(folder: Path, say: Say) -> Iterator[Callable[[], float]]:
    """The parts of `make dev`, with the flow that does nothing as their only pipeline."""
    ports = Ports(prefect=free_port(), orchestrator=free_port(), source=free_port())
    trivial = Pipeline(
        name="trivial",
        flow="trivial",
        deployment={"entrypoint": FLOW, "name": "local", "workQueue": "default"},
    )
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(_PATH)  # whose parts inherit it
    with start_blocking_portal() as portal:
        platform = run_stack(state=folder, ports=ports, postgres_url=None, pipelines=[trivial], steps=_Steps(say))
        with portal.wrap_async_context_manager(platform) as stack, httpx.Client(timeout=60) as client:

            def run() -> float:
                begun = datetime.now().astimezone()
                answer = client.post(f"{stack.api_url}/api/trivial/start", json={}).raise_for_status().json()
                status = f"{stack.api_url}/api/trivial/status/{answer['run_id']}"

                def flow_run() -> str | None:
                    found: str | None = client.get(status).raise_for_status().json()["flow_run_id"]
                    return found

                made = awaited(flow_run, within=RUN_SECONDS, what=f"a flow run for {status}")
                return _completed(client, f"{stack.prefect_url}/api", made, begun)

            yield run


@contextmanager
def _stock(folder: Path) -> Iterator[Callable[[], float]]:
    """`prefect server start` and a process worker at their defaults, on a PostgreSQL."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        database = stack.enter_context(postgres(folder)).database("stock")
        server = stack.enter_context(prefect_server(folder, database, _PATH))
        api = server.api_url
        client = stack.enter_context(httpx.Client(timeout=60))
        pool = {"name": "stock", "type": "process"}
        client.post(f"{api}/work_pools/", json=pool).raise_for_status()
        flow = client.post(f"{api}/flows/", json={"name": "trivial"}).raise_for_status().json()["id"]
        told = {"name": "stock", "flow_id": flow, "work_pool_name": "stock", "entrypoint": FLOW}
        deployment = client.post(f"{api}/deployments/", json=told).raise_for_status().json()["id"]
        worker = [PREFECT, "worker", "start", "--pool", "stock"]
        log = folder / "worker.log"
        stack.enter_context(serving(worker, port=server.port, log=log, environment=server.environment))

        def run() -> float:
            begun = datetime.now().astimezone()
            made = client.post(f"{api}/deployments/{deployment}/create_flow_run", json={}).raise_for_status()
            return _completed(client, api, made.json()["id"], begun)

        yield run


def _completed(client: httpx.Client, api: str, flow_run: str, begun: datetime) -> float:
    """The seconds until the moment that Prefect keeps of the state Completed."""

    def ended() -> Mapping[str, Any] | None:
        state: Mapping[str, Any] = client.get(f"{api}/flow_runs/{flow_run}").raise_for_status().json()["state"]
        return state if state["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} else None

    end = awaited(ended, within=RUN_SECONDS, every=0.25, what=f"flow run {flow_run} ended")
    if end["type"] != "COMPLETED":
        raise Unready(f"flow run {flow_run} ended {end['type']}: {end['message']}")
    return (datetime.fromisoformat(end["timestamp"]) - begun).total_seconds()


class _Steps:
    """The start-up's steps, as lines of progress."""

    def __init__(self, say: Say) -> None:
        self._say = say

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self._say(f"    {title}")
        yield


LOCAL = Benchmark(
    name="local",
    what="a run of a flow that does nothing, from the request to its end, without a cluster",
    variants=(
        Variant(name="ours", title="what `make dev` starts", ours=True),
        Variant(name="stock", title="stock Prefect, a process worker"),
        Variant(name="airflow", title=f"Airflow {airflow.VERSION}, LocalExecutor"),
    ),
    targets=(
        Target(
            what="start → Completed without a cluster, against stock Prefect",
            figure="completed_seconds",
            of="ours",
            against="stock",
            must=1,
        ),
    ),
    opened=opened,
    notes=(
        "Each on a PostgreSQL of its own, all three running all the time, with bytecode compiled. The end is the moment"
        " that Prefect or Airflow keeps of it. Airflow's executor forks a task from a process that has everything"
        " imported; a Prefect worker starts a new interpreter for each run, as ours does here: what makes a run start"
        " fast on a cluster is in the pod's command, which a process worker does not have."
    ),
)
