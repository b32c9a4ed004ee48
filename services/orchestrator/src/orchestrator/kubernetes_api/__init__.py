"""The one place that speaks to Kubernetes: the Jobs and pods of flow runs, in one namespace."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any
from uuid import UUID

import aiohttp
from kubernetes.aio.client import ApiClient, BatchV1Api, Configuration, CoreV1Api
from kubernetes.aio.config import ConfigException, load_incluster_config
from kubernetes.aio.config.incluster_config import SERVICE_TOKEN_FILENAME

from orchestrator.errors import KubernetesRefused, KubernetesUnavailable, OrchestratorError
from orchestrator.kubernetes_api import shapes
from orchestrator.resilience import CircuitOpen, DeadlineExceeded, Guard, Transient
from orchestrator.workloads import NOBODYS, Event, Job, Pod, shared, with_hosts

TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
MOST_NAMED = 100  # more runs than that are not named in the address of one request: all are read
MOST_EVENTS = 500

_OUTCOMES: dict[type[OrchestratorError], str] = {KubernetesRefused: "refused", KubernetesUnavailable: "denied"}

Observe = Callable[[str, str, float], None]


def configuration() -> Configuration:
    """How a pod reaches its cluster: the service account's token, read again every minute, and the cluster's CA.

    Raises KubernetesUnavailable where this process has none.
    """
    found = Configuration()
    try:
        load_incluster_config(client_configuration=found)  # type: ignore[no-untyped-call] # it has no types
    except (ConfigException, OSError) as exc:
        raise KubernetesUnavailable(
            f"this process has no service account in a cluster ({exc}); mount its token at {SERVICE_TOKEN_FILENAME} "
            "(automountServiceAccountToken), or leave ORCHESTRATOR_KUBERNETES_NAMESPACE out"
        ) from exc
    return found


@asynccontextmanager
async def opened(
    configuration: Configuration | None, *, namespace: str | None, guard: Guard, observe: Observe
) -> AsyncIterator["KubernetesApi | None"]:
    """The cluster that `configuration` names, while the block lasts; None where there is none."""
    if configuration is None or namespace is None:
        yield None
        return
    configuration.client_session_kwargs = {"trust_env": False}  # no proxy stands between a pod and its cluster
    async with ApiClient(configuration) as client:
        yield KubernetesApi(client, guard, namespace=namespace, observe=observe)


class KubernetesApi:
    """What this service asks of Kubernetes, in this service's words; only ever about what belongs to flow runs.

    Every method raises KubernetesUnavailable when the API server cannot be reached or cannot serve, and
    KubernetesRefused when it says no for good, such as for a right that the service account lacks.
    """

    def __init__(self, client: ApiClient, guard: Guard, *, namespace: str, observe: Observe) -> None:
        """`observe(operation, outcome, seconds)` is told of every call."""
        # answers are read as they come: the generated models would refuse what a newer cluster adds
        self._core, self._batch = CoreV1Api(client), BatchV1Api(client)
        self._guard = guard
        self._observe = observe
        self.namespace = namespace

    async def jobs(
        self, flow_runs: Collection[UUID] | None = None, *, pods_of: Mapping[UUID, UUID] = NOBODYS
    ) -> list[Job]:
        """The Jobs of these flow runs, of all of them where None are named.

        `pods_of`: the flow run in whose pod another is executed; that one's Jobs are told as the other's too.
        """
        if flow_runs is not None and not flow_runs:
            return []
        lists = self._batch.list_namespaced_job_without_preload_content
        selector = _of(with_hosts(flow_runs, pods_of))
        body = await self._ask("jobs", lambda: lists(self.namespace, label_selector=selector))
        return shared([one.told() for one in shapes.read(shapes.JOBS, body).items], flow_runs, pods_of)

    async def pods(
        self, flow_runs: Collection[UUID] | None = None, *, pods_of: Mapping[UUID, UUID] = NOBODYS
    ) -> list[Pod]:
        """The pods of these flow runs, of all of them where None are named. `pods_of`: see `jobs`."""
        if flow_runs is not None and not flow_runs:
            return []
        lists = self._core.list_namespaced_pod_without_preload_content
        selector = _of(with_hosts(flow_runs, pods_of))
        body = await self._ask("pods", lambda: lists(self.namespace, label_selector=selector))
        return shared([one.told() for one in shapes.read(shapes.PODS, body).items], flow_runs, pods_of)

    async def events_about(self, names: Collection[str]) -> list[Event]:
        """The warnings about the objects of these names that Kubernetes still remembers, oldest first."""
        if not names:
            return []
        lists = self._core.list_namespaced_event_without_preload_content
        only = f",involvedObject.name={next(iter(names))}" if len(names) == 1 else ""
        wanted = f"type=Warning{only}"
        body = await self._ask("events", lambda: lists(self.namespace, field_selector=wanted, limit=MOST_EVENTS))
        found = [one.told() for one in shapes.read(shapes.EVENTS, body).items]
        return sorted((one for one in found if one.name in names), key=lambda one: one.at)

    async def delete_job(self, name: str) -> bool:
        """Remove a Job, and its pods after it; False where there is none of that name."""
        delete = self._batch.delete_namespaced_job_without_preload_content
        try:
            await self._ask("delete_job", lambda: delete(name, self.namespace, propagation_policy="Background"))
        except KubernetesRefused as exc:
            if exc.status == HTTPStatus.NOT_FOUND:
                return False
            raise
        return True

    async def _ask(self, operation: str, request: Callable[[], Awaitable[Any]]) -> bytes:
        return await asked(operation, request, guard=self._guard, observe=self._observe)


async def asked(operation: str, request: Callable[[], Awaitable[Any]], *, guard: Guard, observe: Observe) -> bytes:
    """Every request made here may be repeated: it reads, or removes what may be gone already."""
    started = time.monotonic()
    outcome = "cancelled"
    try:
        body = await guard.call(_attempt(operation, request))
        outcome = "ok"
    except Transient as exc:
        outcome = "unavailable"
        raise KubernetesUnavailable(
            f"Kubernetes cannot serve now ({operation}: {exc})", retry_after=exc.retry_after
        ) from exc
    except CircuitOpen as exc:
        outcome = "circuit_open"
        raise KubernetesUnavailable(
            f"Kubernetes has been failing and is left alone for a moment ({operation})",
            retry_after=max(1.0, exc.retry_after),
        ) from exc
    except DeadlineExceeded as exc:
        outcome = "deadline"
        raise KubernetesUnavailable(f"Kubernetes did not answer in time ({operation}: {exc})") from exc
    except (KubernetesRefused, KubernetesUnavailable) as exc:
        outcome = _OUTCOMES[type(exc)]
        raise
    finally:
        observe(operation, outcome, time.monotonic() - started)
    return body


def _attempt(operation: str, request: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[bytes]]:
    async def attempt() -> bytes:
        try:
            answer = await request()
            async with answer:
                body: bytes = await answer.read()
        except (aiohttp.ClientError, OSError, ConfigException) as exc:  # the last: an unreadable token file
            raise Transient(f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__) from exc
        if answer.status in TRANSIENT_STATUS:
            raise Transient(f"HTTP {answer.status}", retry_after=_retry_after(answer))
        if answer.status == HTTPStatus.UNAUTHORIZED:
            raise KubernetesUnavailable(
                f"Kubernetes does not take our token ({operation}: HTTP {answer.status}); a rotated one is read "
                "within a minute",
                retry_after=30,
            )
        if not answer.ok:
            raise KubernetesRefused(
                f"Kubernetes refused {operation}: HTTP {answer.status}: {shapes.said(body)}", status=answer.status
            )
        return body

    return attempt


def _of(flow_runs: Collection[UUID] | None) -> str:
    if flow_runs is None or len(flow_runs) > MOST_NAMED:
        return shapes.FLOW_RUN_LABEL
    return f"{shapes.FLOW_RUN_LABEL} in ({','.join(sorted(str(one) for one in flow_runs))})"


def _retry_after(answer: aiohttp.ClientResponse) -> float | None:
    try:
        return min(60.0, max(0.0, float(answer.headers["retry-after"])))
    except (KeyError, ValueError):
        return None
