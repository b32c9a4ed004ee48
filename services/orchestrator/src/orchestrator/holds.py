"""What holds a run that has not begun: the first thing that is wrong on Prefect's side. Nothing here does I/O.

Each rule waits for as long as a healthy run may take, so that one that is just starting is held by nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from orchestrator.pools import Limit, Pool, Queue
from orchestrator.runs import FlowRun, State
from orchestrator.workloads import Event, Job, Pod

DUE = timedelta(seconds=3)  # what a worker and Prefect need to let a run go that nothing holds
FAILING = timedelta(seconds=5)  # how long Prefect may fail before that is why a run waits
LATER = timedelta(seconds=10)
UNEXPLAINED = timedelta(seconds=60)
NAMED = 3  # holders of a limit that are named

AWAITING_SLOT = "AwaitingConcurrencySlot"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A reason of the catalogue, the evidence for it, and names for its fix beside those of the run itself."""

    kind: str
    detail: str
    names: Mapping[str, object] = field(default_factory=dict)
    since: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Open:
    """A run that is not over, as the ledger has it."""

    run_id: UUID
    pipeline: str
    flow_run_id: UUID | None
    state: State
    accepted_at: datetime
    attempts: int
    last_error: str | None
    steps_aside: bool
    backfill_id: UUID | None
    backfill_paused: bool
    held_back: bool


@dataclass(frozen=True, kw_only=True)
class Sight:
    """All that was seen in one look. `jobs` and `pods` are None where there is no Kubernetes, or it did not answer."""

    now: datetime
    query_seconds: float
    pools: Mapping[str, Pool] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=dict)
    occupants: Mapping[UUID, Sequence[UUID]] = field(default_factory=dict)
    run_ids: Mapping[UUID, UUID] = field(default_factory=dict)
    tags: Mapping[UUID, str] = field(default_factory=dict)
    heartbeats: Mapping[UUID, datetime] = field(default_factory=dict)
    jobs: Mapping[UUID, Sequence[Job]] | None = None
    pods: Mapping[UUID, Sequence[Pod]] | None = None
    events: Mapping[str, Sequence[Event]] = field(default_factory=dict)
    namespace: str | None = None

    @property
    def unpolled(self) -> timedelta:
        """How long a queue may go without a poll while a worker serves it."""
        return timedelta(seconds=max(10.0, 1.5 * self.query_seconds + 2))

    def named(self, holders: Collection[UUID]) -> str:
        """A few of these flow runs, by their run ids where they have one here."""
        shown = sorted(str(self.run_ids.get(one, one)) for one in holders)[:NAMED]
        more = f" and {len(holders) - NAMED} more" if len(holders) > NAMED else ""
        return f", held by {', '.join(shown)}{more}" if shown else ""


def before_handover(run: Open, *, failing_since: datetime | None, trouble: str | None, now: datetime) -> Finding | None:
    """What keeps a run from being handed to Prefect, which has been failing since then where it has."""
    if run.held_back:
        if run.backfill_paused:
            return Finding(kind="PL021", detail=f"backfill {run.backfill_id} is paused")
        return Finding(kind="PL022", detail=f"backfill {run.backfill_id} has as many runs going as it may")
    if failing_since is not None and now - failing_since >= FAILING:
        tries = f"; {run.attempts} tries to hand it over failed" if run.attempts else ""
        return Finding(kind="PL017", detail=f"{trouble}{tries}", since=failing_since)
    if run.last_error is not None and now - run.accepted_at >= FAILING:
        kind = "PL025" if run.steps_aside else "PL017"
        return Finding(kind=kind, detail=f"{run.attempts} tries to hand it over failed: {run.last_error}")
    return None


def due_at(flow_run: FlowRun) -> datetime:
    """When a worker may take a Scheduled flow run."""
    return flow_run.next_at or flow_run.expected_at


