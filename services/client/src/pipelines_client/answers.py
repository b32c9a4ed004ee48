"""What the API answers, as far as this client reads it. What a newer service says beyond that is kept and shown."""

from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

OVER = frozenset({"Completed", "Failed", "Crashed", "Cancelled"})
FAILED = frozenset({"Failed", "Crashed"})


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)


class Reason(Answer):
    """Why a run does not go on, or failed: the same id always means the same."""

    id: str
    title: str
    detail: str
    fix: str = Field(description="A command that works when pasted")
    since: datetime


class Run(Answer):
    """All that is known of one run."""

    run_id: UUID
    state: str
    state_name: str = Field(description="Finer than the state: Late, AwaitingRetry, Degraded")
    message: str | None
    pipeline: str
    logical_date: date
    flow_run_id: UUID | None
    origin: str
    parameters: dict[str, Any]
    correlation_id: str
    accepted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    duration_ms: int | None
    attempt: int
    max_attempts: int
    backfill_id: UUID | None
    reason: Reason | None

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in OVER

    @property
    def failed(self) -> bool:
        """Whether it has ended badly by itself."""
        return self.state in FAILED

    @property
    def shown_state(self) -> str:
        """The state, and its finer name where that says more."""
        return self.state if self.state_name == self.state else f"{self.state} ({self.state_name})"


class RunPage(Answer):
    """Runs, newest first, and where the next page starts."""

    runs: list[Run]
    next_cursor: str | None


class Accepted(Answer):
    """The run is committed."""

    run_id: UUID
    status: str


class Cancelling(Answer):
    """The wish to cancel a run is committed."""

    run_id: UUID
    state: str


class Schedule(Answer):
    """When a pipeline's runs are made; one of cron, interval_seconds and rrule is set."""

    cron: str | None
    interval_seconds: float | None
    rrule: str | None
    timezone: str
    active: bool


class LastRun(Answer):
    """A pipeline's latest run in short."""

    run_id: UUID
    state: str
    state_name: str
    logical_date: date
    ended_at: datetime | None


class Held(Answer):
    """What keeps a pipeline's runs, or its schedule, from going on."""

    runs: int
    reason: Reason


class Pipeline(Answer):
    """One pipeline at a glance."""

    name: str
    deployment: str
    registered: bool | None
    paused: bool | None
    schedules: list[Schedule]
    next_run: datetime | None
    last_run: LastRun | None
    held: list[Held]
    breaker: str | None = Field(default=None, description="The circuit to Prefect: closed, open or half-open")
    source_breaker: str | None = Field(default=None, description="The circuit between the flow and its source")
    seen_at: datetime | None = Field(default=None, description="When Prefect last told of the deployment")


class Pipelines(Answer):
    """Every pipeline that you may read."""

    pipelines: list[Pipeline]


class LogLine(Answer):
    """One line of a run's log; its message may be several lines of text."""

    id: UUID
    at: datetime
    level: str
    logger: str
    message: str
    task_run_id: UUID | None


class LogPage(Answer):
    """Lines of a run's log, in order."""

    run_id: UUID
    flow_run_id: UUID | None
    state: str
    lines: list[LogLine]
    next_cursor: str | None
    more: bool
    detail: str | None = Field(description="Why there is no line, where that is known")


class LogState(Answer):
    """A run's state, told while its log is followed."""

    state: str
    state_name: str
    message: str | None


class PlannedDate(Answer):
    """One date of a backfill's preview."""

    logical_date: date
    included: bool
    reason: str


class BackfillPreview(Answer):
    """What a backfill would do now; its digest stands for exactly that."""

    from_: Annotated[date, Field(alias="from")]
    to: date
    mode: str
    max_concurrent: int
    runs_per_pod: int
    digest: str
    count: int
    dates: list[PlannedDate]


class BackfillProgress(Answer):
    """A backfill and where its runs are."""

    backfill_id: UUID
    pipeline: str
    from_: Annotated[date, Field(alias="from")]
    to: date
    mode: str
    max_concurrent: int
    runs_per_pod: int
    digest: str
    status: str
    total: int
    queued: int
    counts: dict[str, int]
    first_failed: date | None
    created_at: datetime

    @property
    def done(self) -> int:
        """How many of its runs are over."""
        return sum(count for state, count in self.counts.items() if state in OVER)

    @property
    def over(self) -> bool:
        """Whether all of them are."""
        return self.done >= self.total


class Fault(Answer):
    """One thing wrong with a request."""

    where: str
    what: str


class Problem(Answer):
    """An RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    correlation_id: str | None = None
    faults: list[Fault] | None = None

    @property
    def kind(self) -> str:
        """Its stable name."""
        return self.type.rpartition(":")[2]
