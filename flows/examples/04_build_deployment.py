"""A deployment: the flow daily_job, its parameters and its schedule (daily 09:00 Europe/Madrid) as a server knows them.

With PREFECT_API_URL set, it is registered there, twice, to show what declarative means: the second time changes
nothing, and what a person has paused stays paused. It is left paused, under a name of its own, so that nothing starts
by itself. Without PREFECT_API_URL, this only says what would be registered.

    uv run python flows/examples/04_build_deployment.py
    PREFECT_API_URL=http://127.0.0.1:4200/api uv run python flows/examples/04_build_deployment.py
"""

import asyncio
import os

import sandbox  # noqa: F401 - it gives Prefect its settings

from etl.deploy import register
from etl.registration import DAILY_JOB, Registration, WorkPool
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate

REGISTRATION = Registration(
    # A process pool runs flows as processes of the worker's machine; in the chart it is kubernetes, a Job for each run.
    work_pool=WorkPool(name="examples", type="process"),
    deployments=(DAILY_JOB.model_copy(update={"name": "example-0900"}),),
)
FULL_NAME = "daily_job/example-0900"


async def show(client: PrefectClient) -> None:
    """Print what the server holds."""
    deployment = await client.read_deployment_by_name(FULL_NAME)
    print(f"   {FULL_NAME}: {deployment.status}, {'paused' if deployment.paused else 'not paused'}")
    print(f"   entrypoint {deployment.entrypoint}, work pool {deployment.work_pool_name}/{deployment.work_queue_name}")
    for schedule in deployment.schedules:
        print(f"   schedule {schedule.slug}: {schedule.schedule.model_dump(include={'cron', 'timezone'})}")
    print(f"   parameters {sorted((deployment.parameter_openapi_schema or {}).get('properties', {}))}")


async def build() -> None:
    """Register, pause, register again."""
    async with get_client() as client:
        print("1. Register:")
        for line in await register(REGISTRATION, client=client):
            print(f"   {line}")
        print("\n2. Someone pauses it:")
        deployment = await client.read_deployment_by_name(FULL_NAME)
        await client.update_deployment(deployment.id, DeploymentUpdate(paused=True))
        await show(client)
        print("\n3. Register again, as each upgrade of the platform does:")
        for line in await register(REGISTRATION, client=client):
            print(f"   {line}")
        await show(client)
    print(f"\nRemove it with: prefect deployment delete {FULL_NAME}")


if __name__ == "__main__":
    if "PREFECT_API_URL" in os.environ:
        asyncio.run(build())
    else:
        print("No PREFECT_API_URL is set. This would be registered (the file that etl.deploy --config takes):\n")
        print(REGISTRATION.model_dump_json(by_alias=True, indent=2, exclude_none=True))
