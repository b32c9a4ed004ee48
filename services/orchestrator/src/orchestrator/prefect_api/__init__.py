"""The one place that speaks Prefect's HTTP."""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
from pydantic import TypeAdapter

from orchestrator.errors import EngineConfused, EngineRefused, EngineUnavailable, OrchestratorError
from orchestrator.prefect_api import shapes
from orchestrator.resilience import CircuitOpen, DeadlineExceeded, Guard, Transient
from orchestrator.runs import Facts, FlowRun, State
from orchestrator.settings import Settings

TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})  # 500: its answer while its database is away
DENIED_STATUS = frozenset({401, 403})

SOURCE_BREAKER = "source_breaker"  # the variable that the flow sets when the circuit changes
BREAKER_STATES = frozenset({"closed", "half-open", "open"})

_OUTCOMES: dict[type[OrchestratorError], str] = {
    EngineRefused: "refused",
    EngineUnavailable: "denied",
    EngineConfused: "confused",
}

T = TypeVar("T")
Observe = Callable[[str, str, float], None]


def client(settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """The HTTP client for the Prefect server in `settings`; the caller closes it. `transport` replaces the network."""
    secret = settings.prefect_auth_string
    user, _, password = secret.get_secret_value().partition(":") if secret else ("", "", "")
    return httpx.AsyncClient(
        base_url=settings.prefect_api_url,
        auth=httpx.BasicAuth(user, password) if secret else None,
        timeout=None,  # noqa: S113 -- the guard limits each attempt as a whole; httpx would limit each phase
        # uvicorn, under Prefect, closes idle connections after 5 s; one that we keep longer breaks on its next use
        limits=httpx.Limits(max_connections=32, max_keepalive_connections=16, keepalive_expiry=3.0),
        headers={"accept": "application/json", "user-agent": "pipelines-orchestrator"},
        transport=transport,
        trust_env=False,
    )


class PrefectApi:
    """What this service asks of Prefect, in this service's words.

    Every method raises EngineUnavailable when Prefect cannot be reached or cannot serve, EngineRefused when it says no
    for good, and EngineConfused when its answer has another shape than this version knows.
    """

    def __init__(
        self, client: httpx.AsyncClient, guard: Guard, *, observe: Observe = lambda operation, outcome, seconds: None
    ) -> None:
        """`observe(operation, outcome, seconds)` is told of every call."""
        self._client = client
        self._guard = guard
        self._observe = observe

    @property
    def breaker(self) -> str:
        """The circuit's state: closed, open or half-open."""
        return self._guard.breaker.state

    async def ready(self) -> None:
        """Return when Prefect says that it and its database can serve; else raise."""
        await self.ask("ready", "GET", "/ready")

    async def deployment(self, name: str) -> Facts | None:
        """The facts about the deployment `flow/deployment`, None when there is none of that name."""
        path = "/deployments/name/" + "/".join(quote(part, safe="") for part in name.split("/", 1))
        found = await self._find("deployment", path, shapes.DEPLOYMENT)
        return found.told(name) if found else None

    async def source_breaker(self) -> str | None:
        """The state of the circuit between the flows and their source, as a flow last wrote it down; None for none."""
        told = await self._find("source_breaker", f"/variables/name/{SOURCE_BREAKER}", shapes.VARIABLE)
        state = told.value.get("state") if told is not None and isinstance(told.value, dict) else None
        return state if state in BREAKER_STATES else None

    async def create_flow_run(
        self,
        deployment_id: UUID,
        *,
        key: str,
        parameters: Mapping[str, Any],
        tags: Sequence[str],
        labels: Mapping[str, str | int],
        job_variables: Mapping[str, Any],
    ) -> FlowRun:
        """Create the flow run whose idempotency key is `key`, or return the one that already is."""
        body = {
            "idempotency_key": key,
            "parameters": dict(parameters),
            "tags": list(tags),
            "labels": dict(labels),
            "job_variables": dict(job_variables),
        }
        path = f"/deployments/{deployment_id}/create_flow_run"
        return shapes.read(shapes.FLOW_RUN, await self.ask("create_flow_run", "POST", path, body)).told()

    async def cancel(self, flow_run_id: UUID) -> str:
        """Ask Prefect to cancel a flow run; how it took that, in its words.

        A run that has no process yet is Cancelled at once, which Prefect calls a rejection.
        """
        return await self._set_state("cancel", flow_run_id, {"state": {"type": "CANCELLING", "name": "Cancelling"}})

    async def end_as_cancelled(self, flow_run_id: UUID, *, reason: str) -> str:
        """End a flow run as Cancelled, whatever Prefect's rules say of its present state."""
        state = {"type": "CANCELLED", "name": "Cancelled", "message": reason}
        return await self._set_state("end_as_cancelled", flow_run_id, {"state": state, "force": True})

    async def crash(self, flow_run_id: UUID, *, reason: str) -> str:
        """End a flow run as Crashed by Prefect's own rules, which free its slots; how Prefect took that.

        One that is over already stays as it ended.
        """
        state = {"type": "CRASHED", "name": "Crashed", "message": reason}
        return await self._set_state("crash", flow_run_id, {"state": state | _once()})

    async def time_out(self, flow_run_id: UUID, *, reason: str) -> str:
        """End a flow run as Failed named TimedOut, whatever retries its flow has left; how Prefect took that."""
        state = {"type": "FAILED", "name": "TimedOut", "message": reason}
        return await self._set_state("time_out", flow_run_id, {"state": state | _once(), "force": True})

    async def reschedule(self, flow_run_id: UUID, *, name: str, reason: str) -> str:
        """Let a worker take a flow run anew, also one that is over; how Prefect took that. `name`: the state's."""
        state = {"type": "SCHEDULED", "name": name, "message": reason}
        return await self._set_state("reschedule", flow_run_id, {"state": state | _once()})

    async def skip(self, flow_run_id: UUID, *, reason: str) -> str:
        """End a flow run that nothing has begun as Cancelled named Skipped; how Prefect took that."""
        state = {"type": "CANCELLED", "name": "Skipped", "message": reason}
        return await self._set_state("skip", flow_run_id, {"state": state | _once()})

    async def state_before_cancelling(self, flow_run_id: UUID) -> State | None:
        """The last state of a flow run that was not Cancelling; None when it had no other."""
        answer = await self.ask("states", "GET", f"/flow_run_states/?flow_run_id={flow_run_id}")
        told = shapes.read(shapes.STATES, answer)
        in_order = sorted(told, key=lambda one: one.timestamp)
        earlier = [state for one in in_order if (state := State.of(one.type)) is not State.CANCELLING]
        return earlier[-1] if earlier else None

    async def flow_run(self, flow_run_id: UUID) -> FlowRun | None:
        """One flow run, None when Prefect has none of that id."""
        found = await self._find("flow_run", f"/flow_runs/{flow_run_id}", shapes.FLOW_RUN)
        return found.told() if found else None

    async def flow_runs(self, ids: Sequence[UUID]) -> list[FlowRun]:
        """Those of the given flow runs that Prefect has."""
        found: list[FlowRun] = []
        for start in range(0, len(ids), shapes.PAGE):
            page = [str(one) for one in ids[start : start + shapes.PAGE]]
            found += await self._filter("flow_runs", {"id": {"any_": page}})
        return found

    async def due(self, deployments: Iterable[UUID], *, since: datetime) -> list[FlowRun]:
        """The flow runs of these deployments that were due between `since` and now, oldest first."""
        window = {"after_": since.isoformat(), "before_": datetime.now(UTC).isoformat()}
        return await self._filter("due", _of(deployments) | {"expected_start_time": window})

    async def overdue(self, deployments: Iterable[UUID]) -> list[FlowRun]:
        """The flow runs of these deployments that still wait for a worker, however long ago they were due."""
        window = {"before_": datetime.now(UTC).isoformat()}
        waiting = {"state": {"type": {"any_": ["SCHEDULED"]}}, "expected_start_time": window}
        return await self._filter("overdue", _of(deployments) | waiting)

    async def active(self, deployments: Iterable[UUID]) -> list[FlowRun]:
        """The flow runs of these deployments that something works on now, whenever they were due."""
        kinds = ["RUNNING", "PENDING", "CANCELLING", "PAUSED"]
        return await self._filter("active", _of(deployments) | {"state": {"type": {"any_": kinds}}})

    async def next_starts(self, deployment_id: UUID, *, limit: int = 10) -> list[datetime]:
        """When the schedule's next runs are due, soonest first."""
        body = {
            "flow_runs": _of([deployment_id])
            | {
                "state": {"type": {"any_": ["SCHEDULED"]}},
                "expected_start_time": {"after_": datetime.now(UTC).isoformat()},
            },
            "sort": "EXPECTED_START_TIME_ASC",
            "limit": limit,
        }
        upcoming = shapes.read(shapes.UPCOMING, await self.ask("next_starts", "POST", "/flow_runs/filter", body))
        return [one.expected_start_time for one in upcoming]

    async def _filter(self, operation: str, criteria: Mapping[str, Any]) -> list[FlowRun]:
        found: list[FlowRun] = []
        while True:
            body = {
                "flow_runs": criteria,
                "sort": "EXPECTED_START_TIME_ASC",
                "limit": shapes.PAGE,
                "offset": len(found),
            }
            page = shapes.read(shapes.FLOW_RUNS, await self.ask(operation, "POST", "/flow_runs/filter", body))
            found += [one.told() for one in page]
            if len(page) < shapes.PAGE:
                return found

    async def _set_state(self, operation: str, flow_run_id: UUID, body: Any) -> str:
        told = shapes.read(
            shapes.OUTCOME, await self.ask(operation, "POST", f"/flow_runs/{flow_run_id}/set_state", body)
        )
        return f"{told.status}: {told.details.reason}" if told.details.reason else told.status

    async def _find(self, operation: str, path: str, shape: TypeAdapter[T]) -> T | None:
        try:
            return shapes.read(shape, await self.ask(operation, "GET", path))
        except EngineRefused as exc:
            if exc.status == httpx.codes.NOT_FOUND:
                return None
            raise

    async def ask(self, operation: str, method: str, path: str, body: Any = None) -> httpx.Response:
        """One request: for this package's own modules, which know what it asks and the shape of its answer.

        Every request made so may be repeated: it reads, carries a key, or sets what may be set twice.
        """
        started = time.monotonic()
        outcome = "cancelled"
        try:
            answer = await self._guard.call(self._attempt(method, path, body))
            outcome = "ok"
        except Transient as exc:
            outcome = "unavailable"
            raise EngineUnavailable(
                f"Prefect cannot serve now ({method} {path}: {exc}); try again later",
                retry_after=exc.retry_after,
            ) from exc
        except CircuitOpen as exc:
            outcome = "circuit_open"
            raise EngineUnavailable(
                f"Prefect has been failing and is left alone for a moment ({method} {path}); try again later",
                retry_after=max(1.0, exc.retry_after),
            ) from exc
        except DeadlineExceeded as exc:
            outcome = "deadline"
            raise EngineUnavailable(
                f"Prefect did not answer in time ({method} {path}: {exc}); try again later"
            ) from exc
        except (EngineRefused, EngineUnavailable, EngineConfused) as exc:
            outcome = _OUTCOMES[type(exc)]
            raise
        finally:
            self._observe(operation, outcome, time.monotonic() - started)
        return answer

    def _attempt(self, method: str, path: str, body: Any) -> Callable[[], Awaitable[httpx.Response]]:
        async def attempt() -> httpx.Response:
            try:
                answer = await self._client.request(method, path, json=body)
            except httpx.DecodingError as exc:
                raise EngineConfused(f"Prefect's answer to {method} {path} cannot be decoded: {exc}") from exc
            except httpx.RequestError as exc:
                raise Transient(f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__) from exc
            if answer.status_code in TRANSIENT_STATUS:
                raise Transient(f"HTTP {answer.status_code}", retry_after=_retry_after(answer))
            if answer.status_code in DENIED_STATUS:
                raise EngineUnavailable(
                    f"Prefect refuses our credentials (HTTP {answer.status_code}); "
                    "set ORCHESTRATOR_PREFECT_AUTH_STRING to the server's auth string",
                    retry_after=30,
                )
            if answer.is_client_error and (reason := _reason(answer)) is not None:
                raise EngineRefused(
                    f"Prefect refused {method} {path}: HTTP {answer.status_code}: {reason}", status=answer.status_code
                )
            if not answer.is_success:
                raise EngineConfused(
                    f"what answers {method} {path} with HTTP {answer.status_code} does not speak like Prefect; "
                    "check ORCHESTRATOR_PREFECT_API_URL and what is in front of it"
                )
            return answer

        return attempt


def _of(deployments: Iterable[UUID]) -> dict[str, Any]:
    return {"deployment_id": {"any_": [str(one) for one in deployments]}}


def _once() -> dict[str, Any]:
    """What lets Prefect know a repeated request for a state that it has set already."""
    return {"state_details": {"transition_id": str(uuid4())}}


def _reason(answer: httpx.Response) -> str | None:
    """Why Prefect says no, None when the answer is not Prefect's: a proxy's 404 must not end a run."""
    try:
        body = answer.json()
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    return str(body.get("detail") or body.get("exception_message") or body)[:500]


def _retry_after(answer: httpx.Response) -> float | None:
    """Prefect and its proxies send seconds; an HTTP date is as good as nothing said."""
    try:
        return min(60.0, max(0.0, float(answer.headers["retry-after"])))
    except (KeyError, ValueError):
        return None
