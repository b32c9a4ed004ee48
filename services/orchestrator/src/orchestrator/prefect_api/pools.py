"""What is asked of Prefect about pools, queues, workers, limits and heartbeats."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import quote
from uuid import UUID

import httpx
from pydantic import BaseModel, Field, TypeAdapter

from orchestrator.errors import EngineRefused
from orchestrator.pools import Limit, Pool, Queue, Worker
from orchestrator.prefect_api import PrefectApi
from orchestrator.prefect_api.shapes import PAGE, read

HEARTBEAT = "prefect.flow-run.heartbeat"
FLOW_RUN = "prefect.flow-run."
HOLDERS = 5  # named of each queue
RUNS_AT_ONCE = 8  # whose heartbeats are asked for together: an answer holds fifty events


class _Pool(BaseModel):
    type: str
    is_paused: bool = False


class _Queue(BaseModel):
    name: str
    is_paused: bool = False
    last_polled: datetime | None = None


class _Worker(BaseModel):
    name: str
    last_heartbeat_time: datetime | None = None


class _Holder(BaseModel):
    id: UUID


class _Occupied(BaseModel):
    queue_name: str
    active_slots: int
    concurrency_limit: int | None = None
    flow_runs: tuple[_Holder, ...] = ()


class _Occupation(BaseModel):
    active_slots: int
    concurrency_limit: int | None = None
    queues: tuple[_Occupied, ...] = ()


class _Limit(BaseModel):
    name: str
    limit: int
    active_slots: int
    active: bool = True

    def told(self) -> Limit:
        return Limit(name=self.name, limit=self.limit, active=self.active_slots)


class _Resource(BaseModel):
    id: str = Field(alias="prefect.resource.id")


class _Event(BaseModel):
    occurred: datetime
    resource: _Resource


class _Events(BaseModel):
    events: tuple[_Event, ...]


class _Task(BaseModel):
    flow_run_id: UUID | None = None


POOL = TypeAdapter(_Pool)
QUEUES = TypeAdapter(list[_Queue])
WORKERS = TypeAdapter(list[_Worker])
OCCUPATION = TypeAdapter(_Occupation)
LIMITS = TypeAdapter(list[_Limit])
EVENTS = TypeAdapter(_Events)
TASKS = TypeAdapter(list[_Task])


async def pool(prefect: PrefectApi, name: str) -> Pool | None:
    """The work pool of that name with its queues, workers and who occupies it; None where there is none."""
    path = f"/work_pools/{quote(name, safe='')}"
    try:
        itself = read(POOL, await prefect.ask("pool", "GET", path))
        queues = read(QUEUES, await prefect.ask("queues", "POST", f"{path}/queues/filter", {"limit": PAGE}))
        workers = read(WORKERS, await prefect.ask("workers", "POST", f"{path}/workers/filter", {"limit": PAGE}))
        asked = {"limit": PAGE, "flow_run_limit": HOLDERS}
        occupied = read(OCCUPATION, await prefect.ask("occupation", "POST", f"{path}/concurrency_status", asked))
    except EngineRefused as exc:
        if exc.status == httpx.codes.NOT_FOUND:
            return None
        raise
    by_name = {one.queue_name: one for one in occupied.queues}
    return Pool(
        name=name,
        type=itself.type,
        paused=itself.is_paused,
        limit=occupied.concurrency_limit,
        active=occupied.active_slots,
        queues={one.name: _told(one, by_name.get(one.name)) for one in queues},
        workers=tuple(Worker(name=one.name, heartbeat_at=one.last_heartbeat_time) for one in workers),
    )


def _told(queue: _Queue, occupied: _Occupied | None) -> Queue:
    return Queue(
        name=queue.name,
        paused=queue.is_paused,
        limit=occupied.concurrency_limit if occupied else None,
        active=occupied.active_slots if occupied else 0,
        polled_at=queue.last_polled,
        holders=tuple(one.id for one in occupied.flow_runs) if occupied else (),
    )


async def limits(prefect: PrefectApi) -> dict[str, Limit]:
    """Every concurrency limit in force, by its name; a deployment's is called `deployment:ID`."""
    answer = await prefect.ask("limits", "POST", "/v2/concurrency_limits/filter", {"limit": PAGE})
    return {one.name: one.told() for one in read(LIMITS, answer) if one.active}


async def release(prefect: PrefectApi, name: str, slots: int) -> None:
    """Count so many slots of a concurrency limit as free that nobody gave back."""
    await prefect.ask("release", "POST", "/v2/concurrency_limits/decrement", {"names": [name], "slots": slots})


async def waiting_for_tags(prefect: PrefectApi, tags: Sequence[str], flow_runs: Collection[UUID]) -> dict[UUID, str]:
    """Those of these flow runs that have a task with one of the tags which was not let begin, and that tag."""
    found: dict[UUID, str] = {}
    for tag in tags:
        body = {
            "flow_runs": {"id": {"any_": [str(one) for one in flow_runs]}},
            "task_runs": {"tags": {"all_": [tag]}, "state": {"type": {"any_": ["PENDING"]}}},
            "limit": PAGE,
        }
        for one in read(TASKS, await prefect.ask("task_runs", "POST", "/task_runs/filter", body)):
            if one.flow_run_id is not None:
                found.setdefault(one.flow_run_id, tag)
    return found


async def heartbeats(prefect: PrefectApi, flow_runs: Sequence[UUID], *, since: datetime) -> dict[UUID, datetime]:
    """The last heartbeat of each of these flow runs that had one since then."""
    found: dict[UUID, datetime] = {}
    window = {"since": since.isoformat(), "until": (datetime.now(UTC) + timedelta(minutes=1)).isoformat()}
    for start in range(0, len(flow_runs), RUNS_AT_ONCE):
        few = [f"{FLOW_RUN}{one}" for one in flow_runs[start : start + RUNS_AT_ONCE]]
        wanted = {"occurred": window, "event": {"name": [HEARTBEAT]}, "resource": {"id": few}, "order": "DESC"}
        answer = await prefect.ask("heartbeats", "POST", "/events/filter", {"filter": wanted, "limit": 50})
        for event in read(EVENTS, answer).events:
            flow_run = UUID(event.resource.id.removeprefix(FLOW_RUN))
            found[flow_run] = max(event.occurred, found.get(flow_run, event.occurred))
    return found
