"""Which degraded days are owed a load, and the flow runs made for them on a real Prefect server, each once."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pytest
from etl.catchup import made_good_by, make_good, provide_probe
from etl.circuit import Circuit
from etl.claim import connected
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

FIRST = date(2026, 1, 10)


class Prefect:
    """The server, with a deployment of this test's own."""

    def __init__(self, api: httpx.AsyncClient, deployment_id: str) -> None:
        self.api = api
        self.deployment_id = uuid.UUID(deployment_id)

    async def flow_runs(self) -> list[dict[str, Any]]:
        """The deployment's runs in the order of their days."""
        wanted = {"flow_runs": {"deployment_id": {"any_": [str(self.deployment_id)]}}}
        found = (await self.api.post("/flow_runs/filter", json=wanted)).raise_for_status().json()
        return sorted(found, key=lambda run: str(run["parameters"]["logical_date"]))


@pytest.fixture
async def prefect(prefect_server: str) -> AsyncIterator[Prefect]:
    async with httpx.AsyncClient(base_url=prefect_server, timeout=30) as api:
        flow = (await api.post("/flows/", json={"name": f"flow-{uuid.uuid4().hex[:8]}"})).raise_for_status().json()
        made = await api.post("/deployments/", json={"name": "daily", "flow_id": flow["id"]})
        with temporary_settings({PREFECT_API_URL: prefect_server}):
            yield Prefect(api, made.raise_for_status().json()["id"])


async def left(warehouse: str, day: date, outcome: str) -> uuid.UUID:
    """A run that ended so, and its id."""
    async with connected(warehouse) as connection:
        run_id: uuid.UUID = await connection.fetchval(
            "WITH claimed AS (INSERT INTO claims (flow_run_id, attempt, holder, lease_until, logical_date)"
            "  VALUES (gen_random_uuid(), now(), 'test', now(), $1) RETURNING fence, flow_run_id)"
            " INSERT INTO loads"
            " (run_id, flow_run_id, fence, correlation_id, logical_date, rows, rejected, checksum, outcome)"
            " SELECT flow_run_id, flow_run_id, fence, 'c', $1, 890, 0, 'abc', $2 FROM claimed RETURNING run_id",
            day,
            outcome,
        )
    return run_id


async def execute(warehouse: str, sql: str) -> None:
    async with connected(warehouse) as connection:
        await connection.execute(sql)


async def test_each_degraded_day_gets_one_run(warehouse: str, prefect: Prefect) -> None:
    """However many runs look at once: a run for each day whose newest load is degraded, tagged for who looks at it."""
    days = [FIRST + timedelta(days=n) for n in range(4)]
    for day in days:
        await left(warehouse, day, "loaded")
    degraded = {day: await left(warehouse, day, "degraded") for day in days[:3]}
    await left(warehouse, days[1], "loaded")

    looks = (make_good(warehouse, deployment_id=prefect.deployment_id, at_most=50) for _ in range(4))
    made = {one.flow_run_id for some in await asyncio.gather(*looks) for one in some}
    runs = await prefect.flow_runs()
    assert [run["parameters"]["logical_date"] for run in runs] == [days[0].isoformat(), days[2].isoformat()]
    assert {run["id"] for run in runs} == {str(flow_run_id) for flow_run_id in made}
    for run, day in zip(runs, (days[0], days[2]), strict=True):
        assert run["state_type"] == "SCHEDULED"
        assert {"catch-up", f"catch-up-of:{degraded[day]}"} < set(run["tags"])
        assert sum(tag.startswith("correlation-id:") for tag in run["tags"]) == 1
        assert not any(tag.startswith("run-id:") for tag in run["tags"])
    assert await make_good(warehouse, deployment_id=prefect.deployment_id, at_most=50) == []


