"""A run's Job, its pods, and what Kubernetes says of them, in this service's words. Nothing here does I/O.

A pod may execute several runs of a backfill, one after another. Its labels name the one it was made for, its host; what
executes the others is found by their hosts.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import TypeVar
from uuid import UUID

FLOW_CONTAINER = "prefect-job"  # the name by which Prefect finds its container, see the base job template


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One of the conditions of a Job or a pod. `status` is True, False or Unknown, as Kubernetes writes it."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """The Job that a worker made of a flow run. `failed` is Kubernetes' reason where the Job has failed."""

    name: str
    uid: str
    flow_run_id: UUID | None
    created_at: datetime
    active: int = 0
    complete: bool = False
    failed: str | None = None
    message: str = ""
    deleted_at: datetime | None = None

    @property
    def over(self) -> bool:
        """Whether Kubernetes will make no further pod of it."""
        return self.complete or self.failed is not None


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container of a pod: waiting, running or terminated, and Kubernetes' reason for that."""

    name: str
    image: str
    waiting: str | None = None
    terminated: str | None = None
    message: str = ""
    exit_code: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def running(self) -> bool:
        """Whether its process runs now."""
        return self.started_at is not None and self.terminated is None


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod of a Job. `reason` is that of its status, such as Evicted; `deleted_at`: it is on its way out."""

    name: str
    uid: str
    job: str | None
    flow_run_id: UUID | None
    created_at: datetime
    phase: str
    node: str | None = None
    deleted_at: datetime | None = None
    reason: str = ""
    message: str = ""
    conditions: tuple[Condition, ...] = ()
    containers: tuple[Container, ...] = ()

    @property
    def over(self) -> bool:
        """Whether none of its containers will run again."""
        return self.phase in {"Succeeded", "Failed"}

    @property
    def running(self) -> bool:
        """Whether the flow's own process runs now."""
        return self.flow is not None and self.flow.running

    @property
    def flow(self) -> Container | None:
        """The container that the flow runs in; None while Kubernetes has said nothing of it."""
        named = [one for one in self.containers if one.name == FLOW_CONTAINER]
        return next(iter(named or self.containers), None)

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type, None where the pod has none."""
        return next((one for one in self.conditions if one.type == kind), None)


@dataclass(frozen=True, kw_only=True)
class Event:
    """What Kubernetes told about one object; `count` times, last at `at`."""

    kind: str
    name: str
    reason: str
    message: str
    count: int
    at: datetime


T = TypeVar("T", Job, Pod)

NOBODYS: Mapping[UUID, UUID] = MappingProxyType({})


def with_hosts(flow_runs: Collection[UUID] | None, pods_of: Mapping[UUID, UUID]) -> Collection[UUID] | None:
    """The flow runs whose Jobs and pods execute these; None for all."""
    return None if flow_runs is None else {*flow_runs, *(pods_of[one] for one in flow_runs if one in pods_of)}


def shared(found: Sequence[T], flow_runs: Collection[UUID] | None, pods_of: Mapping[UUID, UUID]) -> list[T]:
    """What was found, of these flow runs alone, and once more for each flow run that a host's pod executes."""
    own = [one for one in found if flow_runs is None or one.flow_run_id in flow_runs]
    hosted = [(guest, host) for guest, host in pods_of.items() if flow_runs is None or guest in flow_runs]
    return own + [replace(one, flow_run_id=guest) for guest, host in hosted for one in found if one.flow_run_id == host]
