"""Registration against a real Prefect server: declarative, repeatable, and respectful of what people changed there."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from etl.errors import RegistrationRefused
from etl.registration import DAILY_JOB, Registration, Schedule, WorkPool

from .registering import declared, register


async def read(api: httpx.AsyncClient, registration: Registration) -> dict[str, Any]:
    [deployment] = registration.deployments
    answer = await api.get(f"/deployments/name/daily_job/{deployment.name}")
    document: dict[str, Any] = answer.raise_for_status().json()
    return document


async def test_the_daily_job_is_registered(prefect_server: str, api: httpx.AsyncClient) -> None:
    """Pool, queue week-10, the deployment with its typed parameters, and the schedule at 09:00 Europe/Madrid."""
    registration = declared()
    await register(registration, prefect_server)
    deployment = await read(api, registration)
    assert deployment["entrypoint"] == "etl.flow.daily_job"
    assert deployment["work_pool_name"] == registration.work_pool.name
    assert deployment["work_queue_name"] == "week-10"
    assert deployment["paused"] is False
    assert deployment["parameter_openapi_schema"]["properties"]["logical_date"]["anyOf"][0]["format"] == "date"
    [schedule] = deployment["schedules"]
    assert schedule["slug"] == "daily-0900"
    assert schedule["active"] is True
    assert schedule["schedule"]["cron"] == "0 9 * * *"
    assert schedule["schedule"]["timezone"] == "Europe/Madrid"


async def test_registering_again_changes_nothing(prefect_server: str, api: httpx.AsyncClient) -> None:
    """The same deployment, the same schedule: same ids, same content."""
    registration = declared()
    await register(registration, prefect_server)
    before = await read(api, registration)
    await register(registration, prefect_server)
    after = await read(api, registration)
    for document in (before, after):
        for moving in ("updated", "status", "last_polled"):
            del document[moving]
        for schedule in document["schedules"]:
            del schedule["updated"]
    assert after == before


async def test_what_people_changed_in_prefect_stays(prefect_server: str, api: httpx.AsyncClient) -> None:
    """A paused deployment, a paused schedule and changed limits survive a registration that moves the schedule."""
    registration = declared(concurrency_limit=1)
    await register(registration, prefect_server)
    deployment = await read(api, registration)
    pool = registration.work_pool.name
    schedule_id = deployment["schedules"][0]["id"]
    for request in (
        api.post(f"/deployments/{deployment['id']}/pause_deployment"),
        api.patch(f"/deployments/{deployment['id']}/schedules/{schedule_id}", json={"active": False}),
        api.patch(f"/deployments/{deployment['id']}", json={"concurrency_limit": 3}),
        api.patch(f"/work_pools/{pool}", json={"concurrency_limit": 7, "is_paused": True}),
        api.patch(f"/work_pools/{pool}/queues/week-10", json={"concurrency_limit": 5}),
    ):
        (await request).raise_for_status()

    moved = Schedule(slug="daily-0900", cron="30 10 * * *", timezone="Europe/Madrid")
    [declared_deployment] = registration.deployments
    template = {
        "job_configuration": {"command": "{{ command }}"},
        "variables": {"type": "object", "properties": {"command": {"type": "string"}}},
    }
    changed = registration.model_copy(
        update={
            "work_pool": WorkPool(name=pool, concurrency_limit=2, base_job_template=template),
            "deployments": (declared_deployment.model_copy(update={"schedules": (moved,), "description": "later"}),),
        }
    )
    done = await register(changed, prefect_server)

    deployment = await read(api, registration)
    assert deployment["description"] == "later"
    assert deployment["paused"] is True
    assert deployment["global_concurrency_limit"]["limit"] == 3
    [schedule] = deployment["schedules"]
    assert schedule["id"] == schedule_id
    assert schedule["schedule"]["cron"] == "30 10 * * *"
    assert schedule["active"] is False
    pool_now = (await api.get(f"/work_pools/{pool}")).json()
    assert (pool_now["concurrency_limit"], pool_now["is_paused"]) == (7, True)
    assert pool_now["base_job_template"] == template
    assert (await api.get(f"/work_pools/{pool}/queues/week-10")).json()["concurrency_limit"] == 5
    assert any("still paused" in line for line in done)
    name = f"daily_job/{declared_deployment.name}"
    assert [line for line in done if line.startswith("kept as it is in Prefect: ")] == [
        f"kept as it is in Prefect: {line}"
        for line in (
            f"work pool {pool}: paused",
            f"work pool {pool}: concurrency limit is 7, declared is 2",
            "work queue week-10: concurrency limit is 5, declared is None",
            f"deployment {name}: paused",
            f"deployment {name}: concurrency limit is 3, declared is 1",
            f"deployment {name}: schedule daily-0900 is paused",
        )
    ]


async def test_a_schedule_made_in_prefect_stays_and_revives_no_other(
    prefect_server: str, api: httpx.AsyncClient
) -> None:
    """One without a slug, as the UI makes it: a registration leaves it, and a paused one beside it stays paused."""
    registration = declared()
    await register(registration, prefect_server)
    before = await read(api, registration)
    path, ours = f"/deployments/{before['id']}/schedules", before["schedules"][0]["id"]
    (await api.patch(f"{path}/{ours}", json={"active": False})).raise_for_status()
    own = {"schedule": {"cron": "0 12 * * *", "timezone": "UTC"}, "active": True}
    (await api.post(path, json=[own])).raise_for_status()

    done = await register(registration, prefect_server)
    schedules = {one["id"]: one for one in (await read(api, registration))["schedules"]}
    assert schedules.pop(ours)["active"] is False
    [left] = schedules.values()
    assert (left["schedule"]["cron"], left["active"]) == ("0 12 * * *", True)
    assert any("a schedule made in Prefect" in line and "0 12 * * *" in line for line in done)


def released(release: str, *names: str, schedules: tuple[Schedule, ...] = DAILY_JOB.schedules) -> Registration:
    """What a release declares: the daily job under each of these names, on one pool."""
    deployments = tuple(DAILY_JOB.model_copy(update={"name": name, "schedules": schedules}) for name in names)
    return Registration(release=release, work_pool=WorkPool(name=f"pool-{names[0]}"), deployments=deployments)


async def test_only_what_this_release_registered_is_removed(prefect_server: str, api: httpx.AsyncClient) -> None:
    """Its own deployment and schedule go once they are not declared; another release's and people's own stay."""
    mark = uuid.uuid4().hex[:8]
    stays, goes, others, own = (f"{name}-{mark}" for name in ("stays", "goes", "others", "own"))
    evening = Schedule(slug="evening", cron="0 21 * * *", timezone="Europe/Madrid")
    mine = f"data/{mark}"
    await register(released(mine, stays, goes, schedules=(*DAILY_JOB.schedules, evening)), prefect_server)
    await register(released(f"other/{mark}", others), prefect_server)
    by_hand = await api.get(f"/deployments/name/daily_job/{stays}")
    body = {"name": own, "flow_id": by_hand.json()["flow_id"], "work_pool_name": f"pool-{stays}"}
    (await api.post("/deployments/", json=body)).raise_for_status()

    done = await register(released(mine, stays), prefect_server)
    there = {
        name: (await api.get(f"/deployments/name/daily_job/{name}")).status_code for name in (stays, goes, others, own)
    }
    assert there == {stays: 200, goes: 404, others: 200, own: 200}
    assert f"deployment daily_job/{goes}: removed, no longer declared" in done
    assert f"deployment daily_job/{stays}: schedule evening removed, no longer declared" in done
    [schedule] = (await api.get(f"/deployments/name/daily_job/{stays}")).json()["schedules"]
    assert schedule["slug"] == "daily-0900"
    assert [line for line in await register(released(mine, stays), prefect_server) if "removed" in line] == []


async def test_what_was_there_before_the_first_registration_is_not_the_releases(
    prefect_server: str, api: httpx.AsyncClient
) -> None:
    """A deployment without the mark is taken over with its schedules: none is removed for not being declared."""
    registration = declared(
        schedules=(*DAILY_JOB.schedules, Schedule(slug="evening", cron="0 21 * * *", timezone="Europe/Madrid"))
    )
    await register(registration, prefect_server)
    [deployment] = registration.deployments
    adopting = registration.model_copy(
        update={
            "release": f"data/{deployment.name}",
            "deployments": (deployment.model_copy(update={"schedules": DAILY_JOB.schedules}),),
        }
    )
    done = await register(adopting, prefect_server)
    present = await read(api, registration)
    assert {schedule["slug"] for schedule in present["schedules"]} == {"daily-0900", "evening"}
    assert present["tags"] == [f"registered-by:data/{deployment.name}"]
    assert any(line.endswith("schedule evening is no longer declared") for line in done)


async def watching(api: httpx.AsyncClient, registration: Registration) -> list[dict[str, Any]]:
    """The automations that end the registration's dead runs."""
    name = f"{registration.work_pool.name}: runs without a heartbeat are crashed"
    found = await api.post("/automations/filter", json={"automations": {"name": {"any_": [name]}}})
    automations: list[dict[str, Any]] = found.raise_for_status().json()
    return automations


