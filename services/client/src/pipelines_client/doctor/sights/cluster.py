"""The cluster of a context, and in it the release: objects as the API server has them, and who may not see which."""

import contextlib
import json
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines_client.doctor.sights import Memory, Unseen, remembered
from pipelines_client.errors import ClientError, NotAllowed, NotFound

if TYPE_CHECKING:
    from pipelines_client.forward import Cluster, Service

Object = dict[str, Any]
T = TypeVar("T")

NAME = "app.kubernetes.io/name"
INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"
FLOW_RUN = "prefect.io/flow-run-id"
# Of an object its metadata alone: what a Secret holds stays in the cluster.
WITHOUT_DATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
COLLECTIONS = {
    "pods": "/api/v1",
    "services": "/api/v1",
    "events": "/api/v1",
    "configmaps": "/api/v1",
    "persistentvolumeclaims": "/api/v1",
    "resourcequotas": "/api/v1",
    "secrets": "/api/v1",
    "deployments": "/apis/apps/v1",
    "statefulsets": "/apis/apps/v1",
    "jobs": "/apis/batch/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
}


class ClusterSight(Memory):
    """What is known of the cluster. Every property raises what `Cluster` does, and Unseen."""

    def __init__(self, *, context: str | None = None, namespace: str | None = None) -> None:
        super().__init__()
        self._context = context
        self._wanted = namespace

    @remembered
    def cluster(self) -> "Cluster":
        """The way to it."""
        from pipelines_client.forward import Cluster  # noqa: PLC0415 -- its import takes longer than most commands

        return Cluster(self._context, say=lambda _: None)

    @remembered
    def version(self) -> Object:
        """The API server's version: it answers."""
        told: Object = self.cluster.read("/version")
        return told

    @remembered
    def service(self) -> "Service":
        """The orchestrator's Service, by which the release is found."""
        try:
            found: Service = self.cluster.service("orchestrator", namespace=self._wanted)
        except NotAllowed as exc:
            where = f"in namespace {self._wanted or self.cluster.namespace}, and in the whole cluster"
            raise Unseen("list", f"services {where}", command="kubectl auth can-i list services") from exc
        return found

    def settle(self) -> None:
        """Look for the release, so that `namespace` is its own; where none is found, it stays the context's."""
        with contextlib.suppress(ClientError, Unseen):
            _ = self.service

    @property
    def namespace(self) -> str:
        """The release's namespace; where it would be, before an install."""
        found = self._had("service")
        return str(found.namespace) if found is not None else self._wanted or self.cluster.namespace

    @property
    def instance(self) -> str:
        """The release's name; `pipelines` while none is found."""
        found = self._had("service")
        return str(found.instance) if found is not None else "pipelines"

    @property
    def prefix(self) -> str:
        """What the names of the release's objects begin with."""
        found = self._had("service")
        return str(found.name).removesuffix("-orchestrator") if found is not None else "pipelines"

    @property
    def kubectl(self) -> str:
        """How a command for this context and namespace begins."""
        return self._begun("kubectl", "--context")

    @property
    def helm(self) -> str:
        """How one of helm begins."""
        return self._begun("helm", "--kube-context")

    def _begun(self, command: str, option: str) -> str:
        cluster = self._had("cluster")
        if cluster is None:
            return command
        return f"{command} {option} {shlex.quote(cluster.context)} --namespace {shlex.quote(self.namespace)}"

    @remembered
    def namespace_itself(self) -> Object | None:
        """The namespace's own object, None where it is yet to be made."""
        try:
            told: Object = self._get(f"/api/v1/namespaces/{self.namespace}", "get", "namespaces")
        except NotFound:
            return None
        return told

    def listed(
        self, kind: str, *, selector: str = "", whole: bool = False, accept: str = "application/json"
    ) -> list[Object]:
        """The objects of a kind in the release's namespace: those of the release, or all with `whole`."""
        wanted = "" if whole else selector or f"{INSTANCE}={self.instance}"
        path = f"{COLLECTIONS[kind]}/namespaces/{self.namespace}/{kind}"
        query = {"labelSelector": wanted} if wanted else {}

        def read() -> list[Object]:
            told = self._asked("list", kind, lambda: self.cluster.read(path, accept=accept, **query))
            return list(told["items"])

        return self.once((kind, wanted, accept), read)

    def component(self, kind: str, component: str) -> list[Object]:
        """Those of one part."""
        return [one for one in self.listed(kind) if labels(one).get(COMPONENT) == component]

    @property
    def pods(self) -> list[Object]:
        """The release's pods, those of flow runs included, that are not over."""
        return [one for one in self.listed("pods") if one["status"].get("phase") not in {"Succeeded", "Failed"}]

    @property
    def workloads(self) -> list[Object]:
        """Its Deployments and StatefulSets."""
        return [*self.listed("deployments"), *self.listed("statefulsets")]

    @remembered
    def warnings(self) -> list[Object]:
        """Warnings that Kubernetes wrote down in the namespace, oldest first; it forgets them after an hour."""
        found = [one for one in self.listed("events", whole=True) if one.get("type") == "Warning"]
        return sorted(found, key=told_at)

    @remembered
    def registration(self) -> Object | None:
        """What the values have registered with Prefect: the newest, None where there is none."""
        maps = self.component("configmaps", "registration")
        if not maps:
            return None
        newest = max(maps, key=lambda one: str(one["metadata"].get("creationTimestamp", "")))
        told: Object = json.loads(newest["data"]["registration.json"])
        return told

    @remembered
    def revisions(self) -> list[Object]:
        """The labels of Helm's records of the release, oldest first; their content stays in the cluster."""
        kept = self.listed("secrets", selector=f"owner=helm,name={self.instance}", accept=WITHOUT_DATA)
        return sorted(map(labels, kept), key=lambda one: int(one.get("version", 0)))

    def keys(self, secret: str) -> set[str] | None:
        """The keys of a Secret, None where there is none. What they hold is let go of at once."""

        def read() -> set[str] | None:
            try:
                told = self._get(f"/api/v1/namespaces/{self.namespace}/secrets/{secret}", "get", "secrets")
            except NotFound:
                return None
            return set(told.get("data") or {})

        return self.once(("secret", secret), read)

    def log(self, pod: str, container: str, *, lines: int, previous: bool = False) -> str:
        """The end of a container's log; with `previous` of the one that ran before it."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log"
        query = {"container": container, "tailLines": str(lines)} | ({"previous": "true"} if previous else {})
        told: str = self._asked("get", "pods/log", lambda: self.cluster.text(path, **query))
        return told

    def nodes(self) -> list[Object]:
        """The cluster's nodes."""
        return list(self._get("/api/v1/nodes", "list", "nodes", everywhere=True)["items"])

    def classes(self) -> list[Object]:
        """Its StorageClasses."""
        path = "/apis/storage.k8s.io/v1/storageclasses"
        return list(self._get(path, "list", "storageclasses", everywhere=True)["items"])

    def volumes(self, node: str) -> list[Object]:
        """What the node's kubelet says of each pod's volumes."""
        told = self._get(f"/api/v1/nodes/{node}/proxy/stats/summary", "get", "nodes/proxy", everywhere=True)
        return [volume for pod in told.get("pods", ()) for volume in pod.get("volume", ())]

    def _get(self, path: str, verb: str, kind: str, *, everywhere: bool = False) -> Any:
        return self.once(path, lambda: self._asked(verb, kind, lambda: self.cluster.read(path), everywhere=everywhere))

    def _asked(self, verb: str, kind: str, read: Callable[[], T], *, everywhere: bool = False) -> T:
        try:
            return read()
        except NotAllowed as exc:
            where = "in the cluster" if everywhere else f"in namespace {self.namespace}"
            raise Unseen(verb, f"{kind} {where}", command=f"{self.kubectl} auth can-i {verb} {kind}") from exc


def labels(one: Object) -> dict[str, str]:
    """An object's labels."""
    found: dict[str, str] = one["metadata"].get("labels") or {}
    return found


def name(one: Object) -> str:
    """An object's name."""
    return str(one["metadata"]["name"])


def told_at(event: Object) -> str:
    """When an event was last told, to sort by."""
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")
