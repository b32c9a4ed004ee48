"""What lets Prefect's runs go: work pools, their queues and workers, and concurrency limits. Nothing here does I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, kw_only=True)
class Queue:
    """A work queue. `holders` are flow runs that occupy it, some of `active` of them."""

    name: str
    paused: bool
    limit: int | None
    active: int
    polled_at: datetime | None
    holders: tuple[UUID, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker of a pool, by its last heartbeat."""

    name: str
    heartbeat_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A work pool with its queues by name; `active` runs occupy it."""

    name: str
    type: str
    paused: bool
    limit: int | None
    active: int
    queues: Mapping[str, Queue] = field(default_factory=dict)
    workers: tuple[Worker, ...] = ()

    @property
    def polled_at(self) -> datetime | None:
        """When a worker last asked for runs of any queue."""
        return max((one.polled_at for one in self.queues.values() if one.polled_at), default=None)

    @property
    def holders(self) -> tuple[UUID, ...]:
        """Flow runs that occupy it, of whatever queue."""
        return tuple(holder for queue in self.queues.values() for holder in queue.holders)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A concurrency limit of Prefect's: of a deployment, of a tag (`tag:NAME`), or of any other name."""

    name: str
    limit: int
    active: int

    @property
    def full(self) -> bool:
        """Whether nobody gets a slot now."""
        return self.active >= self.limit