async def test_runs_without_a_heartbeat_are_watched_for(prefect_server: str, api: httpx.AsyncClient) -> None:
    """One automation for the registration's deployments, put back by the next registration, a double one removed."""
    registration = declared()
    await register(registration, prefect_server)
    [first] = await watching(api, registration)
    trigger = first["trigger"]
    deployment = await read(api, registration)
    assert trigger["within"] == 120
    assert (trigger["after"], trigger["expect"]) == (["prefect.flow-run.heartbeat"], ["prefect.flow-run.*"])
    assert trigger["match_related"] == {"prefect.resource.id": [f"prefect.deployment.{deployment['id']}"]}

    double = {key: first[key] for key in ("name", "trigger", "actions")}
    (await api.post("/automations/", json=double)).raise_for_status()
    await register(registration.model_copy(update={"heartbeat_lost_seconds": 300}), prefect_server)
    [again] = await watching(api, registration)
    assert again["trigger"]["within"] == 300
    assert "300 s" in again["actions"][0]["message"]
    await register(registration, prefect_server)
    [back] = await watching(api, registration)
    assert back["id"] == again["id"]
    for document in (first, back):
        for moving in ("id", "created", "updated"):
            del document[moving]
        del document["trigger"]["id"]
    assert back == first


async def test_an_automation_that_somebody_disabled_stays_so(prefect_server: str, api: httpx.AsyncClient) -> None:
    """A person's switch outlives a registration, which says so."""
    registration = declared()
    await register(registration, prefect_server)
    [automation] = await watching(api, registration)
    (await api.patch(f"/automations/{automation['id']}", json={"enabled": False})).raise_for_status()
    done = await register(registration, prefect_server)
    assert [one["enabled"] for one in await watching(api, registration)] == [False]
    assert any("still disabled" in line for line in done)


