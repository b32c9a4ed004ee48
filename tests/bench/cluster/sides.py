"""The platforms that are compared on one cluster, each asked for runs as its users ask, and what becomes of a run.

A run's times are those that Prefect keeps of its states; the cluster's pods and this machine have one clock.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from ...integration.platform import Kubectl

_MAKERS = 4
FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
_LIMITS = httpx.Limits(max_connections=64, keepalive_expiry=2)  # before the server closes an idle connection


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A flow run's end as Prefect keeps it; `at` is a moment in seconds since 1970."""

    flow_run_id: str
    state: str
    at: float


class Side(ABC):
    """A Prefect with a door at which runs are asked for. Opened before use. `server` is Prefect's Service."""

    server: str

    def __init__(self, *, cluster: str, namespace: str) -> None:
        self.kubectl = Kubectl(f"kind-{cluster}", namespace)
        self._prefect: httpx.Client | None = None

    @property
    def prefect(self) -> httpx.Client:
        """Prefect's API."""
        assert self._prefect is not None, "not opened"
        return self._prefect

    @contextmanager
    def opened(self) -> Iterator["Side"]:
        """The ways in, while the block lasts."""
        with ExitStack() as stack:
            url = stack.enter_context(self.kubectl.port_forward(f"service/{self.server}", 4200))
            client = httpx.Client(base_url=f"{url}/api", auth=self.credential(), timeout=60, limits=_LIMITS)
            self._prefect = stack.enter_context(client)
            self._enter(stack)
            yield self

    @abstractmethod
    def _enter(self, stack: ExitStack) -> None:
        """Open what else the side has."""

    @abstractmethod
    def credential(self) -> tuple[str, str] | None:
        """User and password at Prefect's API."""

    @abstractmethod
    def start(self, deployment: str, asked: dict[str, Any] | None = None) -> str:
        """Ask for a run of that deployment, with what is asked of it; what `flow_run` finds it by."""

    @abstractmethod
    def flow_run(self, asked: str) -> str | None:
        """Prefect's id of the run asked for, once there is one."""

    def ended(self, flow_run_id: str) -> Ended | None:
        """The run's end, once it has one."""
        document = self.prefect.get(f"/flow_runs/{flow_run_id}").raise_for_status().json()
        return _ended(document)

    def unended(self, deployment: str) -> int:
        """How many of a deployment's runs have not ended."""
        body = {
            "deployments": {"name": {"any_": [deployment]}},
            "flow_runs": {"state": {"type": {"not_any_": sorted(FINAL)}}},
        }
        return int(self.prefect.post("/flow_runs/count", json=body).raise_for_status().json())

    def all_ended(self, deployment: str, *, since: float) -> list[Ended]:
        """Every run of a deployment that was made since then and has ended."""
        found, offset = list[Ended](), 0
        while True:
            body = {
                "deployments": {"name": {"any_": [deployment]}},
                "flow_runs": {"state": {"type": {"any_": sorted(FINAL)}}},
                "sort": "START_TIME_ASC",
                "limit": 200,
                "offset": offset,
            }
            page = self.prefect.post("/flow_runs/filter", json=body).raise_for_status().json()
            for document in page:
                ended = _ended(document)
                if ended and datetime.fromisoformat(document["created"]).timestamp() >= since:
                    found.append(ended)
            if len(page) < body["limit"]:
                return found
            offset += len(page)

    def fill(self, deployment: str, count: int) -> None:
        """Make flow runs of a deployment, by its full name, that are Completed from the start: nobody executes them."""
        told = self.prefect.get(f"/deployments/name/{deployment}").raise_for_status().json()
        body = {"flow_id": told["flow_id"], "deployment_id": told["id"], "state": {"type": "COMPLETED"}}

        def make(_: int) -> None:
            self.prefect.post("/flow_runs/", json=body).raise_for_status()

        with ThreadPoolExecutor(_MAKERS) as makers:
            list(makers.map(make, range(count)))

    def pod(self, flow_run_id: str) -> dict[str, Any] | None:
        """The newest pod of a flow run."""
        pods = self.kubectl.items("pods", "--selector", f"prefect.io/flow-run-id={flow_run_id}")
        return max(pods, key=lambda one: str(one["metadata"]["creationTimestamp"]), default=None)


class Ours(Side):
    """The release: a run is started at the orchestrator, which answers once it is kept."""

    server = "pipelines-prefect-server"

    def __init__(self, *, cluster: str) -> None:
        super().__init__(cluster=cluster, namespace="pipelines")
        self.api = httpx.Client()

    def _enter(self, stack: ExitStack) -> None:
        url = stack.enter_context(self.kubectl.port_forward("service/pipelines-orchestrator", 8080))
        self.api = stack.enter_context(httpx.Client(base_url=url, timeout=60, limits=_LIMITS))

    def credential(self) -> tuple[str, str] | None:
        user, _, password = self.kubectl.secret("pipelines-prefect-auth", "auth-string").partition(":")
        return user, password

    def start(self, deployment: str, asked: dict[str, Any] | None = None) -> str:
        answer = self.api.post(f"/api/{deployment}/start", json=asked or {}).raise_for_status()
        return f"/api/{deployment}/status/{answer.json()['run_id']}"

    def flow_run(self, asked: str) -> str | None:
        found = self.api.get(asked).raise_for_status().json()["flow_run_id"]
        return str(found) if found else None


class Stock(Side):
    """Prefect alone: a flow run is made at its own API, by the deployment's name in the flow `trivial`."""

    server = "prefect-server"

    def __init__(self, *, cluster: str, flow: str = "trivial") -> None:
        super().__init__(cluster=cluster, namespace="stock")
        self.flow = flow
        self._ids = dict[str, str]()

    def _enter(self, stack: ExitStack) -> None:
        self._ids.clear()

    def credential(self) -> tuple[str, str] | None:
        return None

    def start(self, deployment: str, asked: dict[str, Any] | None = None) -> str:
        if deployment not in self._ids:
            found = self.prefect.get(f"/deployments/name/{self.flow}/{deployment}").raise_for_status()
            self._ids[deployment] = found.json()["id"]
        body = {"parameters": asked} if asked else {}
        path = f"/deployments/{self._ids[deployment]}/create_flow_run"
        return str(self.prefect.post(path, json=body).raise_for_status().json()["id"])

    def flow_run(self, asked: str) -> str | None:
        return asked


def _ended(document: dict[str, Any]) -> Ended | None:
    state = document["state"]
    if state is None or state["type"] not in FINAL:
        return None
    at = datetime.fromisoformat(state["timestamp"]).timestamp()
    return Ended(flow_run_id=document["id"], state=state["type"], at=at)
