"""What each command prints with --json, where that is not an answer of the API as it is."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from pipelines_client.answers import (
    BackfillPreview,
    BackfillProgress,
    LogLine,
    LogPage,
    Pipelines,
    Reason,
    Run,
    RunPage,
)


class Document(BaseModel):
    """Base of this client's own documents: each says no more than its schema does."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LastError(Document):
    """The last error that a run logged: the last line of its text."""

    at: datetime
    logger: str
    line: str


class Why(Document):
    """Why a run failed, or does not go on."""

    run: Run
    reason: Reason | None
    last_error: LastError | None
    same_earlier: int = Field(description="How many earlier failures, of the runs looked through, have the same cause")
    same_first: date | None = Field(description="The day that the first of those was about")
    looked_through: int = Field(description="How many earlier runs were looked through")
    commands: list[str] = Field(description="What to do, commands to paste, in order")


class Cancelled(Document):
    """What was cancelled."""

    kind: str = Field(description="run or backfill")
    id: UUID
    state: str


class FailedRun(Document):
    """A run of a backfill that did not complete."""

    run_id: UUID
    logical_date: date
    state: str
    reason: str | None = Field(description="The reason's id")
    detail: str | None


class Backfilled(Document):
    """What a backfill would do, and what became of it; nothing was made where `backfill` is null."""

    preview: BackfillPreview
    backfill: BackfillProgress | None
    failed: list[FailedRun]


class Day(Document):
    """One day of a calendar: its last run."""

    date: date
    state: str | None = Field(description="null for a day without a run")
    state_name: str | None
    run_id: UUID | None
    runs: int = Field(description="How many runs were about this day")


class Calendar(Document):
    """What became of each day."""

    pipeline: str
    days: list[Day]


class Addresses(Document):
    """Where the pages are."""

    page: str
    api: str
    prefect: str | None


class CheckResult(Document):
    """What became of one check."""

    id: str = Field(description="Stable: of a reason (PL001), an alert (OrchestratorDown), or the check's own (PL301)")
    description: str = Field(description="What is true where it passes")
    result: Literal["success", "warning", "error", "skipped"]
    error: str | None = Field(description="What is wrong, with names and numbers")
    hint: str | None = Field(description="A command to paste, and in a comment behind it where to read on")


class CheckCategory(Document):
    """The checks of one kind."""

    categoryName: str  # noqa: N815 -- as in the JSON of `linkerd check`, for whatever reads that
    checks: list[CheckResult]


class Doctor(Document):
    """What the checks found."""

    success: bool = Field(description="Whether no check failed; warnings are no failures")
    categories: list[CheckCategory]


class Bundled(Document):
    """A bundle of evidence that was written."""

    file: str
    bytes: int
    files: list[str] = Field(description="What is in it")
    success: bool = Field(description="Whether no check failed")


class ExitCode(Document):
    """An exit code of the command."""

    code: int
    meaning: str


BY_COMMAND: Mapping[str, Any] = {
    "list": Pipelines,
    "start": Run,
    "status": Run,
    "runs": RunPage,
    "why": Why,
    "logs": LogPage,
    "logs --follow": LogLine,
    "cancel": Cancelled,
    "backfill": Backfilled,
    "calendar": Calendar,
    "open": Addresses,
    "doctor": Doctor,
    "doctor bundle": Bundled,
    "help exit-codes": list[ExitCode],
}


def schemas() -> dict[str, Any]:
    """The JSON schema of each command's document; `logs --follow` prints one a line."""
    return {name: TypeAdapter(shape).json_schema(mode="serialization") for name, shape in BY_COMMAND.items()}