async def test_a_run_whose_heartbeat_stops_is_crashed(prefect_server: str, api: httpx.AsyncClient) -> None:
    """One heartbeat, then silence: the run ends Crashed and says why. A run that keeps beating goes on, and so does one
    of a deployment that was not registered here.
    """
    registration = declared().model_copy(update={"heartbeat_lost_seconds": 12})
    await register(registration, prefect_server)
    deployment = await read(api, registration)
    unregistered = {"name": f"other-{deployment['name']}", "flow_id": deployment["flow_id"]}
    (await api.post("/deployments/", json=unregistered)).raise_for_status()
    other = (await api.get(f"/deployments/name/daily_job/other-{deployment['name']}")).raise_for_status().json()

    async def begin(deployment_id: str) -> str:
        created = await api.post(f"/deployments/{deployment_id}/create_flow_run", json={})
        flow_run_id = str(created.raise_for_status().json()["id"])
        running = {"state": {"type": "RUNNING", "name": "Running"}, "force": True}
        (await api.post(f"/flow_runs/{flow_run_id}/set_state", json=running)).raise_for_status()
        return flow_run_id

    async def beat(flow_run_id: str, deployment_id: str) -> None:
        """What the flow engine sends."""
        its = {"prefect.resource.id": f"prefect.deployment.{deployment_id}", "prefect.resource.role": "deployment"}
        event = {
            "id": str(uuid.uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": "prefect.flow-run.heartbeat",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{flow_run_id}"},
            "related": [its],
        }
        (await api.post("/events", json=[event])).raise_for_status()

    async def state(flow_run_id: str) -> dict[str, Any]:
        run: dict[str, Any] = (await api.get(f"/flow_runs/{flow_run_id}")).raise_for_status().json()["state"]
        return run

    silent, alive, foreign = [await begin(one) for one in (deployment["id"], deployment["id"], other["id"])]
    await beat(silent, deployment["id"])
    await beat(foreign, other["id"])
    async with asyncio.timeout(90):
        while (await state(silent))["type"] == "RUNNING":
            await beat(alive, deployment["id"])
            await asyncio.sleep(0.5)
    ended = await state(silent)
    assert ended["type"] == "CRASHED"
    assert ended["message"].startswith("HeartbeatLost: no sign of life for 12 s")
    assert [(await state(one))["type"] for one in (alive, foreign)] == ["RUNNING", "RUNNING"]


async def test_an_entrypoint_that_is_no_flow_is_refused(prefect_server: str, api: httpx.AsyncClient) -> None:
    """The image holds no such flow: refused before anything is made on the server."""
    registration = declared(entrypoint="etl.flow.nightly_job")
    with pytest.raises(RegistrationRefused, match=r"etl\.flow\.nightly_job is no flow in this image"):
        await register(registration, prefect_server)
    assert (await api.get(f"/work_pools/{registration.work_pool.name}")).status_code == 404


