"""The shapes of what callers send and get, with examples: the source of the OpenAPI document."""

from collections.abc import Mapping
from datetime import date, datetime
from http import HTTPStatus
from typing import Any, Literal
from uuid import UUID

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row

from orchestrator.api.held import HeldRuns, ReasonAnswer
from orchestrator.ledger.reading import Remembered
from orchestrator.runs import Origin, Schedule, State, duration_ms
from orchestrator.settings import Pipeline

RUN_ID = "0b5f0ac8-9a0e-4b8e-9a3b-6f0f6f1f6a11"


def written(
    answer: BaseModel, *, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer as it is sent. Handed to FastAPI as it is, it would be validated again before it is written."""
    return Response(answer.model_dump_json(), status_code=status, headers=headers, media_type="application/json")


class StartRequest(BaseModel):
    """What a run is to be about. Everything has a default, an empty body included."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{}, {"logical_date": "2026-03-01", "parameters": {}}]}
    )

    logical_date: str | None = Field(
        default=None,
        json_schema_extra={"format": "date"},
        description="The day the run is about, YYYY-MM-DD; yesterday in the schedule's timezone when left out",
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Checked against the deployment's parameter schema"
    )


class Accepted(BaseModel):
    """The run is committed and will be handed to Prefect."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"run_id": RUN_ID, "status": "scheduled"}]})

    run_id: UUID
    status: Literal["scheduled"] = "scheduled"


class Cancelling(BaseModel):
    """The wish to cancel is committed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"run_id": RUN_ID, "state": "Cancelling"}]})

    run_id: UUID
    state: Literal[State.CANCELLING, State.CANCELLED] = Field(
        description="Cancelled where Prefect did not have the run yet; else it is on its way there"
    )


class Handover(BaseModel):
    """How handing the run to Prefect goes."""

    attempts: int
    last_error: str | None
    next_attempt_at: datetime | None


class RunStatus(BaseModel):
    """All that is known of one run."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "run_id": RUN_ID,
                    "state": "Failed",
                    "state_name": "Failed",
                    "message": "Flow run encountered an exception: HTTPStatusError: 503 Service Unavailable",
                    "pipeline": "etl",
                    "logical_date": "2026-03-01",
                    "flow_run_id": "6a1cf4d1-0e73-4a7e-9d0c-5b9d7a0e9b52",
                    "origin": "api",
                    "parameters": {"logical_date": "2026-03-01"},
                    "correlation_id": "4bf92f3577b34da6a3ce929d0e0e4736",
                    "accepted_at": "2026-03-02T08:00:00.120Z",
                    "dispatched_at": "2026-03-02T08:00:00.190Z",
                    "started_at": "2026-03-02T08:00:06.500Z",
                    "ended_at": "2026-03-02T08:00:41.730Z",
                    "duration_ms": 35230,
                    "attempt": 1,
                    "max_attempts": 3,
                    "backfill_id": None,
                    "cancel_requested_at": None,
                    "dispatch": {"attempts": 1, "last_error": None, "next_attempt_at": None},
                    "reason": {
                        "id": "PL101",
                        "title": "Source unavailable",
                        "detail": "Flow run encountered an exception: SourceUnavailable: 503 Service Unavailable",
                        "fix": "prefect flow-run logs 6a1cf4d1-0e73-4a7e-9d0c-5b9d7a0e9b52",
                        "since": "2026-03-02T08:00:41.730Z",
                    },
                }
            ]
        }
    )

    run_id: UUID
    state: State
    state_name: str = Field(description="Prefect's finer name, such as Late, AwaitingRetry or Degraded")
    message: str | None = Field(description="Prefect's word on the state; for a failed run, the reason")
    pipeline: str
    logical_date: date
    flow_run_id: UUID | None
    origin: Origin
    parameters: dict[str, Any]
    correlation_id: str
    accepted_at: datetime
    dispatched_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    duration_ms: int | None
    attempt: int = Field(description="Which execution of the run this is; one more after each crash")
    max_attempts: int = Field(description="How many the pipeline allows")
    backfill_id: UUID | None = Field(description="The backfill that made it")
    cancel_requested_at: datetime | None = Field(description="When somebody asked to cancel it")
    dispatch: Handover
    reason: ReasonAnswer | None = Field(description="What holds it, or why it failed; null for a run that is all right")

    @classmethod
    def of(cls, row: Row[Any], pipeline: Pipeline) -> "RunStatus":
        """The answer about one row of the ledger's runs, a run of `pipeline`."""
        told_otherwise = {"duration_ms", "dispatch", "max_attempts", "reason"}
        return cls(
            **{name: getattr(row, name) for name in cls.model_fields if name not in told_otherwise},
            max_attempts=pipeline.max_attempts,
            reason=ReasonAnswer.of_row(row),
            duration_ms=duration_ms(row.started_at, row.ended_at),
            dispatch=Handover(
                attempts=row.dispatch_attempts, last_error=row.last_error, next_attempt_at=row.next_attempt_at
            ),
        )


