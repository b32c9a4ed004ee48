"""What is asked of Prefect about the log of a flow run."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter

from orchestrator.logs import Level, Line, Place
from orchestrator.prefect_api import PrefectApi
from orchestrator.prefect_api.shapes import PAGE, read


class _Message(BaseModel):
    message: str


class _Log(_Message):
    id: UUID
    timestamp: AwareDatetime
    level: int
    name: str
    task_run_id: UUID | None = None

    def told(self) -> Line:
        return Line(
            id=self.id,
            at=self.timestamp,
            level=Level.of(self.level),
            logger=self.name,
            message=self.message,
            task_run_id=self.task_run_id,
        )


MESSAGES = TypeAdapter(Annotated[list[_Message], Field(max_length=PAGE)])
LOGS = TypeAdapter(Annotated[list[_Log], Field(max_length=PAGE)])


async def after(
    prefect: PrefectApi, flow_run: UUID, place: Place | None, *, level: Level, limit: int
) -> tuple[list[Line], bool]:
    """Up to `limit` lines of at least that level that stand after the place, in order, and whether there are more."""
    found: list[Line] = []
    since, offset = place, 0
    while len(found) <= limit:
        told = await _asked(prefect, flow_run, level=level, since=since.at if since else None, offset=offset)
        lines = sorted((one for one in told if since is None or one.place > since), key=lambda one: one.place)
        full = len(told) == PAGE
        if full:
            # Prefect orders by time alone: lines of the last moment may be cut in two, the rest in whatever order
            last = max(one.at for one in told)
            lines = [one for one in lines if one.at < last] or lines
        found += lines
        if not full:
            break
        since, offset = (found[-1].place, 0) if lines else (since, offset + PAGE)
    return found[:limit], len(found) > limit


async def tail(prefect: PrefectApi, flow_run: UUID, *, level: Level, count: int) -> list[Line]:
    """The last `count` lines of at least that level, in order."""
    body = _wanted(flow_run, level) | {"sort": "TIMESTAMP_DESC", "limit": count}
    told = read(LOGS, await prefect.ask("logs", "POST", "/logs/filter", body))
    return sorted((one.told() for one in told), key=lambda one: one.place)


async def last_error(prefect: PrefectApi, flow_run: UUID) -> str | None:
    """The last line that a flow run logged as an error, its traceback included; None where there is none."""
    body = _wanted(flow_run, Level.ERROR) | {"sort": "TIMESTAMP_DESC", "limit": 20}
    messages = [one.message for one in read(MESSAGES, await prefect.ask("logs", "POST", "/logs/filter", body))]
    return next((one for one in messages if "Traceback" in one), messages[0] if messages else None)


async def _asked(
    prefect: PrefectApi, flow_run: UUID, *, level: Level, since: datetime | None, offset: int
) -> list[Line]:
    body = _wanted(flow_run, level)
    if since is not None:
        body["logs"]["timestamp"] = {"after_": since.isoformat()}
    body |= {"sort": "TIMESTAMP_ASC", "limit": PAGE, "offset": offset}
    return [one.told() for one in read(LOGS, await prefect.ask("logs", "POST", "/logs/filter", body))]


def _wanted(flow_run: UUID, level: Level) -> dict[str, Any]:
    return {"logs": {"flow_run_id": {"any_": [str(flow_run)]}, "level": {"ge_": level.number}}}
