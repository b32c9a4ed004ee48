"""Prefect's side of the wire: enough of its REST API, in memory, to fail on demand."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx

DEPLOYMENT = "daily_job/daily-0900"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "logical_date": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}], "default": None},
        "sample": {"type": "integer", "minimum": 1, "default": 1},
        "note": {"type": "string"},
        "since": {"type": "string", "format": "date"},
        "options": {"type": "object"},
        "carriers": {"type": "array", "items": {"type": "string"}},
    },
}


def refused(request: httpx.Request) -> httpx.Response:
    """Nobody listens."""
    raise httpx.ConnectError("connection refused", request=request)


def saying(status: int, **more: Any) -> Callable[[httpx.Request], httpx.Response]:
    """One answer to everything."""
    return lambda request: httpx.Response(status, **({"json": {"detail": "as asked"}} | more))


class PrefectWire(httpx.MockTransport):
    """A Prefect server with one deployment. Set `fault` to answer, or fail, in its place."""

    def __init__(self) -> None:
        super().__init__(self.answer)
        self.fault: Callable[[httpx.Request], httpx.Response] | None = None
        self.deployment: dict[str, Any] | None = {
            "id": str(uuid4()),
            "name": "daily-0900",
            "paused": False,
            "parameters": {},
            "parameter_openapi_schema": SCHEMA,
            "schedules": [
                {
                    "slug": "daily-0900",
                    "active": True,
                    "schedule": {"cron": "0 9 * * *", "timezone": "Europe/Madrid", "day_or": True},
                }
            ],
        }
        self.flow_runs: dict[str, dict[str, Any]] = {}
        self.variables: dict[str, Any] = {}
        self.requests: list[httpx.Request] = []
        self.creations: list[dict[str, Any]] = []

    @property
    def keys(self) -> list[str]:
        """The idempotency keys of the flow runs, in the order of their creation."""
        return [one["idempotency_key"] for one in self.flow_runs.values()]

    def add(self, state: str, *, due: datetime | None = None, name: str | None = None, **more: Any) -> dict[str, Any]:
        """A flow run that somebody else made."""
        due = due or datetime.now(UTC)
        run: dict[str, Any] = {
            "id": str(uuid4()),
            "deployment_id": self.deployment["id"] if self.deployment else None,
            "idempotency_key": None,
            "tags": [],
            "parameters": {},
            "expected_start_time": due.isoformat(),
            "created": due.isoformat(),
            "auto_scheduled": False,
            "created_by": None,
            "start_time": None,
            "end_time": None,
        } | more
        self.flow_runs[run["id"]] = run
        self.move(run["id"], state, name=name)
        return run

    def move(self, run_id: str, state: str, *, name: str | None = None, message: str | None = None) -> None:
        """Put a flow run into a state, as a worker or a person would."""
        now = datetime.now(UTC).isoformat()
        run = self.flow_runs[run_id]
        run.setdefault("timeline", []).append({"type": state, "name": name or state.title(), "timestamp": now})
        run["state"] = {"type": state, "name": name or state.title(), "message": message, "timestamp": now}
        if state == "RUNNING":
            run["start_time"] = run["start_time"] or now
        run["end_time"] = now if state in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} else None

    def answer(self, request: httpx.Request) -> httpx.Response:
        """Prefect's answer."""
        self.requests.append(request)
        if self.fault is not None:
            return self.fault(request)
        path = request.url.path.removeprefix("/api")
        get = request.method == "GET"
        found = self._get(path, request.url.params) if get else self._post(path, json.loads(request.content))
        return found or httpx.Response(404, json={"detail": "Not found"})

    def _get(self, path: str, query: httpx.QueryParams) -> httpx.Response | None:
        if path == "/ready":
            return httpx.Response(200, json=True)
        if path == f"/deployments/name/{DEPLOYMENT}" and self.deployment:
            return httpx.Response(200, json=self.deployment)
        variable = path.removeprefix("/variables/name/")
        if variable in self.variables:
            return httpx.Response(200, json={"name": variable, "value": self.variables[variable]})
        if path == "/flow_run_states/":
            run = self.flow_runs.get(query["flow_run_id"])
            return httpx.Response(200, json=run["timeline"] if run else [])
        run = self.flow_runs.get(path.removeprefix("/flow_runs/"))
        return httpx.Response(200, json=run) if run else None

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response | None:
        if self.deployment and path == f"/deployments/{self.deployment['id']}/create_flow_run":
            return self._create(body)
        if path.endswith("/set_state"):
            return self._set_state(path.split("/")[2], body)
        return httpx.Response(200, json=self._filter(body)) if path == "/flow_runs/filter" else None

    def _create(self, body: dict[str, Any]) -> httpx.Response:
        self.creations.append(body)
        key = body["idempotency_key"]
        UUID(key)
        for run in self.flow_runs.values():
            if run["idempotency_key"] == key:
                return httpx.Response(200, json=run)
        made = self.add("SCHEDULED", idempotency_key=key, parameters=body["parameters"], tags=body["tags"])
        return httpx.Response(201, json=made)

    def _set_state(self, run_id: str, body: dict[str, Any]) -> httpx.Response | None:
        """Prefect's rules for Cancelling: 201 whatever it thinks of it."""
        run = self.flow_runs.get(run_id)
        if run is None:
            return None
        now, wanted = run["state"]["type"], body["state"]
        status = "ACCEPT"
        if body.get("force"):
            self.move(run_id, wanted["type"], message=wanted.get("message"))
        elif now in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}:
            status = "ABORT"
        elif now == "CANCELLING":
            status = "REJECT"
        elif now == "SCHEDULED" and not run.get("infrastructure_pid"):
            status = "REJECT"
            self.move(run_id, "CANCELLED")
        else:
            self.move(run_id, wanted["type"])
        details = {"type": f"{status.lower()}_details"} | ({} if status == "ACCEPT" else {"reason": "as it is"})
        return httpx.Response(201, json={"state": run["state"], "status": status, "details": details})

    def _filter(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        assert body["limit"] <= 200, "Prefect answers 422 to more"
        wanted = body["flow_runs"]
        found = list(self.flow_runs.values())
        if "id" in wanted:
            found = [one for one in found if one["id"] in wanted["id"]["any_"]]
        if "deployment_id" in wanted:
            found = [one for one in found if one["deployment_id"] in wanted["deployment_id"]["any_"]]
        if "state" in wanted:
            found = [one for one in found if one["state"]["type"] in wanted["state"]["type"]["any_"]]
        window = wanted.get("expected_start_time", {})
        moment = datetime.fromisoformat
        if "after_" in window:
            found = [one for one in found if moment(one["expected_start_time"]) >= moment(window["after_"])]
        if "before_" in window:
            found = [one for one in found if moment(one["expected_start_time"]) <= moment(window["before_"])]
        found.sort(key=lambda one: moment(one["expected_start_time"]))
        offset = body.get("offset", 0)
        return found[offset : offset + body["limit"]]
