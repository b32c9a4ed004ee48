"""Which run this is: what the orchestrator wrote on the flow run, and the logical date where nobody chose one."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import prefect.runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.logging import get_run_logger
from structlog.processors import JSONRenderer

from etl import catchup
from etl.claim import Claim
from etl.load import LoadedBy
from etl.tags import RUN_ID_TAG, correlation_id

_render = JSONRenderer()


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """One execution: `run_id` is the orchestrator's for a run it accepted, else Prefect's flow-run id.

    `deployment_id`: whose run it is; None where the flow was called without one. `catches_up`: it was made to load a
    degraded day again (see etl.catchup).
    """

    run_id: UUID
    flow_run_id: UUID
    correlation_id: str
    deployment_id: UUID | None = None
    catches_up: bool = False

    def log(self, step: str, **facts: Any) -> None:
        """One line a step into the run's log, as JSON."""
        get_run_logger().info("%s", self._line(step, facts))

    def warn(self, step: str, **facts: Any) -> None:
        """The same as a warning: what a person might do something about."""
        get_run_logger().warning("%s", self._line(step, facts))

    def _line(self, step: str, facts: dict[str, Any]) -> str:
        line = {"step": step, "run_id": str(self.run_id), "correlation_id": self.correlation_id, **facts}
        return str(_render(None, "info", line))

    async def loading(self, claim: Claim) -> LoadedBy:
        """The same identity as the warehouse records it with a load under `claim`."""
        async with get_client() as client:
            states = await client.read_flow_run_states(self.flow_run_id)
        completions = sum(state.type is StateType.COMPLETED for state in states)
        return LoadedBy(run_id=self.run_id, correlation_id=self.correlation_id, claim=claim, completions=completions)


def identify(flow_run_id: UUID, tags: Collection[str], *, deployment_id: UUID | None = None) -> RunIdentity:
    """Read the tags; a run without them (the schedule's, or Prefect's own page's) goes by its flow-run id."""
    run_ids = (tag.removeprefix(RUN_ID_TAG) for tag in tags if tag.startswith(RUN_ID_TAG))
    return RunIdentity(
        run_id=next((UUID(run_id) for run_id in run_ids), flow_run_id),
        flow_run_id=flow_run_id,
        correlation_id=correlation_id(flow_run_id, tags),
        deployment_id=deployment_id,
        catches_up=catchup.TAG in tags,
    )


def this_run() -> RunIdentity:
    """The identity of the flow run that calls."""
    deployment_id = prefect.runtime.deployment.id
    return identify(
        UUID(prefect.runtime.flow_run.id),
        prefect.runtime.flow_run.tags,
        deployment_id=UUID(deployment_id) if deployment_id else None,
    )


def day_before(scheduled_start: datetime, timezone: str) -> date:
    """Yesterday, as seen in `timezone` at the scheduled start: the newest day that is over everywhere in it."""
    return (scheduled_start.astimezone(ZoneInfo(timezone)) - timedelta(days=1)).date()


async def default_logical_date() -> date:
    """The day before this run's scheduled start, in its deployment's timezone; in UTC where it has no cron schedule."""
    timezone = "UTC"
    deployment_id = prefect.runtime.deployment.id
    if deployment_id is not None:
        async with get_client() as client:
            deployment = await client.read_deployment(UUID(deployment_id))
        timezone = next(
            (
                s.schedule.timezone
                for s in deployment.schedules
                if isinstance(s.schedule, CronSchedule) and s.schedule.timezone
            ),
            timezone,
        )
    return day_before(prefect.runtime.flow_run.scheduled_start_time, timezone)