def scheduled(flow_run: FlowRun, sight: Sight) -> Finding | None:
    """What keeps a Scheduled flow run from being taken by a worker."""
    due = due_at(flow_run)
    waits = sight.now - due
    if waits < DUE:
        if flow_run.state_name == AWAITING_SLOT:
            return _deployment_full(flow_run, sight)
        if -waits > LATER:
            return Finding(kind="PL018", detail=f"{flow_run.state_name} until {due:%Y-%m-%d %H:%M:%S} UTC")
        return None
    if flow_run.pool is None:
        return None
    pool = sight.pools.get(flow_run.pool)
    if pool is None:
        return Finding(kind="PL001", detail=f"there is no work pool {flow_run.pool}", since=due)
    queue = pool.queues.get(flow_run.queue or "")
    return (
        _paused(pool, queue)
        or _unserved(flow_run, pool, queue, waits, sight)
        or _full(pool, queue, sight)
        or _deployment_full(flow_run, sight)
        or _unexplained(flow_run, waits)
    )


def _paused(pool: Pool, queue: Queue | None) -> Finding | None:
    if pool.paused:
        return Finding(kind="PL002", detail=f"work pool {pool.name} is paused")
    if queue is not None and queue.paused:
        return Finding(kind="PL003", detail=f"work queue {queue.name} of pool {pool.name} is paused")
    return None


def _unserved(flow_run: FlowRun, pool: Pool, queue: Queue | None, waits: timedelta, sight: Sight) -> Finding | None:
    if queue is None or waits < sight.unpolled:
        return None
    polled = queue.polled_at
    if polled is not None and sight.now - polled < sight.unpolled:
        return None
    last = f"last polled {_ago(polled, sight.now)}" if polled else "never polled"
    since = max(polled, due_at(flow_run)) if polled else None
    if pool.polled_at is not None and sight.now - pool.polled_at < sight.unpolled:
        served = sorted(
            one.name
            for one in pool.queues.values()
            if one.polled_at is not None and sight.now - one.polled_at < sight.unpolled
        )
        detail = f"work queue {queue.name} of pool {pool.name} was {last}; workers poll {', '.join(served)}"
        return Finding(kind="PL005", detail=detail, since=since)
    beats = [one.heartbeat_at for one in pool.workers if one.heartbeat_at]
    heard = f"its last worker was heard {_ago(max(beats), sight.now)}" if beats else "it never had a worker"
    return Finding(
        kind="PL001",
        detail=f"work pool {pool.name} has no worker online: queue {queue.name} was {last}, {heard}",
        since=since,
    )


def _full(pool: Pool, queue: Queue | None, sight: Sight) -> Finding | None:
    if pool.limit is not None and pool.active >= pool.limit:
        detail = f"work pool {pool.name} has {pool.active} of {pool.limit} runs going{sight.named(pool.holders)}"
        return Finding(kind="PL006", detail=detail, names={"more": pool.limit + 1})
    if queue is not None and queue.limit is not None and queue.active >= queue.limit:
        detail = (
            f"work queue {queue.name} of pool {pool.name} has {queue.active} of {queue.limit} runs going"
            f"{sight.named(queue.holders)}"
        )
        return Finding(kind="PL007", detail=detail, names={"more": queue.limit + 1})
    return None


def _deployment_full(flow_run: FlowRun, sight: Sight) -> Finding | None:
    name = f"deployment:{flow_run.deployment_id}"
    limit = sight.limits.get(name)
    if limit is None or not (limit.full or flow_run.state_name == AWAITING_SLOT):
        return None
    others = [
        one for one in sight.occupants.get(flow_run.deployment_id or UUID(int=0), ()) if one != flow_run.flow_run_id
    ]
    detail = f"the deployment has {limit.active} of {limit.limit} runs going{sight.named(others)}"
    return Finding(kind="PL008", detail=detail, names={"limit": name, "more": limit.limit + 1})


def _unexplained(flow_run: FlowRun, waits: timedelta) -> Finding | None:
    if waits < UNEXPLAINED:
        return None
    detail = f"{flow_run.state_name}, due {waits.total_seconds():.0f} s ago; its queue is polled, and nothing is full"
    return Finding(kind="PL099", detail=detail)


def _ago(moment: datetime, now: datetime) -> str:
    return f"{max(0.0, (now - moment).total_seconds()):.0f} s ago"
