"""The shapes of what callers send and get about backfills, with examples."""

from datetime import date, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.backfills import Mode, Plan
from orchestrator.ledger.backfilling import Progress
from orchestrator.runs import State

DIGEST = "6f1d0c3f5a0e8b7c9d2e4f60718293a4b5c6d7e8f90a1b2c3d4e5f6071829304"
DATE: dict[str, Any] = {"format": "date"}
ASKED: dict[str, Any] = {
    "from": "2026-03-01",
    "to": "2026-03-02",
    "mode": "missing",
    "max_concurrent": 4,
    "runs_per_pod": 1,
}


class BackfillRequest(BaseModel):
    """Which dates, and which of them; with a preview's digest it is carried out."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [ASKED, ASKED | {"digest": DIGEST}]})

    from_: Annotated[
        str, Field(alias="from", json_schema_extra={"format": "date"}, description="The first date, YYYY-MM-DD")
    ]
    to: str = Field(
        json_schema_extra={"format": "date"},
        description="The last date, YYYY-MM-DD, today at the latest; up to 3,700 dates",
    )
    mode: Mode = Field(
        description="missing: no run completed the date; failed: its last run Failed or Crashed; degraded: its last "
        "run is Completed named Degraded; all. A date whose run is not over is always out."
    )
    max_concurrent: int = Field(default=4, ge=1, le=100, description="How many of its runs may go at once")
    runs_per_pod: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="How many of its runs a pod executes, one after another: beyond 1 a short run does not wait for "
        "a pod of its own. Each stays a run of its own, with its own state, attempts and cancel.",
    )
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        default=None, description="What the preview answered with: create exactly what it showed"
    )


class PlannedDate(BaseModel):
    """One date of a preview."""

    logical_date: date
    included: bool
    reason: str


class BackfillPreview(BaseModel):
    """What a backfill would do now. Send the same again with `digest` to do it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                ASKED
                | {
                    "digest": DIGEST,
                    "count": 1,
                    "dates": [
                        {
                            "logical_date": "2026-03-01",
                            "included": False,
                            "reason": "the last run 0b5f0ac8-9a0e-4b8e-9a3b-6f0f6f1f6a11 is Completed",
                        },
                        {"logical_date": "2026-03-02", "included": True, "reason": "no run of this date"},
                    ],
                }
            ]
        }
    )

    from_: Annotated[date, Field(serialization_alias="from")]
    to: date
    mode: Mode
    max_concurrent: int
    runs_per_pod: int
    digest: str
    count: int = Field(description="How many runs it would make: one for each included date")
    dates: list[PlannedDate]

    @classmethod
    def of(cls, plan: Plan) -> "BackfillPreview":
        """The answer about a plan."""
        dates = [
            PlannedDate(logical_date=one.logical_date, included=one.included, reason=one.reason) for one in plan.days
        ]
        return cls(
            from_=plan.range.first,
            to=plan.range.last,
            mode=plan.mode,
            max_concurrent=plan.max_concurrent,
            runs_per_pod=plan.runs_per_pod,
            digest=plan.digest,
            count=len(plan.included),
            dates=dates,
        )


class BackfillProgress(BaseModel):
    """A backfill and where its runs are."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"backfill_id": "2f0c8f4e-3b1d-4d0e-8f53-1a9c7d6e5b40", "pipeline": "etl"}
                | ASKED
                | {
                    "digest": DIGEST,
                    "status": "running",
                    "total": 31,
                    "queued": 20,
                    "counts": {"Scheduled": 21, "Running": 3, "Completed": 6, "Failed": 1},
                    "first_failed": "2026-03-04",
                    "created_at": "2026-04-01T08:00:00Z",
                }
            ]
        }
    )

    backfill_id: UUID
    pipeline: str
    from_: Annotated[date, Field(serialization_alias="from")]
    to: date
    mode: Mode
    max_concurrent: int
    runs_per_pod: int
    digest: str
    status: Literal["running", "paused", "cancelling", "cancelled", "finished"]
    total: int = Field(description="How many runs it has")
    queued: int = Field(description="How many of them wait for their turn in the backfill")
    counts: dict[State, int] = Field(description="How many of them are in which state")
    first_failed: date | None = Field(
        description="The first date that Failed or Crashed: go on with mode failed from there"
    )
    created_at: datetime

    @classmethod
    def of(cls, progress: Progress) -> "BackfillProgress":
        """The answer about a backfill."""
        row = progress.row
        return cls(
            backfill_id=row.id,
            pipeline=row.pipeline,
            from_=row.first_date,
            to=row.last_date,
            mode=row.mode,
            max_concurrent=row.max_concurrent,
            runs_per_pod=row.runs_per_pod,
            digest=row.digest,
            status=_status(row, over=all(state.ended for state in progress.counts)),
            total=sum(progress.counts.values()),
            queued=progress.queued,
            counts=progress.counts,
            first_failed=progress.first_failed,
            created_at=row.created_at,
        )


def _status(row: Any, *, over: bool) -> Literal["running", "paused", "cancelling", "cancelled", "finished"]:
    if row.cancelled_at is not None:
        return "cancelled" if over else "cancelling"
    if over:
        return "finished"
    return "paused" if row.paused_at is not None else "running"
