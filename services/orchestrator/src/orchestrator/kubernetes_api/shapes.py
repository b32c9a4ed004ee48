"""What Kubernetes' JSON looks like, as far as this service reads it, and what it means in this service's words."""

from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from orchestrator.errors import KubernetesUnavailable
from orchestrator.workloads import Condition, Container, Event, Job, Pod

FLOW_RUN_LABEL = "prefect.io/flow-run-id"
JOB_LABEL = "batch.kubernetes.io/job-name"

T = TypeVar("T")


class _Shape(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class _Owner(_Shape):
    kind: str
    name: str


class _Metadata(_Shape):
    name: str
    uid: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    creation_timestamp: datetime
    deletion_timestamp: datetime | None = None
    owner_references: tuple[_Owner, ...] = ()

    @property
    def flow_run_id(self) -> UUID | None:
        try:
            return UUID(self.labels.get(FLOW_RUN_LABEL, ""))
        except ValueError:
            return None


class _Condition(_Shape):
    type: str
    status: str
    reason: str | None = None
    message: str | None = None
    last_transition_time: datetime | None = None

    def told(self) -> Condition:
        return Condition(
            type=self.type,
            status=self.status,
            reason=self.reason or "",
            message=self.message or "",
            at=self.last_transition_time,
        )


class _JobStatus(_Shape):
    active: int = 0
    conditions: tuple[_Condition, ...] = ()


class _Job(_Shape):
    metadata: _Metadata
    status: _JobStatus = _JobStatus()

    def told(self) -> Job:
        true = {one.type: one.told() for one in self.status.conditions if one.status == "True"}
        failed = true.get("Failed") or true.get("FailureTarget")
        return Job(
            name=self.metadata.name,
            uid=self.metadata.uid,
            flow_run_id=self.metadata.flow_run_id,
            created_at=self.metadata.creation_timestamp,
            active=self.status.active,
            complete="Complete" in true,
            failed=failed.reason if failed else None,
            message=failed.message if failed else "",
            deleted_at=self.metadata.deletion_timestamp,
        )


class _Waiting(_Shape):
    reason: str | None = None
    message: str | None = None


class _Running(_Shape):
    started_at: datetime | None = None


class _Terminated(_Shape):
    reason: str | None = None
    message: str | None = None
    exit_code: int
    started_at: datetime | None = None
    finished_at: datetime | None = None


class _ContainerState(_Shape):
    waiting: _Waiting | None = None
    running: _Running | None = None
    terminated: _Terminated | None = None


class _Container(_Shape):
    name: str
    image: str = ""
    state: _ContainerState = _ContainerState()

    def told(self, images: dict[str, str]) -> Container:
        waiting, running, ended = self.state.waiting, self.state.running, self.state.terminated
        said = ended or waiting
        return Container(
            name=self.name,
            image=images.get(self.name) or self.image,
            waiting=(waiting.reason or "Waiting") if waiting else None,
            terminated=(ended.reason or "Terminated") if ended else None,
            message=(said.message or "") if said else "",
            exit_code=ended.exit_code if ended else None,
            started_at=running.started_at if running else ended.started_at if ended else None,
            ended_at=ended.finished_at if ended else None,
        )


class _PodStatus(_Shape):
    phase: str = "Pending"
    reason: str | None = None
    message: str | None = None
    conditions: tuple[_Condition, ...] = ()
    init_container_statuses: tuple[_Container, ...] = ()
    container_statuses: tuple[_Container, ...] = ()


class _Named(_Shape):
    name: str
    image: str = ""


class _PodSpec(_Shape):
    node_name: str | None = None
    containers: tuple[_Named, ...] = ()


class _Pod(_Shape):
    metadata: _Metadata
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()

    def told(self) -> Pod:
        owner = next((one.name for one in self.metadata.owner_references if one.kind == "Job"), None)
        # as it was asked for: once it runs, Kubernetes tells the image by its digest
        images = {one.name: one.image for one in self.spec.containers}
        return Pod(
            name=self.metadata.name,
            uid=self.metadata.uid,
            job=owner or self.metadata.labels.get(JOB_LABEL),
            flow_run_id=self.metadata.flow_run_id,
            created_at=self.metadata.creation_timestamp,
            phase=self.status.phase,
            node=self.spec.node_name,
            deleted_at=self.metadata.deletion_timestamp,
            reason=self.status.reason or "",
            message=self.status.message or "",
            conditions=tuple(one.told() for one in self.status.conditions),
            containers=tuple(
                one.told(images) for one in self.status.container_statuses + self.status.init_container_statuses
            ),
        )


class _About(_Shape):
    kind: str = ""
    name: str = ""


class _Series(_Shape):
    count: int
    last_observed_time: datetime


class _EventMetadata(_Shape):
    creation_timestamp: datetime | None = None


class _Event(_Shape):
    metadata: _EventMetadata
    involved_object: _About
    reason: str | None = None
    message: str | None = None
    count: int | None = None
    last_timestamp: datetime | None = None
    event_time: datetime | None = None
    series: _Series | None = None

    def told(self) -> Event:
        last = self.series.last_observed_time if self.series else None
        at = last or self.last_timestamp or self.event_time or self.metadata.creation_timestamp
        return Event(
            kind=self.involved_object.kind,
            name=self.involved_object.name,
            reason=self.reason or "",
            message=self.message or "",
            count=(self.series.count if self.series else self.count) or 1,
            at=at or datetime.now(UTC),
        )


class _Status(_Shape):
    """How Kubernetes says no."""

    message: str


class _Jobs(_Shape):
    items: list[_Job]


class _Pods(_Shape):
    items: list[_Pod]


class _Events(_Shape):
    items: list[_Event]


JOBS = TypeAdapter(_Jobs)
PODS = TypeAdapter(_Pods)
EVENTS = TypeAdapter(_Events)
STATUS = TypeAdapter(_Status)


def read(shape: TypeAdapter[T], body: bytes) -> T:
    """The answer in that shape. Raises KubernetesUnavailable naming what does not fit."""
    try:
        return shape.validate_json(body)
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise KubernetesUnavailable(
            f"what answers as the cluster's API does not speak like it ({where}: {first['msg']}); "
            "check what KUBERNETES_SERVICE_HOST leads to"
        ) from exc


def said(body: bytes) -> str:
    """Why Kubernetes says no, in its words where the answer is its own."""
    try:
        return STATUS.validate_json(body).message[:500]
    except ValidationError:
        return body[:500].decode(errors="replace")