class Change(BaseModel):
    """One recorded change of a run: the `data` of a server-sent event."""

    run_id: UUID
    kind: Literal["submitted", "changed", "held", "ended", "explained"]
    state: State
    state_name: str
    message: str | None
    logical_date: date
    at: datetime
    duration_ms: int | None
    reason: str | None = Field(description="Of held and explained: the id of what holds the run, or of why it ended")
    correlation_id: str


class RunPage(BaseModel):
    """Runs, newest first, and where the next page starts."""

    runs: list[RunStatus]
    next_cursor: str | None = Field(description="Send it back as `cursor`; null on the last page")


class ScheduleAnswer(BaseModel):
    """One schedule of a deployment; one of cron, interval_seconds and rrule is set."""

    slug: str | None
    cron: str | None
    interval_seconds: float | None
    rrule: str | None
    timezone: str
    active: bool

    @classmethod
    def of(cls, schedule: Schedule) -> "ScheduleAnswer":
        """The answer about one schedule."""
        return cls(
            slug=schedule.slug,
            cron=schedule.cron,
            interval_seconds=schedule.interval,
            rrule=schedule.rrule,
            timezone=schedule.timezone,
            active=schedule.active,
        )


class LastRun(BaseModel):
    """The latest run in short."""

    run_id: UUID
    state: State
    state_name: str
    logical_date: date
    ended_at: datetime | None


class PipelineAnswer(BaseModel):
    """One pipeline at a glance, as Prefect last told (`seen_at`)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "etl",
                    "deployment": "daily_job/daily-0900",
                    "registered": True,
                    "paused": False,
                    "schedules": [
                        {
                            "slug": "daily-0900",
                            "cron": "0 9 * * *",
                            "interval_seconds": None,
                            "rrule": None,
                            "timezone": "Europe/Madrid",
                            "active": True,
                        }
                    ],
                    "next_run": "2026-03-03T09:00:00+01:00",
                    "last_run": {
                        "run_id": RUN_ID,
                        "state": "Completed",
                        "state_name": "Completed",
                        "logical_date": "2026-03-01",
                        "ended_at": "2026-03-02T08:00:41.730Z",
                    },
                    "held": [],
                    "breaker": "closed",
                    "source_breaker": "closed",
                    "seen_at": "2026-03-02T08:10:00Z",
                }
            ]
        }
    )

    name: str
    deployment: str
    registered: bool | None = Field(description="Whether Prefect has the deployment; null while that is not known")
    paused: bool | None
    schedules: list[ScheduleAnswer]
    next_run: datetime | None = Field(description="Prefect's next scheduled run, in the schedule's timezone")
    last_run: LastRun | None
    held: list[HeldRuns] = Field(description="What keeps its runs, or its schedule, from going on")
    breaker: str = Field(description="The circuit to Prefect: closed, open or half-open")
    source_breaker: str | None = Field(
        description="The circuit between the flow and its source, as Prefect last told; null until it has first changed"
    )
    seen_at: datetime | None = Field(description="When Prefect last told of the deployment")

    @classmethod
    def of(
        cls,
        name: str,
        deployment: str,
        *,
        known: Remembered | None,
        last: Row[Any] | None,
        held: list[HeldRuns],
        breaker: str,
        now: datetime,
    ) -> "PipelineAnswer":
        """The answer about one configured pipeline, known or not."""
        facts = known.facts if known else None
        upcoming = [one for one in known.next_starts if one > now] if known and not known.facts.paused else []
        return cls(
            name=name,
            deployment=deployment,
            registered=known.missing_since is None if known else None,
            paused=facts.paused if facts else None,
            schedules=[ScheduleAnswer.of(one) for one in facts.schedules] if facts else [],
            next_run=upcoming[0].astimezone(facts.timezone) if facts and upcoming else None,
            last_run=LastRun(**{field: getattr(last, field) for field in LastRun.model_fields}) if last else None,
            held=held,
            breaker=breaker,
            source_breaker=known.source_breaker if known else None,
            seen_at=known.seen_at if known else None,
        )


class Pipelines(BaseModel):
    """Every configured pipeline, in the configuration's order."""

    pipelines: list[PipelineAnswer]


class Alive(BaseModel):
    """The process runs and its event loop turns."""

    status: Literal["alive"] = "alive"


class Dependency(BaseModel):
    """One thing this service needs."""

    ok: bool
    detail: str | None = Field(default=None, description="What is wrong and what to do, where it is not ok")


class Readiness(BaseModel):
    """Whether runs can be accepted. Prefect may be away: what is accepted meanwhile is handed over later."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "ready": True,
                    "dependencies": {
                        "database": {"ok": True, "detail": None},
                        "schema": {"ok": True, "detail": None},
                        "prefect": {"ok": False, "detail": "Prefect cannot serve now (GET /ready: ConnectError)"},
                    },
                    "database_clock_ahead_seconds": 0.004,
                }
            ]
        }
    )

    ready: bool
    dependencies: dict[Literal["database", "schema", "prefect"], Dependency]
    database_clock_ahead_seconds: float | None = Field(
        description="By how much the database's clock is ahead of this service's; null while it does not answer"
    )
