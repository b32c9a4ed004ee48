"""The service about itself: alive, ready, counted, and its pipelines at a glance."""

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from orchestrator import migrations
from orchestrator.app import create_app, supervised
from orchestrator.ledger.connection import open_ledger
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from .conftest import Postgres, Serve, answering, eventually, settings
from .wire import PrefectWire, refused, saying


async def test_alive_says_so_whatever_is_down(serve: Serve) -> None:
    """Liveness asks nobody: a restart would not bring a database back."""
    wire = PrefectWire()
    wire.fault = refused
    async with serve(wire, database_url="postgresql://nobody@127.0.0.1:1/none") as client:
        answer = await client.get("/healthz")
        assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


async def test_ready_names_each_dependency(serve: Serve) -> None:
    """All is well; then Prefect goes, which is named but does not keep runs from being accepted."""
    wire = PrefectWire()
    async with serve(wire) as client:
        answer = await client.get("/readyz")
        assert answer.status_code == 200
        well = {"ok": True, "detail": None}
        told = answer.json()
        assert abs(told.pop("database_clock_ahead_seconds")) < 1  # it is on this machine
        assert told == {"ready": True, "dependencies": {"database": well, "schema": well, "prefect": well}}
        wire.fault = refused
        answer = await client.get("/readyz")
        told = answer.json()
        assert (answer.status_code, told["ready"], told["dependencies"]["prefect"]["ok"]) == (200, True, False)
        assert "Prefect" in told["dependencies"]["prefect"]["detail"]


async def test_not_ready_without_a_database(serve: Serve) -> None:
    """503, and which dependency it is."""
    async with serve(PrefectWire(), database_url="postgresql://nobody@127.0.0.1:1/none") as client:
        answer = await client.get("/readyz")
        told = answer.json()
        assert (answer.status_code, told["ready"]) == (503, False)
        assert answer.headers["retry-after"]
        assert told["database_clock_ahead_seconds"] is None
        assert {name: one["ok"] for name, one in told["dependencies"].items()} == {
            "database": False,
            "schema": False,
            "prefect": True,
        }


async def test_not_ready_before_the_migration_ready_after_it(serve: Serve, postgres: Postgres) -> None:
    """An empty database is named with the command that fills it; no restart is needed then."""
    url = postgres.create_database()
    async with serve(PrefectWire(), database_url=url) as client:
        told = (await client.get("/readyz")).json()
        assert told["dependencies"]["database"]["ok"]
        assert "orchestrator migrate" in told["dependencies"]["schema"]["detail"]
        refusal = await client.post("/api/etl/start")
        assert refusal.status_code == 503
        assert "orchestrator migrate" in refusal.json()["detail"]
        db = open_ledger(url)
        await migrations.upgrade(db, seconds=5)
        await db.dispose()
        assert (await client.get("/readyz")).status_code == 200


async def test_a_newer_schema_does_not_unready_a_running_pod(serve: Serve, db: AsyncEngine) -> None:
    """The next release migrates while this one still serves; a pod that starts after it refuses, naming both."""
    async with serve(PrefectWire()) as client:
        assert (await client.get("/readyz")).status_code == 200
        async with db.begin() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        assert (await client.get("/readyz")).status_code == 200
    async with serve(PrefectWire()) as late:
        answer = await late.get("/readyz")
        assert answer.status_code == 503
        detail = answer.json()["dependencies"]["schema"]["detail"]
        assert "9999" in detail
        assert migrations.head() in detail


async def test_pipelines_answer_while_prefect_is_down(serve: Serve) -> None:
    """What was learned stays: schedule, last run, and when Prefect last told."""
    wire = PrefectWire()
    async with serve(wire) as client:
        before = (await client.get("/api/pipelines")).json()["pipelines"]
        assert before[0]["name"] == "etl"
        run_id = (await client.post("/api/etl/start", json={"logical_date": "2026-03-01"})).json()["run_id"]
        wire.fault = refused
        (one,) = (await client.get("/api/pipelines")).json()["pipelines"]
        assert one["schedules"] == [
            {
                "slug": "daily-0900",
                "cron": "0 9 * * *",
                "interval_seconds": None,
                "rrule": None,
                "timezone": "Europe/Madrid",
                "active": True,
            }
        ]
        assert (one["deployment"], one["registered"], one["paused"]) == ("daily_job/daily-0900", True, False)
        assert (one["last_run"]["run_id"], one["last_run"]["logical_date"]) == (run_id, "2026-03-01")
        assert one["seen_at"]

        async def opened() -> Any:
            (one,) = (await client.get("/api/pipelines")).json()["pipelines"]
            return one["breaker"] != "closed"

        await eventually(opened, within=10, what="the circuit is open")