async def test_a_pool_of_another_type_is_refused(prefect_server: str, api: httpx.AsyncClient) -> None:
    """A pool cannot change its type; the message names both."""
    registration = declared()
    await register(registration, prefect_server)
    other = registration.model_copy(update={"work_pool": WorkPool(name=registration.work_pool.name, type="kubernetes")})
    with pytest.raises(RegistrationRefused, match="exists with type 'process', 'kubernetes' is declared"):
        await register(other, prefect_server)


def command(*arguments: str, api_url: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PREFECT_API_URL": api_url}
    return subprocess.run(
        [sys.executable, "-m", "etl.deploy", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_the_command_registers_a_file(prefect_server: str, tmp_path: Path) -> None:
    """`python -m etl.deploy --config` says what it made, a line each."""
    mark = uuid.uuid4().hex[:8]
    config = tmp_path / "registration.json"
    config.write_text(
        json.dumps(
            {
                "workPool": {"name": f"pool-{mark}", "type": "process"},
                "deployments": [{"entrypoint": "etl.flow.daily_job", "name": f"d-{mark}", "workQueue": "week-10"}],
            }
        )
    )
    done = command("--config", str(config), api_url=prefect_server)
    assert done.returncode == 0, done.stderr
    assert f"work pool pool-{mark}: created (process)" in done.stderr
    assert f"deployment daily_job/d-{mark}: created" in done.stderr


async def test_the_command_checks_and_changes_nothing(
    prefect_server: str, api: httpx.AsyncClient, tmp_path: Path
) -> None:
    """`--check`: 1 and a line for each difference, before the registration and after people's changes; else 0."""
    mark = uuid.uuid4().hex[:8]
    registration = released(f"data/{mark}", f"daily-{mark}")
    config = tmp_path / "registration.json"
    config.write_text(registration.model_dump_json(by_alias=True))
    name, pool = f"daily_job/daily-{mark}", f"pool-daily-{mark}"

    def check() -> tuple[int, list[str]]:
        done = command("--check", "--config", str(config), api_url=prefect_server)
        return done.returncode, done.stdout.splitlines()

    code, lines = check()
    assert (code, lines[0], lines[2]) == (1, f"work pool {pool}: missing", f"deployment {name}: missing")
    assert (await api.get(f"/work_pools/{pool}")).status_code == 404

    await register(registration, prefect_server)
    await register(released(f"data/{mark}", f"old-{mark}"), prefect_server)
    await register(registration, prefect_server)
    assert check() == (0, ["Prefect holds what is declared"])

    deployment = await read(api, registration)
    (await api.post(f"/deployments/{deployment['id']}/pause_deployment")).raise_for_status()
    changed = {"description": "mine", "tags": ["mine", f"registered-by:data/{mark}"]}
    (await api.patch(f"/deployments/{deployment['id']}", json=changed)).raise_for_status()
    schedule = f"/deployments/{deployment['id']}/schedules/{deployment['schedules'][0]['id']}"
    moved = {"schedule": {"cron": "0 8 * * *", "timezone": "UTC"}}
    (await api.patch(schedule, json=moved)).raise_for_status()
    code, lines = check()
    assert code == 1
    assert [line.partition(f"deployment {name}: ")[2].partition(" is ")[0] for line in lines] == [
        "paused",
        "description",
        "tags",
        "schedule daily-0900",
    ]
    assert "('0 8 * * *', 'UTC'), declared is ('0 9 * * *', 'Europe/Madrid')" in lines[-1]
    assert (await read(api, registration))["description"] == "mine"


def test_a_wrong_file_names_every_fault(tmp_path: Path) -> None:
    """Unknown fields, a wrong cron expression, a wrong timezone: each is named, nothing is registered."""
    config = tmp_path / "registration.json"
    nine = {"slug": "a", "cron": "0 9 * * *", "timezone": "Europe/Madrid"}
    deployments = [
        {"entrypoint": "etl.flow.daily_job", "name": "x", "workQueue": "q", "schedules": [{**nine, **wrong}]}
        for wrong in ({"cron": "0 25 * * *"}, {"timezone": "Mars"})
    ]
    config.write_text(json.dumps({"workpool": {}, "deployments": deployments}))
    done = command("--config", str(config), api_url="http://127.0.0.1:9/api")
    assert done.returncode == 1
    assert "workpool: Extra inputs are not permitted" in done.stderr
    assert "deployments.0.schedules.0" in done.stderr
    assert "deployments.1.schedules.0" in done.stderr


def test_a_server_that_never_answers_is_named() -> None:
    """After the wait the command ends with one line that says what was missing."""
    done = command("--wait", "0", api_url="http://127.0.0.1:9/api")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("registration failed: ")
