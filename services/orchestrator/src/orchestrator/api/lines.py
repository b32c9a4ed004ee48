"""The shapes of what callers get of a run's log, with examples."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.api import pages
from orchestrator.logs import Level, Line, Place
from orchestrator.runs import State

MOST_CHARACTERS = 16_384

LINE: dict[str, Any] = {
    "id": "0198a1c6-7a55-7e0b-9f4e-d1b0f3a7c2e4",
    "at": "2026-03-02T08:00:41.702Z",
    "level": "error",
    "logger": "prefect.flow_runs",
    "message": "Encountered an exception during execution: SourceUnavailable: 503 Service Unavailable",
    "task_run_id": None,
}


class LogLine(BaseModel):
    """One line of a run's log, as Prefect keeps it."""

    model_config = ConfigDict(json_schema_extra={"examples": [LINE]})

    id: UUID
    at: datetime
    level: Level
    logger: str
    message: str = Field(description=f"May be several lines of text; cut after {MOST_CHARACTERS} characters")
    task_run_id: UUID | None = Field(description="The task that logged it; null for a line of the run itself")

    @classmethod
    def of(cls, line: Line) -> "LogLine":
        """The answer about one line."""
        more = len(line.message) - MOST_CHARACTERS
        return cls(
            id=line.id,
            at=line.at,
            level=line.level,
            logger=line.logger,
            message=f"{line.message[:MOST_CHARACTERS]}… ({more} more characters)" if more > 0 else line.message,
            task_run_id=line.task_run_id,
        )


class LogPage(BaseModel):
    """Lines of a run's log, in order, and where the next page starts."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "run_id": "0b5f0ac8-9a0e-4b8e-9a3b-6f0f6f1f6a11",
                    "flow_run_id": "6a1cf4d1-0e73-4a7e-9d0c-5b9d7a0e9b52",
                    "state": "Failed",
                    "lines": [LINE],
                    "next_cursor": "WyIyMDI2LTAzLTAyVDA4OjAwOjQxLjcwMiswMDowMCIsICIwMTk4Il0",
                    "more": False,
                    "detail": None,
                }
            ]
        }
    )

    run_id: UUID
    flow_run_id: UUID | None
    state: State
    lines: list[LogLine]
    next_cursor: str | None = Field(
        description="Send it back as `cursor` for what comes after these lines, now or later; null where there is none"
    )
    more: bool = Field(description="Whether there are more lines already")
    detail: str | None = Field(description="Why there is no line, where that is known")


class StateTold(BaseModel):
    """A run's state, in a log that is followed: the `data` of an event named `state`."""

    state: State
    state_name: str
    message: str | None


def cursor(place: Place) -> str:
    """The name of a place in a log."""
    return pages.cursor(place.at.isoformat(), place.id)


def place(text: str) -> Place:
    """The place in a log that a cursor names. Raises InvalidRequest."""
    return Place(*pages.moment_place(text))
