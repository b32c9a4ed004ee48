"""Registrations for tests: under names of their own, made in a real Prefect server."""

import uuid
from typing import Any

from etl.deploy import register_within
from etl.registration import DAILY_JOB, Registration, WorkPool
from prefect.settings import PREFECT_API_URL, temporary_settings


def declared(**changes: Any) -> Registration:
    """The daily job under names of its own, so that tests on one server do not meet."""
    mark = uuid.uuid4().hex[:8]
    deployment = DAILY_JOB.model_copy(update={"name": f"daily-{mark}", **changes})
    return Registration(work_pool=WorkPool(name=f"pool-{mark}"), deployments=(deployment,))


async def register(registration: Registration, api_url: str) -> list[str]:
    with temporary_settings({PREFECT_API_URL: api_url}):
        return await register_within(registration, wait_seconds=0)
