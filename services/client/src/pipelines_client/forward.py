"""A port of this machine that leads to a Service of the cluster, as `kubectl port-forward` opens one.

The one place that speaks to Kubernetes. Its client takes a while to import: only who needs the cluster imports this.
"""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Any

from kubernetes import client, config
from kubernetes.config import ConfigException
from kubernetes.stream import portforward
from urllib3.exceptions import HTTPError

from pipelines_client.errors import Misused, NotAllowed, NotFound, Unreachable

CHART = "pipelines"
CHUNK = 65536
LABEL = "app.kubernetes.io"
HOST = "127.0.0.1"
SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Service:
    """A Service of the release."""

    name: str
    namespace: str
    instance: str
    port: int
    target: str | int
    selector: str


class Cluster:
    """The cluster of a context of the kubeconfig."""

    def __init__(self, context: str | None = None, *, say: Callable[[str], None]) -> None:
        """`context`: the current one where none is named. `say` is told of a connection that leads nowhere.

        Raises Unreachable where no cluster is known, Misused where there is no such context.
        """
        self._say = say
        try:
            file = os.environ.get("KUBECONFIG")
            contexts, current = config.list_kube_config_contexts(file)  # type: ignore[no-untyped-call]
            chosen = next((one for one in contexts if one["name"] == context), None) if context else current
            if chosen is None:
                raise Misused(f"the kubeconfig has no context {context}", hint="kubectl config get-contexts")
            self._configuration = client.Configuration()
            config.load_kube_config(  # type: ignore[no-untyped-call]
                file, context=chosen["name"], client_configuration=self._configuration
            )
        except ConfigException as exc:
            raise Unreachable(f"no cluster is known here: {exc}") from exc
        self._configuration.retries = False
        self.context = str(chosen["name"])
        self.namespace = str(chosen["context"].get("namespace") or "default")

    def service(self, component: str, *, namespace: str | None = None, instance: str | None = None) -> Service:
        """The release's Service of that component: in `namespace`, else in the context's, else in the whole cluster.

        Raises NotFound, and Misused where several could be meant.
        """
        labels = {"name": CHART, "component": component} | ({"instance": instance} if instance else {})
        selector = ",".join(f"{LABEL}/{name}={value}" for name, value in labels.items())
        found = self._services(selector, namespace or self.namespace)
        if not found and namespace is None:
            found = self._services(selector, None)
        if not found:
            where = f"namespace {namespace}" if namespace else "any namespace"
            raise NotFound(
                f"{where} of context {self.context} has no Service with the labels {selector}",
                hint="install the chart, or name the API with --url, --context or --namespace",
            )
        if len(found) > 1:
            names = ", ".join(f"{one.namespace}/{one.name}" for one in found)
            raise Misused(f"there are several: {names}", hint="choose one with --namespace, or with --url")
        return found[0]

    def read(self, path: str, *, accept: str = "application/json", **query: str) -> Any:
        """What the cluster's API has at a path, as JSON.

        Raises NotAllowed, NotFound, Unreachable.
        """
        return self._called("GET", path, accept=accept, query=query)

    def text(self, path: str, **query: str) -> str:
        """What it has there, as text: a container's log. Raises NotAllowed, NotFound, Unreachable."""
        return str(self._called("GET", path, accept="*/*", query=query, parse=bytes.decode))

    def may(self, verb: str, resource: str, *, group: str = "", namespace: str | None = None) -> bool:
        """Whether this user may do so: the cluster's own answer, of which nothing is kept there."""
        asked = {"verb": verb, "resource": resource, "group": group} | ({"namespace": namespace} if namespace else {})
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        body = review | {"spec": {"resourceAttributes": asked}}
        answer = self._called("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body)
        return bool(answer["status"]["allowed"])

    def _called(
        self,
        method: str,
        path: str,
        *,
        accept: str = "application/json",
        query: Mapping[str, str] | None = None,
        body: Any = None,
        parse: Callable[[bytes], Any] = json.loads,
    ) -> Any:
        with _named(self.context, f"{method} {path}"):
            api = self._reading
            asked = api.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params={"Accept": accept, "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = api.call_api(*asked, _request_timeout=SECONDS)
            told = answer.read()
            if answer.status == HTTPStatus.NOT_FOUND:
                raise NotFound(f"the cluster of context {self.context} has nothing at {path}")
            if answer.status >= HTTPStatus.BAD_REQUEST:
                raise client.ApiException(status=answer.status, reason=answer.reason)
            return parse(told)

    @cached_property
    def _reading(self) -> Any:
        """One pool of connections for all that is read; ways into pods borrow theirs."""
        return client.ApiClient(self._configuration)

    @contextlib.contextmanager
    def forwarded(self, service: Service, *, port: int = 0) -> Iterator[int]:
        """A port of this machine that leads to the Service while the block lasts: `port`, or any that is free."""
        with contextlib.closing(socket.create_server((HOST, port))) as listener:
            over = threading.Event()
            accepting = threading.Thread(target=self._accept, args=(listener, service, over), daemon=True)
            accepting.start()
            try:
                yield int(listener.getsockname()[1])
            finally:
                over.set()
                # closing does not wake who waits in accept, and the port would stay taken
                socket.create_connection(listener.getsockname()).close()
                accepting.join()

    def _accept(self, listener: socket.socket, service: Service, over: threading.Event) -> None:
        while True:
            here, _ = listener.accept()
            if over.is_set():
                here.close()
                return
            threading.Thread(target=self._carry, args=(here, service), daemon=True).start()

    def _carry(self, here: socket.socket, service: Service) -> None:
        """One connection. Each has a way of its own to a pod that is ready now: pods come and go."""
        with contextlib.closing(here):
            try:
                there = self._dial(service)
            except (NotAllowed, Unreachable) as exc:
                self._say(str(exc))
                return
            with contextlib.closing(there):
                back = threading.Thread(target=_pump, args=(there, here), daemon=True)
                back.start()
                _pump(here, there)
                back.join()

    def _dial(self, service: Service) -> Any:
        pod, port = self._pod(service)
        with _named(self.context, f"open a way into pod {pod}"):
            # portforward borrows its client's transport for the call: no other call may share it
            core = client.CoreV1Api(client.ApiClient(self._configuration))
            way = portforward(core.connect_get_namespaced_pod_portforward, pod, service.namespace, ports=str(port))
            return way.socket(port)

    def _pod(self, service: Service) -> tuple[str, int]:
        path = f"/api/v1/namespaces/{service.namespace}/pods"
        for pod in self.read(path, labelSelector=service.selector)["items"]:
            conditions = pod["status"].get("conditions") or ()
            if any(one["type"] == "Ready" and one["status"] == "True" for one in conditions):
                return str(pod["metadata"]["name"]), _number(service.target, pod["spec"])
        raise Unreachable(
            f"no pod of Service {service.namespace}/{service.name} is ready",
            hint=f"kubectl --namespace {service.namespace} get pods --selector {service.selector}",
        )

    def ready(self, service: Service) -> None:
        """Return where a pod of the Service is ready. Raises Unreachable, NotAllowed."""
        self._pod(service)

    def _services(self, selector: str, namespace: str | None) -> list[Service]:
        where = f"/namespaces/{namespace}" if namespace else ""
        return [
            Service(
                name=one["metadata"]["name"],
                namespace=one["metadata"]["namespace"],
                instance=one["metadata"]["labels"].get(f"{LABEL}/instance", ""),
                port=one["spec"]["ports"][0]["port"],
                target=one["spec"]["ports"][0].get("targetPort") or one["spec"]["ports"][0]["port"],
                selector=",".join(f"{name}={value}" for name, value in sorted(one["spec"]["selector"].items())),
            )
            for one in self.read(f"/api/v1{where}/services", labelSelector=selector)["items"]
        ]


def _number(target: str | int, spec: Any) -> int:
    """The port of a container that a Service's target names."""
    if str(target).isdigit():
        return int(target)
    ports = [port for container in spec["containers"] for port in container.get("ports") or ()]
    return int(next(port["containerPort"] for port in ports if port.get("name") == target))


@contextlib.contextmanager
def _named(context: str, what: str) -> Iterator[None]:
    """Let the cluster's refusals and silences be this client's own errors."""
    try:
        yield
    except client.ApiException as exc:
        if exc.status in {401, 403}:
            raise NotAllowed(
                f"context {context} may not {what}: {exc.reason}",
                hint="name the namespace with --namespace, or the API with --url",
            ) from exc
        raise Unreachable(f"the cluster of context {context}: {exc.status} {exc.reason}") from exc
    except (HTTPError, OSError) as exc:
        raise Unreachable(f"the cluster of context {context} does not answer: {exc}") from exc


def _pump(source: Any, target: Any) -> None:
    """Carry bytes until the source ends, then end the target."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(CHUNK):
            target.sendall(chunk)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
