"""What the page of one run shows: what happened to it, in order, and what Prefect keeps of it, where it answers."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.artifacts import Artifact
from orchestrator.catalogue import CATALOGUE
from orchestrator.errors import EngineConfused, EngineRefused, EngineUnavailable
from orchestrator.ledger import days
from orchestrator.logs import Level, Line
from orchestrator.prefect_api import PrefectApi, artifacts, logs

PREFECT_SECONDS = 4.0
TAIL = 200  # lines of the log that are looked through
SHOWN = 80  # of these, shown
STEP = '{"step"'
NOT_SHOWN = frozenset({"step", "run_id", "correlation_id", "checksum"})
LOUD = frozenset({Level.ERROR, Level.CRITICAL})

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One thing that happened to a run. `kind` is state, held, explained or step."""

    at: datetime
    kind: str
    what: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What Prefect keeps of a run. `missing` says for each part that could not be read, why."""

    lines: Sequence[Line]
    artifacts: Sequence[Artifact]
    missing: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Story:
    """A run's story."""

    moments: Sequence[Moment]
    kept: Kept

    @property
    def lines(self) -> Sequence[Line]:
        """The end of its log."""
        return self.kept.lines[-SHOWN:]

    @property
    def last_error(self) -> Line | None:
        """The last line that was logged as an error."""
        return next((one for one in reversed(self.kept.lines) if one.level in LOUD), None)


async def told(db: AsyncEngine, prefect: PrefectApi, row: Row[Any], *, log: bool, left: bool) -> Story:
    """The story of a run. `log`, `left`: whether its log and its artifacts may be shown."""
    events = await days.story(db, row.run_id)
    kept = await _kept(prefect, row, log=log, left=left)
    moments = [_of_event(one) for one in events]
    moments += [found for one in kept.lines if (found := _of_line(one)) is not None]
    moments.sort(key=lambda one: one.at)
    return Story(moments=moments, kept=kept)


async def _kept(prefect: PrefectApi, row: Row[Any], *, log: bool, left: bool) -> Kept:
    flow_run = row.flow_run_id
    if flow_run is None:
        return Kept(lines=(), artifacts=(), missing={})
    missing: dict[str, str] = {}

    async def asked(what: str, ask: Callable[[], Awaitable[list[T]]], *, may: bool) -> list[T]:
        if not may:
            missing[what] = "you may not read it"
            return []
        try:
            async with asyncio.timeout(PREFECT_SECONDS):
                return await ask()
        except TimeoutError:
            missing[what] = f"Prefect did not answer within {PREFECT_SECONDS:g} s; load the page again"
        except (EngineUnavailable, EngineRefused, EngineConfused) as exc:
            missing[what] = str(exc)
        return []

    lines, found = await asyncio.gather(
        asked("log", lambda: logs.tail(prefect, flow_run, level=Level.DEBUG, count=TAIL), may=log),
        asked("artifacts", lambda: artifacts.of_run(prefect, flow_run), may=left),
    )
    return Kept(lines=lines, artifacts=found, missing=missing)


def _of_event(row: Row[Any]) -> Moment:
    if row.kind in {"held", "explained"}:
        known = CATALOGUE.get(row.reason or "")
        what = f"{row.reason} {known.title}" if known else row.reason or "nothing holds it any more"
        return Moment(at=row.at, kind=row.kind, what=what, detail=row.message or "")
    what = "accepted" if row.kind == "submitted" else row.state_name
    return Moment(at=row.at, kind="state", what=what, detail=row.message or "")


def _of_line(line: Line) -> Moment | None:
    """A step that the flow announced in its log."""
    if not line.message.startswith(STEP):
        return None
    try:
        said = json.loads(line.message)
        what = str(said["step"])
        facts = ", ".join(f"{name} {value}" for name, value in said.items() if name not in NOT_SHOWN)
    except (ValueError, KeyError, AttributeError):
        return None
    return Moment(at=line.at, kind="step", what=what, detail=facts)
