"""Registers what is declared with the Prefect server, repeatably: `python -m etl.deploy [--check] [--config FILE]`.

A deployment that exists is patched, never posted again: POST would make its schedules anew and active, and thereby
un-pause what somebody paused (https://github.com/PrefectHQ/prefect/issues/11107). So would a PATCH with a list of
schedules once one of those present has no slug, as one made in Prefect's UI: each schedule is patched by its id.
Limits are set at creation only. What is kept so is said (see etl.drift).
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    DeploymentUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from pydantic import ValidationError

from etl import drift, heartbeats
from etl.description import Description
from etl.drift import Wanted
from etl.errors import RegistrationRefused
from etl.registration import Registration, Schedule, WorkPool


async def register(registration: Registration, *, client: PrefectClient) -> list[str]:
    """Make the server hold what is declared, and say in one line each what that took.

    Raises:
        RegistrationRefused: an entrypoint is no flow of its image, or the pool exists with another type.
        httpx.HTTPError: the server cannot be reached or refuses a request.
    """
    wanted = _wanted(registration)
    pool = registration.work_pool.name
    done = [await _register_pool(registration.work_pool, client=client)]
    for queue in dict.fromkeys(deployment.work_queue for deployment in registration.deployments):
        done.append(await _register_queue(queue, pool, client=client))
    ids = []
    for one in wanted:
        deployment_id, lines = await _register_deployment(one, registration.mark, client=client)
        ids.append(deployment_id)
        done += lines
    if registration.mark is not None:
        done += await _prune(registration.mark, {one.name for one in wanted}, client=client)
    if ids:
        done.append(await heartbeats.watch(pool, ids, lost_seconds=registration.heartbeat_lost_seconds, client=client))
    kept = await drift.find(registration, wanted, client=client)
    return [*done, *(f"kept as it is in Prefect: {line}" for line in kept)]


async def check(registration: Registration, *, client: PrefectClient) -> list[str]:
    """What a registration would change, and what it would keep, a line each; nothing is changed.

    Raises:
        RegistrationRefused: an entrypoint is no flow of its image.
        httpx.HTTPError: the server cannot be reached or refuses a request.
    """
    return await drift.find(registration, _wanted(registration), client=client)


def _wanted(registration: Registration) -> list[Wanted]:
    wanted = []
    for deployment in registration.deployments:
        told = deployment.described_in
        flow = Description.read(told, deployment.entrypoint) if told else Description.of(deployment.entrypoint)
        fields = {
            "version": flow.version,
            "description": deployment.description or flow.description,
            "tags": [*deployment.tags, *([registration.mark] if registration.mark else [])],
            "parameters": deployment.parameters,
            "parameter_openapi_schema": flow.parameters,
            "enforce_parameter_schema": True,
            "entrypoint": deployment.entrypoint,
            "work_pool_name": registration.work_pool.name,
            "work_queue_name": deployment.work_queue,
            "job_variables": deployment.job_variables,
        }
        wanted.append(Wanted(declared=deployment, flow=flow, fields=fields))
    return wanted


async def _register_pool(pool: WorkPool, *, client: PrefectClient) -> str:
    wanted: dict[str, Any] = {}
    if pool.base_job_template is not None:
        wanted["base_job_template"] = pool.base_job_template
    try:
        await client.create_work_pool(
            WorkPoolCreate(name=pool.name, type=pool.type, concurrency_limit=pool.concurrency_limit, **wanted)
        )
    except ObjectAlreadyExists:
        present = await client.read_work_pool(pool.name)
        if present.type != pool.type:
            raise RegistrationRefused(
                f"work pool {pool.name!r} exists with type {present.type!r}, {pool.type!r} is declared:"
                " give the pool another name, or delete it in Prefect"
            ) from None
        if wanted:
            await client.update_work_pool(pool.name, WorkPoolUpdate(**wanted))
        return f"work pool {pool.name}: {'base job template updated' if wanted else 'there already'}"
    return f"work pool {pool.name}: created ({pool.type})"


async def _register_queue(queue: str, pool_name: str, *, client: PrefectClient) -> str:
    try:
        await client.create_work_queue(name=queue, work_pool_name=pool_name)
    except ObjectAlreadyExists:
        return f"work queue {queue}: there already"
    return f"work queue {queue}: created"


async def _register_deployment(wanted: Wanted, mark: str | None, *, client: PrefectClient) -> tuple[UUID, list[str]]:
    name, declared = wanted.name, wanted.declared
    try:
        present = await client.read_deployment_by_name(name)
    except ObjectNotFound:
        created = await client.create_deployment(
            flow_id=await client.create_flow_from_name(wanted.flow.name),
            name=declared.name,
            concurrency_limit=declared.concurrency_limit,
            schedules=[_new(schedule) for schedule in declared.schedules],
            **wanted.fields,
        )
        return created, [f"deployment {name}: created"]
    await client.update_deployment(present.id, DeploymentUpdate(**wanted.fields))
    lines = [f"deployment {name}: updated{', still paused' if present.paused else ''}"]
    by_slug = {schedule.slug: schedule for schedule in present.schedules}
    for schedule in declared.schedules:
        found = by_slug.get(schedule.slug)
        if found is None:
            await client.create_deployment_schedules(present.id, [_new(schedule)])
            lines.append(f"deployment {name}: schedule {schedule.slug} created")
        elif found.schedule != schedule.as_prefect():
            await client.update_deployment_schedule(present.id, found.id, schedule=schedule.as_prefect())
            lines.append(f"deployment {name}: schedule {schedule.slug} updated")
    # Only of a deployment that this release has registered before: what stood there then is not its own.
    for old in drift.leftover(wanted, present) if mark in present.tags else ():
        await client.delete_deployment_schedule(present.id, old.id)
        lines.append(f"deployment {name}: schedule {old.slug} removed, no longer declared")
    return present.id, lines


def _new(schedule: Schedule) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(schedule=schedule.as_prefect(), slug=schedule.slug, active=True)


async def _prune(mark: str, declared: set[str], *, client: PrefectClient) -> list[str]:
    """Remove the release's deployments that are no longer declared, with their scheduled runs; what runs goes on."""
    lines = []
    async for name, deployment in drift.registered(mark, client=client):
        if name not in declared:
            await client.delete_deployment(deployment.id)
            lines.append(f"deployment {name}: removed, no longer declared")
    return lines


