"""What Prefect's JSON looks like, as far as this service reads it, and what it means in this service's words."""

import re
from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

import httpx
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from orchestrator.errors import EngineConfused
from orchestrator.marks import POD_OF_LABEL, TRACEPARENT, TRACEPARENT_LABEL
from orchestrator.runs import Facts, FlowRun, Origin, Schedule, State

_IS_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

PAGE = 200  # Prefect answers 422 to a larger limit

T = TypeVar("T")


class _State(BaseModel):
    type: str
    name: str
    message: str | None = None
    timestamp: datetime


class _CreatedBy(BaseModel):
    type: str | None = None


class _FlowRun(BaseModel):
    id: UUID
    deployment_id: UUID | None = None
    idempotency_key: str | None = None
    tags: tuple[str, ...] = ()
    labels: dict[str, Any] = Field(default_factory=dict)
    parameters: dict[str, Any] = Field(default_factory=dict)
    state: _State
    expected_start_time: datetime | None = None
    next_scheduled_start_time: datetime | None = None
    created: datetime
    start_time: datetime | None = None
    end_time: datetime | None = None
    auto_scheduled: bool = False
    work_pool_name: str | None = None
    work_queue_name: str | None = None
    created_by: _CreatedBy | None = None

    def told(self) -> FlowRun:
        scheduled = self.auto_scheduled or (self.created_by is not None and self.created_by.type == "SCHEDULE")
        origin: Origin = "schedule" if scheduled else "prefect"
        state = State.of(self.state.type)
        traceparent = self.labels.get(TRACEPARENT_LABEL)
        pod_of = self.labels.get(POD_OF_LABEL)
        return FlowRun(
            flow_run_id=self.id,
            deployment_id=self.deployment_id,
            idempotency_key=self.idempotency_key,
            origin=origin,
            tags=self.tags,
            traceparent=traceparent if isinstance(traceparent, str) and TRACEPARENT.fullmatch(traceparent) else None,
            parameters=self.parameters,
            state=state,
            state_name=self.state.name,
            message=self.state.message,
            at=self.state.timestamp,
            expected_at=self.expected_start_time or self.created,
            started_at=self.start_time,
            ended_at=(self.end_time or self.state.timestamp) if state.ended else None,
            next_at=self.next_scheduled_start_time,
            pod_of=UUID(pod_of) if isinstance(pod_of, str) and _IS_ID.fullmatch(pod_of) else None,
            pool=self.work_pool_name,
            queue=self.work_queue_name,
        )


class _Timing(BaseModel):
    cron: str | None = None
    interval: float | None = None
    rrule: str | None = None
    timezone: str | None = None


class _Schedule(BaseModel):
    slug: str | None = None
    active: bool
    schedule: _Timing


class _Deployment(BaseModel):
    id: UUID
    paused: bool
    schedules: list[_Schedule]
    parameters: dict[str, Any]
    parameter_openapi_schema: dict[str, Any] | None

    def told(self, name: str) -> Facts:
        return Facts(
            deployment=name,
            deployment_id=self.id,
            flow=name.split("/", maxsplit=1)[0],
            parameter_schema=self.parameter_openapi_schema or {},
            defaults=self.parameters,
            schedules=tuple(
                Schedule(
                    slug=one.slug,
                    cron=one.schedule.cron,
                    interval=one.schedule.interval,
                    rrule=one.schedule.rrule,
                    timezone=one.schedule.timezone or "UTC",
                    active=one.active,
                )
                for one in self.schedules
            ),
            paused=self.paused,
        )


class _Details(BaseModel):
    reason: str | None = None


class _Outcome(BaseModel):
    status: str
    details: _Details


class _Variable(BaseModel):
    value: Any


class _Upcoming(BaseModel):
    expected_start_time: datetime


FLOW_RUN = TypeAdapter(_FlowRun)
FLOW_RUNS = TypeAdapter(Annotated[list[_FlowRun], Field(max_length=PAGE)])
DEPLOYMENT = TypeAdapter(_Deployment)
OUTCOME = TypeAdapter(_Outcome)
STATES = TypeAdapter(list[_State])
VARIABLE = TypeAdapter(_Variable)
UPCOMING = TypeAdapter(list[_Upcoming])


def read(shape: TypeAdapter[T], answer: httpx.Response) -> T:
    """The answer in that shape. Raises EngineConfused naming what does not fit."""
    try:
        return shape.validate_json(answer.content)
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise EngineConfused(
            f"Prefect's answer to {answer.request.url.path} has another shape than expected ({where}: {first['msg']})"
        ) from exc
