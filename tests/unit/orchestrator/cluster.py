"""Kubernetes' side of the wire: enough of its API, in memory and on a real port, to fail on demand."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from aiohttp import web
from kubernetes.aio.client import Configuration
from orchestrator import kubernetes_api
from orchestrator.kubernetes_api import KubernetesApi
from orchestrator.resilience import Guard, Limits

NAMESPACE = "flows"
TOKEN = "first-token"
LABEL = "prefect.io/flow-run-id"
COLLECTIONS = {
    f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs": "jobs",
    f"/api/v1/namespaces/{NAMESPACE}/pods": "pods",
    f"/api/v1/namespaces/{NAMESPACE}/events": "events",
}

Object = dict[str, Any]
Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def refusal(status: int, message: str, **headers: str) -> web.Response:
    """How Kubernetes says no."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": status}
    return web.json_response(body, status=status, headers=headers)


def saying(status: int, message: str, **headers: str) -> Fault:
    """One answer to everything."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return refusal(status, message, **headers)

    return answer


async def silent(request: web.Request) -> web.StreamResponse:
    """Never an answer."""
    await asyncio.sleep(3600)
    raise AssertionError("nobody waits that long")


@asynccontextmanager
async def speaking_to(cluster: "ClusterWire | None") -> AsyncIterator[KubernetesApi | None]:
    """This service's client of that cluster; None for none."""
    if cluster is None:
        yield None
        return
    guard = Guard("kubernetes", limits=Limits(attempts=1, failures_to_open=10**6))
    async with (
        cluster.served() as configuration,
        kubernetes_api.opened(configuration, namespace=NAMESPACE, guard=guard, observe=unseen) as api,
    ):
        yield api


def unseen(operation: str, outcome: str, seconds: float) -> None:
    """Nobody counts these calls."""


class ClusterWire:
    """An API server with one namespace. Set `fault` to answer, or fail, in its place."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.token = TOKEN
        self.objects: dict[str, list[Object]] = {"jobs": [], "pods": [], "events": []}
        self.requests: list[tuple[str, str]] = []

    def add_job(self, flow_run_id: str, name: str = "a-job", **status: Any) -> Object:
        """The Job that a worker made."""
        job = {"metadata": self._metadata(name, flow_run_id), "spec": {}, "status": status}
        self.objects["jobs"].append(job)
        return job

    def add_pod(self, flow_run_id: str, name: str = "a-job-x1", *, job: str = "a-job", **more: Any) -> Object:
        """The pod that the Job controller made of it; `more` goes into its status, `node` is where it is."""
        node = more.pop("node", None)
        image = more.pop("image", "pipelines-etl:1")
        pod: Object = {
            "metadata": self._metadata(name, flow_run_id) | {"ownerReferences": [{"kind": "Job", "name": job}]},
            "spec": {"containers": [{"name": "prefect-job", "image": image}]} | ({"nodeName": node} if node else {}),
            "status": {"phase": "Pending"} | more,
        }
        self.objects["pods"].append(pod)
        return pod

    def warn(self, about: Object, kind: str, reason: str, message: str) -> None:
        """An event about an object."""
        self.objects["events"].append(
            {
                "metadata": {"name": uuid4().hex, "creationTimestamp": now()},
                "involvedObject": {"kind": kind, "name": about["metadata"]["name"]},
                "type": "Warning",
                "reason": reason,
                "message": message,
                "count": 1,
                "lastTimestamp": now(),
            }
        )

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Configuration]:
        """How a client reaches it, while the block lasts."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            configuration = Configuration(host=f"http://{host}:{port}")
            configuration.api_key["BearerToken"] = f"Bearer {TOKEN}"
            yield configuration
        finally:
            await runner.cleanup()

    def _metadata(self, name: str, flow_run_id: str) -> Object:
        labels = {LABEL: flow_run_id} if flow_run_id else {}
        return {"name": name, "uid": uuid4().hex, "labels": labels, "creationTimestamp": now()}

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs))
        if self.fault is not None:
            return await self.fault(request)
        if request.headers.get("Authorization", "").lower() != f"bearer {self.token}".lower():
            return refusal(401, "Unauthorized")
        if request.method == "DELETE":
            return self._delete(request)
        kind = COLLECTIONS.get(request.path)
        if request.method != "GET" or kind is None:
            return refusal(404, "the server could not find the requested resource")
        found = [one for one in self.objects[kind] if self._is_selected(one, request)]
        return web.Response(body=json.dumps({"kind": "List", "items": found}), content_type="application/json")

    def _is_selected(self, one: Object, request: web.Request) -> bool:
        wanted = request.query.get("labelSelector", "")
        labels = one["metadata"].get("labels", {})
        among = re.fullmatch(r"(\S+) in \((.*)\)", wanted)
        if among:
            if labels.get(among[1]) not in among[2].split(","):
                return False
        elif wanted and wanted not in labels:
            return False
        fields = dict(part.split("=") for part in request.query.get("fieldSelector", "").split(",") if part)
        name = fields.pop("involvedObject.name", None)
        assert fields in ({}, {"type": "Warning"}), fields
        return name is None or one["involvedObject"]["name"] == name

    def _delete(self, request: web.Request) -> web.Response:
        folder, _, name = request.path.rpartition("/")
        jobs = self.objects["jobs"]
        job = next((one for one in jobs if one["metadata"]["name"] == name), None)
        if folder not in COLLECTIONS or job is None:
            return refusal(404, f'jobs.batch "{name}" not found')
        assert request.query["propagationPolicy"] == "Background"
        jobs.remove(job)
        pods = self.objects["pods"]
        pods[:] = [one for one in pods if one["metadata"]["ownerReferences"][0]["name"] != name]
        return web.json_response({"kind": "Status", "status": "Success"})
