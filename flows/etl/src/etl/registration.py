"""What a registration file may say: one work pool and the deployments on it; unknown fields are refused."""

from pathlib import Path
from typing import Any, Literal, Self

from prefect.client.schemas.schedules import CronSchedule
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

from etl.heartbeats import LOST_SECONDS


class _Declared(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class WorkPool(_Declared):
    """The work pool. The concurrency limit holds at creation only: later it is the operators' to change in Prefect."""

    name: str = "pipelines"
    type: Literal["process", "kubernetes"] = "process"
    concurrency_limit: int | None = Field(default=None, ge=0)
    base_job_template: dict[str, Any] | None = None


class Schedule(_Declared):
    """A cron schedule, known by its slug: under the same slug it is changed in place and stays paused if it was."""

    slug: str = Field(pattern=r"^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$")
    cron: str
    timezone: str

    @model_validator(mode="after")
    def _is_a_schedule(self) -> Self:
        self.as_prefect()
        return self

    def as_prefect(self) -> CronSchedule:
        """The same schedule in Prefect's form.

        Raises:
            ValueError: the cron expression or the timezone means nothing.
        """
        return CronSchedule(cron=self.cron, timezone=self.timezone)


class Deployment(_Declared):
    """A deployment of a flow: `entrypoint` is its dotted path.

    `job_variables`: what its Jobs have in place of the work pool's defaults, such as another image.
    `described_in`: where another image described the flow (etl.description); without it this image holds it.
    """

    entrypoint: str
    name: str
    work_queue: str
    description: str | None = None
    tags: tuple[str, ...] = ()
    parameters: dict[str, Any] = Field(default_factory=dict)
    concurrency_limit: int | None = Field(default=None, ge=1)
    schedules: tuple[Schedule, ...] = ()
    job_variables: dict[str, Any] = Field(default_factory=dict)
    described_in: Path | None = None

    @field_validator("entrypoint")
    @classmethod
    def _is_dotted(cls, entrypoint: str) -> str:
        if "." not in entrypoint or ":" in entrypoint:
            raise ValueError("it must be a flow's dotted path, such as etl.flow.daily_job")
        return entrypoint

    @field_validator("schedules")
    @classmethod
    def _slugs_differ(cls, schedules: tuple[Schedule, ...]) -> tuple[Schedule, ...]:
        if len({schedule.slug for schedule in schedules}) < len(schedules):
            raise ValueError("each schedule of a deployment needs a slug of its own")
        return schedules


DAILY_JOB = Deployment(
    entrypoint="etl.flow.daily_job",
    name="daily-0900",
    work_queue="week-10",
    description="Every morning at 09:00 in Madrid: yesterday's flights and weather into the warehouse.",
    schedules=(Schedule(slug="daily-0900", cron="0 9 * * *", timezone="Europe/Madrid"),),
)


class Registration(_Declared):
    """Everything a registration declares. Without a file: the daily job on a process work pool.

    `release`: who registers, such as namespace/name of a Helm release. Its deployments carry that as a tag, and those
    that are no longer declared are removed. Without one nothing is ever removed.
    `heartbeat_lost_seconds`: how long after its last sign of life a run is called Crashed (see etl.heartbeats).
    """

    release: str | None = Field(default=None, min_length=1)

    work_pool: WorkPool = WorkPool()
    deployments: tuple[Deployment, ...] = (DAILY_JOB,)
    heartbeat_lost_seconds: int = Field(default=LOST_SECONDS, ge=10)

    @property
    def mark(self) -> str | None:
        """The tag of what the release registered; not a label, which Prefect takes at a deployment's creation only."""
        return f"registered-by:{self.release}" if self.release else None
