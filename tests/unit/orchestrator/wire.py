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
        self.pools: dict[str, dict[str, Any]] = {}
        self.limits: list[dict[str, Any]] = []
        self.heartbeats: list[tuple[str, datetime]] = []
        self.logs: list[dict[str, Any]] = []
        self.task_runs: list[dict[str, Any]] = []
        self.artifacts: list[dict[str, Any]] = []

    @property
    def keys(self) -> list[str]:
        """The idempotency keys of the flow runs, in the order of their creation."""
        return [one["idempotency_key"] for one in self.flow_runs.values()]

    def add_pool(self, name: str = "pipelines", *, queues: tuple[str, ...] = ("default",), **more: Any) -> None:
        """A work pool that a worker polls."""
        now = datetime.now(UTC).isoformat()
        self.pools[name] = {
            "type": "kubernetes",
            "is_paused": False,
            "concurrency_limit": None,
            "queues": {one: {"name": one, "is_paused": False, "last_polled": now} for one in queues},
            "limits": {},
            "workers": [{"name": "worker-1", "last_heartbeat_time": now}],
        } | more

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
            "next_scheduled_start_time": due.isoformat(),
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
        if path.startswith("/work_pools/"):
            return self._pool(*path.split("/")[2:])
        run = self.flow_runs.get(path.removeprefix("/flow_runs/"))
        return httpx.Response(200, json=run) if run else None

    def _pool(self, name: str, *rest: str) -> httpx.Response | None:
        pool = self.pools.get(name)
        if pool is None:
            return None
        going = [one for one in self.flow_runs.values() if one["state"]["type"] in {"PENDING", "RUNNING"}]
        occupied = [one for one in going if one.get("work_pool_name") == name]
        answer: Any = {
            (): {"type": pool["type"], "is_paused": pool["is_paused"]},
            ("queues", "filter"): list(pool["queues"].values()),
            ("workers", "filter"): pool["workers"],
            ("concurrency_status",): {
                "active_slots": len(occupied),
                "concurrency_limit": pool["concurrency_limit"],
                "queues": [self._occupied(queue, pool, occupied) for queue in pool["queues"]],
            },
        }[rest]
        return httpx.Response(200, json=answer)

    @staticmethod
    def _occupied(queue: str, pool: dict[str, Any], occupied: list[dict[str, Any]]) -> dict[str, Any]:
        mine = [{"id": one["id"]} for one in occupied if one.get("work_queue_name") == queue]
        return {
            "queue_name": queue,
            "active_slots": len(mine),
            "concurrency_limit": pool["limits"].get(queue),
            "flow_runs": mine,
        }

    def _heartbeats(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        assert wanted["event"] == {"name": ["prefect.flow-run.heartbeat"]}
        since = datetime.fromisoformat(wanted["occurred"]["since"])
        return [
            {"occurred": at.isoformat(), "resource": {"prefect.resource.id": f"prefect.flow-run.{flow_run}"}}
            for flow_run, at in sorted(self.heartbeats, key=lambda one: one[1], reverse=True)
            if at >= since and f"prefect.flow-run.{flow_run}" in wanted["resource"]["id"]
        ]

    def _logs(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        assert body["limit"] <= 200, "Prefect answers 422 to more"
        wanted = body["logs"]
        found = [one for one in self.logs if one["flow_run_id"] in wanted["flow_run_id"]["any_"]]
        found = [one for one in found if one["level"] >= wanted["level"]["ge_"]]
        moment = datetime.fromisoformat
        if "timestamp" in wanted:
            found = [one for one in found if moment(one["timestamp"]) >= moment(wanted["timestamp"]["after_"])]
        found.sort(key=lambda one: moment(one["timestamp"]), reverse=body["sort"] == "TIMESTAMP_DESC")
        offset = body.get("offset", 0)
        return found[offset : offset + body["limit"]]

    def say(
        self, run_id: str, message: str, *, level: int = 20, at: datetime | None = None, task: UUID | None = None
    ) -> None:
        """A line of a flow run's log, or of one of its tasks'."""
        line = {"id": str(uuid4()), "flow_run_id": run_id, "message": message, "level": level}
        at = at or datetime.now(UTC)
        self.logs.append(
            line | {"timestamp": at.isoformat(), "name": "prefect.flow_runs", "task_run_id": task and str(task)}
        )

    def leave(self, run_id: str, kind: str, data: Any, *, key: str | None = None, description: str = "") -> None:
        """An artifact of a flow run."""
        now = datetime.now(UTC).isoformat()
        made = {"id": str(uuid4()), "flow_run_id": run_id, "task_run_id": None, "type": kind, "key": key, "data": data}
        self.artifacts.append(made | {"description": description, "created": now, "updated": now, "metadata_": None})

    def _artifacts(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        assert body["limit"] <= 200, "Prefect answers 422 to more"
        assert body["sort"] == "CREATED_DESC"
        wanted = body["artifacts"]["flow_run_id"]["any_"]
        return [one for one in reversed(self.artifacts) if one["flow_run_id"] in wanted][: body["limit"]]

    def _task_runs(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        flow_runs, wanted = body["flow_runs"]["id"]["any_"], body["task_runs"]
        return [
            one
            for one in self.task_runs
            if one["flow_run_id"] in flow_runs
            and set(wanted["tags"]["all_"]) <= set(one["tags"])
            and one["state_type"] in wanted["state"]["type"]["any_"]
        ]

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response | None:
        if self.deployment and path == f"/deployments/{self.deployment['id']}/create_flow_run":
            return self._create(body)
        if path.endswith("/set_state"):
            return self._set_state(path.split("/")[2], body)
        if path.startswith("/work_pools/"):
            return self._pool(*path.split("/")[2:])
        lists: dict[str, Callable[[dict[str, Any]], Any]] = {
            "/flow_runs/filter": self._filter,
            "/task_runs/filter": self._task_runs,
            "/v2/concurrency_limits/filter": lambda _: self.limits,
            "/events/filter": lambda asked: {"events": self._heartbeats(asked["filter"])[:50]},
            "/logs/filter": self._logs,
            "/artifacts/filter": self._artifacts,
        }
        return httpx.Response(200, json=lists[path](body)) if path in lists else None

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
        """Prefect's rules, as far as they are met here: 201 whatever it thinks of it."""
        run = self.flow_runs.get(run_id)
        if run is None:
            return None
        now, wanted = run["state"]["type"], body["state"]
        kind, status = wanted["type"], "ACCEPT"
        transition = wanted.get("state_details", {}).get("transition_id")
        if body.get("force"):
            self._moved(run, wanted)
        elif transition is not None and transition == run.get("transition_id"):
            status = "REJECT"
        elif now in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} and (
            kind in {"CANCELLING", "CRASHED", "PAUSED"} or (kind == "SCHEDULED" and run["deployment_id"] is None)
        ):
            status = "ABORT"
        elif now == "CANCELLING" and kind != "CANCELLED":
            status = "REJECT"
        elif kind == "CANCELLING" and now == "SCHEDULED" and not run.get("infrastructure_pid"):
            status = "REJECT"
            self.move(run_id, "CANCELLED")
        else:
            self._moved(run, wanted)
        details = {"type": f"{status.lower()}_details"} | ({} if status == "ACCEPT" else {"reason": "as it is"})
        return httpx.Response(201, json={"state": run["state"], "status": status, "details": details})

    def _moved(self, run: dict[str, Any], wanted: dict[str, Any]) -> None:
        self.move(run["id"], wanted["type"], name=wanted.get("name"), message=wanted.get("message"))
        run["transition_id"] = wanted.get("state_details", {}).get("transition_id")
        run["next_scheduled_start_time"] = run["state"]["timestamp"] if wanted["type"] == "SCHEDULED" else None

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