async def test_a_pipeline_never_seen_is_listed_without_facts(serve: Serve) -> None:
    """Configured, and nothing more is known."""
    wire = PrefectWire()
    wire.fault = refused
    async with serve(wire) as client:
        (one,) = (await client.get("/api/pipelines")).json()["pipelines"]
        unknown = ("registered", "paused", "next_run", "last_run", "seen_at")
        assert {one[name] for name in unknown} == {None}
        assert one["schedules"] == []


async def test_a_deployment_that_goes_missing_is_shown(serve: Serve, db: AsyncEngine) -> None:
    """Its facts are kept; a start asks Prefect again before it says no."""
    wire = PrefectWire()
    async with serve(wire) as client:
        await client.post("/api/etl/start")
    wire.deployment = None
    async with serve(wire) as client:

        async def missing() -> Any:
            (one,) = (await client.get("/api/pipelines")).json()["pipelines"]
            return one["registered"] is False

        await eventually(missing, within=5, what="the deployment is known to be missing")
        assert (await client.post("/api/etl/start")).json()["type"].endswith("deployment-missing")


async def samples(client: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_metrics_count_what_happened(serve: Serve) -> None:
    """States, times, backlog, calls and the circuit."""
    wire = PrefectWire()
    async with serve(wire) as client:
        where = (await client.post("/api/etl/start")).headers["location"]

        async def flow_run() -> Any:
            return (await client.get(where)).json()["flow_run_id"]

        flow_run_id = await eventually(flow_run, within=5, what="a flow run")
        wire.move(flow_run_id, "RUNNING")

        async def is_running() -> Any:
            return (await client.get(where)).json()["state"] == "Running"

        await eventually(is_running, within=5, what="the run is running")
        now = await samples(client)
        assert now[("orchestrator_runs_unfinished", "etl", "Running")] == 1
        assert now[("orchestrator_oldest_unfinished_seconds", "etl")] >= 0
        wire.move(flow_run_id, "COMPLETED")

        async def is_completed() -> Any:
            return (await client.get(where)).json()["state"] == "Completed"

        await eventually(is_completed, within=5, what="the run is completed")
        now = await samples(client)
        for state in ("Scheduled", "Running", "Completed"):
            assert now[("orchestrator_run_states_total", "etl", state)] == 1
        assert now[("orchestrator_accept_to_start_seconds_count", "etl")] == 1
        assert now[("orchestrator_run_duration_seconds_count", "etl", "Completed")] == 1
        assert now[("orchestrator_dispatch_backlog", "etl")] == 0
        assert now[("orchestrator_oldest_unfinished_seconds", "etl")] == 0
        assert now[("orchestrator_prefect_call_seconds_count", "create_flow_run", "ok")] == 1
        assert now[("orchestrator_prefect_breaker", "closed")] == 1
        assert now[("orchestrator_prefect_breaker", "open")] == 0
        assert now[("orchestrator_database_up",)] == 1
        assert ("orchestrator_runs_unfinished", "etl", "Running") not in now
        assert abs(time.time() - now[("orchestrator_last_success_timestamp_seconds", "etl")]) < 60
        assert now[("orchestrator_runs_degraded_total", "etl")] == 0


async def test_a_degraded_run_says_so_everywhere(serve: Serve) -> None:
    """In its status, in lists, in the CSV and in a metric; it is no success."""
    wire = PrefectWire()
    async with serve(wire) as client:
        where = (await client.post("/api/etl/start")).headers["location"]

        async def flow_run() -> Any:
            return (await client.get(where)).json()["flow_run_id"]

        flow_run_id = await eventually(flow_run, within=5, what="a flow run")
        wire.move(flow_run_id, "RUNNING")
        wire.move(flow_run_id, "COMPLETED", name="Degraded", message="2026-03-01 keeps the 890 flights loaded before")

        async def over() -> Any:
            return (await client.get(where)).json()["ended_at"]

        await eventually(over, within=5, what="the run is over")
        told = (await client.get(where)).json()
        (listed,) = (await client.get("/api/etl/runs")).json()["runs"]
        for run in (told, listed):
            assert (run["state"], run["state_name"]) == ("Completed", "Degraded")
            assert "keeps the 890 flights" in run["message"]
        assert "Degraded" in (await client.get("/api/etl/runs.csv")).text
        (pipeline,) = (await client.get("/api/pipelines")).json()["pipelines"]
        assert pipeline["last_run"]["state_name"] == "Degraded"
        now = await samples(client)
        assert now[("orchestrator_runs_degraded_total", "etl")] == 1
        assert ("orchestrator_last_success_timestamp_seconds", "etl") not in now


@pytest.mark.parametrize("odd", [None, "open", {"state": "ajar"}, {"state": 3}])
async def test_the_circuit_to_the_source_is_told(serve: Serve, odd: object) -> None:
    """As the flow wrote it down in Prefect; what is no state of a circuit is not repeated."""
    wire = PrefectWire()
    wire.variables["source_breaker"] = {"state": "half-open", "generation": 7}
    async with serve(wire) as client:

        async def known() -> Any:
            (one,) = (await client.get("/api/pipelines")).json()["pipelines"]
            return one["source_breaker"]

        assert await eventually(known, within=5, what="the circuit is known") == "half-open"
        now = await samples(client)
        states = {
            state: now[("orchestrator_source_breaker", "etl", state)] for state in ("closed", "half-open", "open")
        }
        assert states == {"closed": 0, "half-open": 1, "open": 0}
    wire.variables = {"source_breaker": odd} if odd else {}
    async with serve(wire) as client:

        async def unknown() -> bool:
            return await known() is None

        await eventually(unknown, within=5, what="the circuit is not known any more")
        assert not [name for name in await samples(client) if name[0] == "orchestrator_source_breaker"]


async def test_what_prefect_refuses_is_counted(serve: Serve) -> None:
    """A run that ends without a flow run is one that failed."""
    wire = PrefectWire()
    async with serve(wire) as client:
        await client.post("/api/etl/start")

        async def created() -> Any:
            return wire.creations

        await eventually(created, within=5, what="a flow run")
        wire.fault = saying(422)
        where = (await client.post("/api/etl/start")).headers["location"]

        async def failed() -> Any:
            return (await client.get(where)).json()["state"] == "Failed"

        await eventually(failed, within=10, what="the run failed")
        assert (await samples(client))[("orchestrator_run_states_total", "etl", "Failed")] == 1


async def test_totals_over_replicas_count_each_change_once(database_url: str) -> None:
    """Whichever replica writes a change down counts it, and no other does."""
    wire = PrefectWire()
    apps = [create_app(settings(database_url), transport=wire) for _ in range(2)]
    async with answering(apps[0]) as one, answering(apps[1]) as other:
        for number in range(6):
            await (one if number % 2 else other).post("/api/etl/start")

        async def handed_over() -> bool:
            return len(wire.flow_runs) == 6

        await eventually(handed_over, within=10, what="six flow runs")
        for flow_run_id in wire.flow_runs:
            wire.move(flow_run_id, "RUNNING")
            wire.move(flow_run_id, "COMPLETED")

        async def over() -> bool:
            runs = (await one.get("/api/etl/runs")).json()["runs"]
            return all(run["state"] == "Completed" for run in runs)

        await eventually(over, within=10, what="all are completed")
        both = [await samples(client) for client in (one, other)]
    for state in ("Scheduled", "Completed"):
        assert sum(now.get(("orchestrator_run_states_total", "etl", state), 0) for now in both) == 6


async def test_metrics_answer_without_a_database(serve: Serve) -> None:
    """A scrape tells that the database is away; it does not fail because of it."""
    async with serve(PrefectWire(), database_url="postgresql://nobody@127.0.0.1:1/none") as client:
        assert (await samples(client))[("orchestrator_database_up",)] == 0


async def test_a_database_that_restarts_is_found_again(serve: Serve, postgres: Postgres, database_url: str) -> None:
    """Every connection is cut; the next request is answered, and runs go on being handed over and followed."""
    wire = PrefectWire()
    async with serve(wire) as client:
        assert (await client.post("/api/etl/start")).status_code == 202
        name = urlsplit(database_url).path.lstrip("/")
        postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}';")
        answer = await client.post("/api/etl/start")
        assert answer.status_code == 202, answer.text

        async def known() -> Any:
            return (await client.get(answer.headers["location"])).json()["flow_run_id"]

        wire.move(await eventually(known, within=10, what="the run is handed over"), "RUNNING")

        async def running() -> Any:
            return (await client.get(answer.headers["location"])).json()["state"] == "Running"

        await eventually(running, within=10, what="the run is followed")


async def test_background_work_that_dies_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """However it ends, it is begun again; the end of the block ends it."""
    monkeypatch.setattr("orchestrator.app.RESTART_SECONDS", 0.01)
    begun = 0

    async def dying() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise RuntimeError("a mistake of ours")
        if begun > 2:
            await asyncio.Event().wait()

    async with supervised({"dying": dying}):

        async def third() -> bool:
            return begun == 3

        await eventually(third, within=5, what="the work is begun a third time")
    assert begun == 3
