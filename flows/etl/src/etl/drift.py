"""Where the Prefect server and a declaration differ, a line each. Nothing is changed here.

Right after a registration what is left is what it keeps on purpose: what people paused, limited or added in Prefect.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import DeploymentSort
from prefect.exceptions import ObjectNotFound

from etl import heartbeats
from etl.description import Description
from etl.registration import Deployment, Registration, WorkPool

_PAGE = 100


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A declared deployment, its flow, and the fields that Prefect is to hold for it."""

    declared: Deployment
    flow: Description
    fields: dict[str, Any]

    @property
    def name(self) -> str:
        """As Prefect names a deployment: flow/deployment."""
        return f"{self.flow.name}/{self.declared.name}"


async def find(registration: Registration, wanted: Sequence[Wanted], *, client: PrefectClient) -> list[str]:
    """Every difference. Raises httpx.HTTPError."""
    lines = await _pool(registration.work_pool, client=client)
    for queue in dict.fromkeys(one.declared.work_queue for one in wanted):
        lines += await _queue(queue, registration.work_pool.name, client=client)
    for one in wanted:
        lines += await _deployment(one, client=client)
    if wanted:
        lines += await _automation(registration.work_pool.name, client=client)
    if registration.mark is not None:
        names = {one.name for one in wanted}
        lines += [
            f"deployment {name}: registered by {registration.release}, no longer declared"
            async for name, _ in registered(registration.mark, client=client)
            if name not in names
        ]
    return lines


async def registered(mark: str, *, client: PrefectClient) -> AsyncIterator[tuple[str, DeploymentResponse]]:
    """The deployments that carry the mark of a release, by name. All are read before the first is given out."""
    found = list[DeploymentResponse]()
    marked = DeploymentFilter(tags=DeploymentFilterTags(all_=[mark]))
    while True:
        page = await client.read_deployments(
            deployment_filter=marked, sort=DeploymentSort.NAME_ASC, limit=_PAGE, offset=len(found)
        )
        found += page
        if len(page) < _PAGE:
            break
    for deployment in found:
        flow = await client.read_flow(deployment.flow_id)
        yield f"{flow.name}/{deployment.name}", deployment


def leftover(wanted: Wanted, present: DeploymentResponse) -> list[DeploymentSchedule]:
    """Schedules that a registration made and that are no longer declared: it alone gives schedules a slug."""
    slugs = {schedule.slug for schedule in wanted.declared.schedules}
    return [schedule for schedule in present.schedules if schedule.slug and schedule.slug not in slugs]


async def _pool(pool: WorkPool, *, client: PrefectClient) -> list[str]:
    what = f"work pool {pool.name}"
    try:
        present = await client.read_work_pool(pool.name)
    except ObjectNotFound:
        return [f"{what}: missing"]
    lines = [f"{what}: paused"] if present.is_paused else []
    lines += _differing(what, "type", present.type, pool.type)
    lines += _differing(what, "concurrency limit", present.concurrency_limit, pool.concurrency_limit)
    if pool.base_job_template not in (None, present.base_job_template):
        lines.append(f"{what}: another base job template than declared")
    return lines


async def _queue(queue: str, pool_name: str, *, client: PrefectClient) -> list[str]:
    what = f"work queue {queue}"
    try:
        present = await client.read_work_queue_by_name(queue, work_pool_name=pool_name)
    except ObjectNotFound:
        return [f"{what}: missing"]
    lines = [f"{what}: paused"] if present.is_paused else []
    return lines + _differing(what, "concurrency limit", present.concurrency_limit, None)


async def _deployment(wanted: Wanted, *, client: PrefectClient) -> list[str]:
    what = f"deployment {wanted.name}"
    try:
        present = await client.read_deployment_by_name(wanted.name)
    except ObjectNotFound:
        return [f"{what}: missing"]
    lines = [f"{what}: paused"] if present.paused else []
    limit = present.global_concurrency_limit.limit if present.global_concurrency_limit else None
    lines += _differing(what, "concurrency limit", limit, wanted.declared.concurrency_limit)
    for field, value in wanted.fields.items():
        # Prefect tells what it is asked to enforce and by which schema; only a person's words and numbers are shown.
        if field not in {"parameter_openapi_schema", "enforce_parameter_schema"}:
            lines += _differing(what, field.replace("_", " "), getattr(present, field), value)
    return lines + _schedules(what, wanted, present)


def _schedules(what: str, wanted: Wanted, present: DeploymentResponse) -> list[str]:
    lines = list[str]()
    by_slug = {schedule.slug: schedule for schedule in present.schedules}
    for declared in wanted.declared.schedules:
        found = by_slug.get(declared.slug)
        if found is None:
            lines.append(f"{what}: schedule {declared.slug} is missing")
            continue
        if not found.active:
            lines.append(f"{what}: schedule {declared.slug} is paused")
        when = (getattr(found.schedule, "cron", None), getattr(found.schedule, "timezone", None))
        lines += _differing(what, f"schedule {declared.slug}", when, (declared.cron, declared.timezone))
    lines += [f"{what}: schedule {one.slug} is no longer declared" for one in leftover(wanted, present)]
    lines += [f"{what}: a schedule made in Prefect, {one.schedule}" for one in present.schedules if not one.slug]
    return lines


async def _automation(pool_name: str, *, client: PrefectClient) -> list[str]:
    name = heartbeats.automation_name(pool_name)
    present = await client.read_automations_by_name(name)
    if not present:
        return [f"automation {name!r}: missing"]
    return [] if all(automation.enabled for automation in present) else [f"automation {name!r}: disabled"]


def _differing(what: str, field: str, found: object, declared: object) -> list[str]:
    return [] if found == declared else [f"{what}: {field} is {found!r}, declared is {declared!r}"]
