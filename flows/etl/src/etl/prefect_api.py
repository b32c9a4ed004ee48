"""The little of Prefect's REST API that a flow pod needs beside Prefect's own client, over urllib.

It is there before Prefect's client is, and, unlike that, in any thread, while the flow's own thread is busy or blocked.
"""

import base64
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import UUID, uuid4

from etl.tags import correlation_id

_ATTEMPT_TIMEOUT_SECONDS = 5.0
PAUSE_SECONDS = 0.2

# How long a connection may take before it is tried anew, and by how much longer each time.
_CONNECT_SECONDS = 0.05
_PATIENCE = 1.1

# Answers of a server that is starting, overloaded or without its database; any other refusal is final.
_TRANSIENT_STATUS = frozenset({408, 429})

# How many of a queue's runs are looked through for one.
_DUE = 20

T = TypeVar("T")


class ApiRefused(Exception):
    """The Prefect API answered, and will not answer otherwise later; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """What Prefect knows of a flow run: its state's type, when it was last scheduled, and its correlation id.

    `told`: all that Prefect told of the run.
    """

    state_type: str
    attempt: datetime
    correlation_id: str
    told: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


class PrefectApi:
    """The server's API at a URL; each call asks again and again until it has an answer or the time is up.

    Every call raises
        TimeoutError: no answer within the given time; the text carries the last reason.
        ApiRefused: the credentials are wrong, or there is no such flow run.
    """

    def __init__(self, url: str, *, auth_string: str | None) -> None:
        """Raises ValueError where the URL is none."""
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"PREFECT_API_URL is {url!r}: set it to the server's API, such as http://prefect:4200/api")
        self._url = url.rstrip("/")
        self._headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if auth_string:
            self._headers["Authorization"] = "Basic " + base64.b64encode(auth_string.encode()).decode()

    def read_flow_run(self, flow_run_id: UUID, *, within_seconds: float) -> Scheduled:
        """What Prefect knows of the flow run."""

        def read() -> Scheduled:
            # The state first: if the run is scheduled anew in between, the attempt read is the newer one.
            run = self._request(f"/flow_runs/{flow_run_id}")
            timeline = self._request(f"/flow_run_states/?flow_run_id={flow_run_id}")
            return Scheduled(
                state_type=str(run.get("state_type")),
                attempt=_last_scheduled(timeline),
                correlation_id=correlation_id(flow_run_id, run.get("tags") or ()),
                told=run,
            )

        return self._patiently(read, flow_run_id, within_seconds)

    def read_deployment(self, deployment_id: str, *, flow_run_id: UUID, within_seconds: float) -> dict[str, Any]:
        """All that Prefect tells of the flow run's deployment."""

        def read() -> dict[str, Any]:
            found: dict[str, Any] = self._request(f"/deployments/{deployment_id}")
            return found

        return self._patiently(read, flow_run_id, within_seconds)

    def read_state(self, flow_run_id: UUID, *, within_seconds: float = 0.0) -> dict[str, Any]:
        """The flow run's state as Prefect tells it; `type` and `name` are always there."""

        def read() -> dict[str, Any]:
            run = self._request(f"/flow_runs/{flow_run_id}")
            return {"type": run["state_type"], "name": run["state_name"], **(run.get("state") or {})}

        return self._patiently(read, flow_run_id, within_seconds)

    def due(self, pool: str, queue: str, *, flow_run_id: UUID, within_seconds: float) -> list[dict[str, Any]]:
        """The runs that a worker would be given now from a work queue, the earliest first; asked for by that run."""

        def read() -> list[dict[str, Any]]:
            asked = {"work_queue_names": [queue], "scheduled_before": datetime.now(UTC).isoformat(), "limit": _DUE}
            path = f"/work_pools/{quote(pool, safe='')}/get_scheduled_flow_runs"
            return [one["flow_run"] for one in self._request(path, asked)]

        return self._patiently(read, flow_run_id, within_seconds)

    def take(self, flow_run_id: UUID, *, within_seconds: float) -> bool:
        """Move a scheduled run to Pending; False where another was quicker, or it may not begin now."""
        # By its id a repeated request is known for what it is, where the first one's answer was lost.
        transition = str(uuid4())
        state = {"type": "PENDING", "name": "Pending", "state_details": {"transition_id": transition}}

        def propose() -> bool:
            answer = self._request(f"/flow_runs/{flow_run_id}/set_state", {"state": state})
            details = (answer.get("state") or {}).get("state_details") or {}
            return bool(details.get("transition_id") == transition)

        return self._patiently(propose, flow_run_id, within_seconds)

    def place(
        self, flow_run_id: UUID, *, labels: dict[str, str], infrastructure_pid: str | None, within_seconds: float
    ) -> None:
        """Write down where a run is executed: by labels, and by what Prefect's workers know a Job by."""

        def write() -> None:
            self._request(f"/flow_runs/{flow_run_id}/labels", labels, method="PATCH")
            if infrastructure_pid is not None:
                self._request(f"/flow_runs/{flow_run_id}", {"infrastructure_pid": infrastructure_pid}, method="PATCH")

        self._patiently(write, flow_run_id, within_seconds)

    def schedule_again(self, flow_run_id: UUID, *, message: str, within_seconds: float) -> str:
        """Have the run executed anew, at once; how Prefect took that: ACCEPT, or why not."""
        return self._set_state(flow_run_id, "SCHEDULED", "AwaitingRetry", message, within_seconds=within_seconds)

    def end(self, flow_run_id: UUID, state_type: str, *, message: str, force: bool, within_seconds: float) -> str:
        """Give the run a last state, CANCELLED or CRASHED; how Prefect took that: ACCEPT, or why not."""
        name = state_type.capitalize()
        return self._set_state(flow_run_id, state_type, name, message, force=force, within_seconds=within_seconds)

    def emit(self, event: dict[str, Any]) -> None:
        """Record an event, once: who sends the next one soon need not repeat it.

        Raises:
            OSError: the API did not take it.
        """
        self._request("/events", [event])

    def _set_state(
        self,
        flow_run_id: UUID,
        state_type: str,
        name: str,
        message: str,
        *,
        within_seconds: float,
        force: bool = False,
    ) -> str:
        state = {"type": state_type, "name": name, "message": message}

        def propose() -> str:
            answer = self._request(f"/flow_runs/{flow_run_id}/set_state", {"state": state, "force": force})
            return str(answer["details"].get("reason") or answer["status"])

        return self._patiently(propose, flow_run_id, within_seconds)

    def _patiently(self, call: Callable[[], T], flow_run_id: UUID, within_seconds: float) -> T:
        deadline = time.monotonic() + within_seconds
        while True:
            try:
                return call()
            except urllib.error.HTTPError as exc:
                exc.close()
                if exc.code < 500 and exc.code not in _TRANSIENT_STATUS:
                    raise ApiRefused(self._refusal(exc.code, flow_run_id)) from exc
                reason: Exception = exc
            except (OSError, ValueError) as exc:
                reason = exc
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"the Prefect API at {self._url} did not answer within {within_seconds:g} s: {reason}"
                ) from reason
            time.sleep(PAUSE_SECONDS)

    def _request(self, path: str, body: Any = None, *, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        url = self._url + path
        request = urllib.request.Request(url, data=data, headers=self._headers, method=method)  # noqa: S310 - http(s)
        with _OPENER.open(request, timeout=_ATTEMPT_TIMEOUT_SECONDS) as answer:
            content = answer.read()
            return json.loads(content) if content else None

    def _refusal(self, status: int, flow_run_id: UUID) -> str:
        api = f"the Prefect API at {self._url}"
        if status in (401, 403):
            return f"{api} answered {status}: set PREFECT_API_AUTH_STRING to the server's user:password"
        if status == 404:
            return f"{api} knows no flow run {flow_run_id}: it was deleted, or the URL is another's"
        return f"{api} answered {status} for flow run {flow_run_id}"


class _Connection(http.client.HTTPConnection):
    """One that is tried anew soon.

    Whoever enforces network policies may not know a pod that has just begun, and its first packet is lost. TCP itself
    sends that again after a second (RFC 6298), in which the flow could have begun.
    """

    timeout: float

    def connect(self) -> None:
        """Raises TimeoutError where the time for the whole is up."""
        whole = self.timeout
        deadline = time.monotonic() + whole
        seconds = _CONNECT_SECONDS
        while True:
            self.timeout = min(seconds, max(deadline - time.monotonic(), _CONNECT_SECONDS))
            try:
                super().connect()
                break
            except TimeoutError:
                if time.monotonic() >= deadline:
                    raise
            finally:
                self.timeout = whole
            seconds *= _PATIENCE
        self.sock.settimeout(whole)


class _Handler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """As its own, by such connections."""
        return self.do_open(_Connection, req)


_OPENER = urllib.request.build_opener(_Handler)


def _last_scheduled(timeline: list[dict[str, Any]]) -> datetime:
    """When Prefect last scheduled the run; a run that never was (made as Pending) goes by its first state.

    That it is called Late does not schedule it again: its process may be about to begin it.
    """
    scheduled = [state for state in timeline if state["type"] == "SCHEDULED" and state.get("name") != "Late"]
    times = [datetime.fromisoformat(state["timestamp"]) for state in scheduled]
    if times:
        return max(times)
    return min((datetime.fromisoformat(state["timestamp"]) for state in timeline), default=datetime.now(UTC))