async def register_within(registration: Registration, *, wait_seconds: float) -> list[str]:
    """Register, waiting at most `wait_seconds` for a server that is still starting.

    Raises:
        RegistrationRefused: see register.
        httpx.HTTPError: the last failure, once the time is up, or at once where the server refused.
    """
    return await _within(lambda client: register(registration, client=client), wait_seconds=wait_seconds)


async def check_within(registration: Registration, *, wait_seconds: float) -> list[str]:
    """Check, waiting and raising as register_within does."""
    return await _within(lambda client: check(registration, client=client), wait_seconds=wait_seconds)


async def _within(work: Callable[[PrefectClient], Awaitable[list[str]]], *, wait_seconds: float) -> list[str]:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            async with get_client() as client:
                return await work(client)
        except (httpx.TransportError, httpx.HTTPStatusError) as exc:
            refused = isinstance(exc, httpx.HTTPStatusError) and exc.response.status_code < 500
            if refused or time.monotonic() >= deadline:
                raise
            sys.stderr.write(f"the Prefect server does not answer yet ({type(exc).__name__}); trying again\n")
        await asyncio.sleep(1)


def _read(config: Path | None) -> Registration:
    if config is None:
        return Registration()
    try:
        return Registration.model_validate_json(config.read_bytes())
    except OSError as exc:
        raise SystemExit(f"--config {config}: {exc.strerror}") from exc
    except ValidationError as exc:
        problems = (f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in exc.errors(include_url=False))
        raise SystemExit(f"--config {config}: " + "; ".join(problems)) from exc


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m etl.deploy", description=__doc__.partition("\n")[0] if __doc__ else None
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE.json", help="what to register (default: the daily job on a process pool)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="change nothing: print each difference between what is declared and Prefect, and exit 1 if there is one",
    )
    parser.add_argument("--wait", type=float, default=300, metavar="SECONDS", help="how long to wait for the server")
    arguments = parser.parse_args()
    registration = _read(arguments.config)
    work = check_within if arguments.check else register_within
    try:
        done = asyncio.run(work(registration, wait_seconds=arguments.wait))
    except httpx.HTTPStatusError as exc:
        raise SystemExit(f"the Prefect server refused: {exc.response.status_code} {exc.response.text[:500]}") from exc
    except (RegistrationRefused, httpx.TransportError) as exc:
        raise SystemExit(f"registration failed: {type(exc).__name__}: {exc}") from exc
    if arguments.check:
        sys.stdout.write("".join(f"{line}\n" for line in done or ["Prefect holds what is declared"]))
        sys.exit(1 if done else 0)
    sys.stderr.write("".join(f"{line}\n" for line in done))


if __name__ == "__main__":
    main()
