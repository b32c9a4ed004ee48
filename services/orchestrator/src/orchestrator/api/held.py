"""What is shown of reasons: those of runs, and what keeps a pipeline from going on."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import Row

from orchestrator.ledger.reading import Remembered
from orchestrator.reasons import Commands, Reason


class ReasonAnswer(BaseModel):
    """Why a run does not go on, or ended: `PL001` and on hold it, `PL101` and on ended it."""

    id: str = Field(description="Stable: the same id always means the same")
    title: str
    detail: str = Field(description="The evidence, with names and numbers")
    fix: str = Field(description="A command that works when pasted")
    since: datetime

    @classmethod
    def of(cls, reason: Reason) -> "ReasonAnswer":
        """The answer about one reason."""
        return cls(id=reason.id, title=reason.title, detail=reason.detail, fix=reason.fix, since=reason.since)

    @classmethod
    def of_row(cls, row: Row[Any]) -> "ReasonAnswer | None":
        """The reason in a row of the ledger's runs; None where it has none."""
        if row.reason_id is None:
            return None
        return cls.of(Reason(id=row.reason_id, detail=row.reason_detail, fix=row.reason_fix, since=row.reason_since))


class HeldRuns(BaseModel):
    """A reason that holds runs of a pipeline, or its schedule, and how many."""

    runs: int = Field(description="0 for a reason that holds the schedule alone")
    reason: ReasonAnswer


def of_pipeline(name: str, holds: list[Row[Any]], told: Remembered | None, commands: Commands) -> list[HeldRuns]:
    """What holds a pipeline's schedule, as far as Prefect `told`, and what holds its runs, of the ledger's `holds`."""
    found = []
    if told is not None and told.facts.paused and told.missing_since is None:
        paused = commands.reason(
            "PL004",
            f"deployment {told.facts.deployment} is paused: its schedule makes no runs",
            since=told.seen_at,
            deployment_id=told.facts.deployment_id,
        )
        found.append(HeldRuns(runs=0, reason=ReasonAnswer.of(paused)))
    for row in holds:
        if row.pipeline == name:
            reason = Reason(id=row.id, detail=row.detail, fix=row.fix, since=row.since)
            found.append(HeldRuns(runs=row.held, reason=ReasonAnswer.of(reason)))
    return found