async def test_whoever_died_after_making_a_run_makes_no_second_one(warehouse: str, prefect: Prefect) -> None:
    """The warehouse was not told of the run; the next success finds the very one. Degraded anew, it is owed anew."""
    await left(warehouse, FIRST, "degraded")
    [first] = await make_good(warehouse, deployment_id=prefect.deployment_id, at_most=50)
    await execute(warehouse, "UPDATE loads SET catch_up = NULL")
    assert await make_good(warehouse, deployment_id=prefect.deployment_id, at_most=50) == [first]
    assert len(await prefect.flow_runs()) == 1
    await left(warehouse, FIRST, "degraded")
    [second] = await make_good(warehouse, deployment_id=prefect.deployment_id, at_most=50)
    assert second.flow_run_id != first.flow_run_id
    assert len(await prefect.flow_runs()) == 2


async def test_the_oldest_days_come_first(warehouse: str, prefect: Prefect) -> None:
    """No more runs a look than allowed; zero makes none."""
    for n in (2, 0, 1):
        await left(warehouse, FIRST + timedelta(days=n), "degraded")
    assert await make_good(warehouse, deployment_id=prefect.deployment_id, at_most=0) == []
    made = await make_good(warehouse, deployment_id=prefect.deployment_id, at_most=2)
    assert [one.logical_date for one in made] == [FIRST, FIRST + timedelta(days=1)]
    made = await make_good(warehouse, deployment_id=prefect.deployment_id, at_most=2)
    assert [one.logical_date for one in made] == [FIRST + timedelta(days=2)]


async def test_a_day_that_somebody_executes_is_left_to_them(warehouse: str, prefect: Prefect) -> None:
    """A live claim after the degraded load: a run made now would only take the day from under that one."""
    await left(warehouse, FIRST, "degraded")
    await execute(
        warehouse,
        "INSERT INTO claims (flow_run_id, attempt, holder, lease_until, logical_date)"
        " SELECT gen_random_uuid(), now(), 'other', now() + interval '1 minute', logical_date FROM loads",
    )
    assert await make_good(warehouse, deployment_id=prefect.deployment_id, at_most=50) == []
    await execute(warehouse, "UPDATE claims SET lease_until = now() - interval '1 second'")
    assert len(await make_good(warehouse, deployment_id=prefect.deployment_id, at_most=50)) == 1


async def test_while_prefect_is_away_the_day_stays_owed(warehouse: str, prefect: Prefect, free_port: int) -> None:
    """What was not made is not written down as made."""
    await left(warehouse, FIRST, "degraded")
    away = {PREFECT_API_URL: f"http://127.0.0.1:{free_port}/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(away), pytest.raises(httpx.HTTPError):
        await make_good(warehouse, deployment_id=prefect.deployment_id, at_most=50)
    assert len(await make_good(warehouse, deployment_id=prefect.deployment_id, at_most=50)) == 1


async def test_a_fleet_provides_one_probe(prefect: Prefect) -> None:
    """Runs that degrade in one opening of the circuit make a single run, due as told; the next opening, another."""
    opened_at = datetime(2026, 1, 16, 9, tzinfo=UTC)
    due = datetime.now(UTC) + timedelta(hours=1)
    circuit = Circuit(state="open", generation=7, opened_at=opened_at)

    async def provide(day: date, circuit: Circuit) -> uuid.UUID:
        return await provide_probe(prefect.deployment_id, day, degraded_run_id=uuid.uuid4(), circuit=circuit, due=due)

    days = [FIRST + timedelta(days=n) for n in range(4)]
    [only] = set(await asyncio.gather(*(provide(day, circuit) for day in days)))
    [run] = await prefect.flow_runs()
    assert run["id"] == str(only)
    assert datetime.fromisoformat(run["expected_start_time"]) == due
    await provide(days[0], Circuit(state="open", generation=9, opened_at=opened_at + timedelta(hours=1)))
    assert len(await prefect.flow_runs()) == 2


async def test_a_day_loaded_since_is_owed_no_more(warehouse: str) -> None:
    """By whom it was; None while the newest load is degraded, or where there is none."""
    assert await made_good_by(warehouse, FIRST) is None
    await left(warehouse, FIRST, "degraded")
    assert await made_good_by(warehouse, FIRST) is None
    by = await left(warehouse, FIRST, "loaded")
    assert await made_good_by(warehouse, FIRST) == by
