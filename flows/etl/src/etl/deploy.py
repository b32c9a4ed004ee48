"""Registers what is declared with the Prefect server, repeatably: `python -m etl.deploy [--config FILE.json]`.

A deployment that exists is patched, never posted again: POST would make its schedules anew and active, and thereby
un-pause what somebody paused (https://github.com/PrefectHQ/prefect/issues/11107). Limits are set at creation only.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import Flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    DeploymentScheduleUpdate,
    DeploymentUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.exceptions import MissingFlowError, ObjectAlreadyExists, ObjectNotFound
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from etl import heartbeats
from etl.errors import RegistrationRefused
from etl.registration import Deployment, Registration, WorkPool


async def register(registration: Registration, *, client: PrefectClient) -> list[str]:
    """Make the server hold what is declared, and say in one line each what that took.

    Raises:
        RegistrationRefused: an entrypoint is no flow of this image, or the pool exists with another type.
        httpx.HTTPError: the server cannot be reached or refuses a request.
    """
    flows = {deployment.entrypoint: _load_flow(deployment.entrypoint) for deployment in registration.deployments}
    done = [await _register_pool(registration.work_pool, client=client)]
    for queue in dict.fromkeys(deployment.work_queue for deployment in registration.deployments):
        done.append(await _register_queue(queue, registration.work_pool.name, client=client))
    ids = []
    for deployment in registration.deployments:
        flow = flows[deployment.entrypoint]
        deployment_id, line = await _register_deployment(deployment, flow, registration.work_pool.name, client=client)
        ids.append(deployment_id)
        done.append(line)
    if ids:
        done.append(
            await heartbeats.watch(
                registration.work_pool.name, ids, lost_seconds=registration.heartbeat_lost_seconds, client=client
            )
        )
    return done


def _load_flow(entrypoint: str) -> Flow[..., Any]:
    try:
        return load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    except (ImportError, MissingFlowError) as exc:
        raise RegistrationRefused(f"{entrypoint} is no flow in this image: {exc}") from exc


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


async def _register_deployment(
    deployment: Deployment, flow: Flow[..., Any], pool_name: str, *, client: PrefectClient
) -> tuple[UUID, str]:
    name = f"{flow.name}/{deployment.name}"
    declared: dict[str, Any] = {
        "version": flow.version,
        "description": deployment.description or flow.description,
        "tags": list(deployment.tags),
        "parameters": deployment.parameters,
        "parameter_openapi_schema": parameter_schema(flow).model_dump_for_openapi(),
        "enforce_parameter_schema": True,
        "entrypoint": deployment.entrypoint,
        "work_pool_name": pool_name,
        "work_queue_name": deployment.work_queue,
    }
    try:
        present = await client.read_deployment_by_name(name)
    except ObjectNotFound:
        created = await client.create_deployment(
            flow_id=await client.create_flow_from_name(flow.name),
            name=deployment.name,
            concurrency_limit=deployment.concurrency_limit,
            schedules=[
                DeploymentScheduleCreate(schedule=schedule.as_prefect(), slug=schedule.slug, active=True)
                for schedule in deployment.schedules
            ],
            **declared,
        )
        return created, f"deployment {name}: created"
    schedules = [
        DeploymentScheduleUpdate(schedule=schedule.as_prefect(), slug=schedule.slug)
        for schedule in deployment.schedules
    ]
    await client.update_deployment(present.id, DeploymentUpdate(schedules=schedules, **declared))
    return present.id, f"deployment {name}: updated{', still paused' if present.paused else ''}"


async def register_within(registration: Registration, *, wait_seconds: float) -> list[str]:
    """Register, waiting at most `wait_seconds` for a server that is still starting.

    Raises:
        RegistrationRefused: see register.
        httpx.HTTPError: the last failure, once the time is up, or at once where the server refused.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            async with get_client() as client:
                return await register(registration, client=client)
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
    parser.add_argument("--wait", type=float, default=300, metavar="SECONDS", help="how long to wait for the server")
    arguments = parser.parse_args()
    registration = _read(arguments.config)
    try:
        done = asyncio.run(register_within(registration, wait_seconds=arguments.wait))
    except httpx.HTTPStatusError as exc:
        raise SystemExit(f"the Prefect server refused: {exc.response.status_code} {exc.response.text[:500]}") from exc
    except (RegistrationRefused, httpx.TransportError) as exc:
        raise SystemExit(f"registration failed: {type(exc).__name__}: {exc}") from exc
    sys.stderr.write("".join(f"{line}\n" for line in done))


if __name__ == "__main__":
    main()
