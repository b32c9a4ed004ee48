"""What some faults need in place before they can happen: the fault proxy before Prefect, or before the Kubernetes API.

A kit stays while faults that need it follow one another; putting it in place rolls the parts that are to use it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import httpx

from ..integration.platform import eventually
from .cluster import Forward
from .side import Side

_SCRIPT = Path(__file__).parent / "proxy" / "proxy.py"
_CONTROL = 9000

_SECURITY = {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
_CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@dataclass
class ProxyKit(ABC):
    """The proxy in one place of one side. `name` names its objects."""

    side: Side
    name: ClassVar[str]
    port: ClassVar[int]
    _forward: Forward | None = field(default=None, init=False)

    def install(self) -> None:
        """Put it in place and wait until it passes requests."""
        script = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": self.name}}
        self.side.hands.apply(script | {"data": {"proxy.py": _SCRIPT.read_text()}}, *self.objects(), self._deployment())
        self.side.hands.ready(self.name)
        self._forward = Forward(self.side.kubectl, f"deployment/{self.name}", _CONTROL).open()
        self.switch_on()

    def remove(self) -> None:
        """Take it away."""
        self.switch_off()
        if self._forward is not None:
            self._forward.close()
        kinds = ("deployment", "service", "configmap", "secret", "networkpolicy")
        self.side.hands.delete(*(f"{kind}/{self.name}" for kind in kinds))

    def tell(self, method: str, rule: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Speak to the control port: PUT a rule, DELETE it, or GET how it goes."""
        assert self._forward is not None, "the proxy is not installed"
        url = f"http://127.0.0.1:{self._forward.port}/rule"

        def said() -> dict[str, Any] | None:
            try:
                answer = httpx.request(method, url, json=rule, timeout=10)
            except httpx.TransportError:
                return None
            document: dict[str, Any] = answer.raise_for_status().json()
            return document

        return eventually(said, within=30, what=f"the proxy {self.name} took {method} {rule or ''}")

    @abstractmethod
    def objects(self) -> list[dict[str, Any]]:
        """What is made beside the proxy's Deployment."""

    @abstractmethod
    def switch_on(self) -> None:
        """Lead the clients through it."""

    @abstractmethod
    def switch_off(self) -> None:
        """Lead them past it again."""

    @abstractmethod
    def arguments(self) -> list[str]:
        """The proxy's command line after the ports."""

    def labels(self) -> dict[str, str]:
        return {"faults": self.name}

    def volumes(self) -> dict[str, dict[str, Any]]:
        """Further volumes, by where they are mounted."""
        return {}

    def _deployment(self) -> dict[str, Any]:
        worker = self.side.kubectl.get("deployment", self.side.object_name("worker"))
        volumes = {"/proxy": {"configMap": {"name": self.name}}, **self.volumes()}
        names = {path: path.strip("/").replace("/", "-") for path in volumes}
        container = {
            "name": "proxy",
            "image": worker["spec"]["template"]["spec"]["containers"][0]["image"],  # any that has Python
            "imagePullPolicy": "IfNotPresent",
            "command": ["python", "/proxy/proxy.py", f"--port={self.port}", f"--control={_CONTROL}", *self.arguments()],
            # The release names the port of its server.
            "ports": [{"name": "http", "containerPort": self.port}, {"containerPort": _CONTROL}],
            "readinessProbe": {"tcpSocket": {"port": _CONTROL}, "periodSeconds": 1},
            "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}},
            "securityContext": _CONTAINER_SECURITY,
            "volumeMounts": [{"name": names[path], "mountPath": path, "readOnly": True} for path in volumes],
        }
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": self.name},
            "spec": {
                "selector": {"matchLabels": {"faults": self.name}},
                "template": {
                    "metadata": {"labels": self.labels()},
                    "spec": {
                        "automountServiceAccountToken": False,
                        "enableServiceLinks": False,
                        "terminationGracePeriodSeconds": 1,
                        "securityContext": _SECURITY,
                        "containers": [container],
                        "volumes": [{"name": names[path], **volume} for path, volume in volumes.items()],
                    },
                },
            },
        }


class PrefectProxy(ProxyKit):
    """Before the Prefect server: the server's Service leads to the proxy, a second Service to the server."""

    name = "faults-prefect"
    port = 4200

    def objects(self) -> list[dict[str, Any]]:
        real = self._real()
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name},
            "spec": {"selector": real, "ports": [{"port": self.port}]},
        }
        # The release denies what no arrow allows: the proxy may reach the server, and the server takes it.
        to_server = {"to": [{"podSelector": {"matchLabels": real}}], "ports": [{"port": self.port}]}
        from_proxy = {"from": [{"podSelector": {"matchLabels": {"faults": self.name}}}]}
        policy = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": self.name},
            "spec": {
                "podSelector": {"matchLabels": {"app.kubernetes.io/component": "prefect-server"}},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [from_proxy],
                "egress": [to_server],
            },
        }
        return [service, policy] if self.side.name == "ours" else [service]

    def labels(self) -> dict[str, str]:
        # What the release's policies know the server by, yet not all that its Service selects.
        policed = {key: value for key, value in self._real().items() if key.endswith(("instance", "component"))}
        return {**policed, "faults": self.name}

    def arguments(self) -> list[str]:
        return [f"--upstream={self.name}:{self.port}"]

    def switch_on(self) -> None:
        self._lead_to({"faults": self.name})

    def switch_off(self) -> None:
        self._lead_to(self._real())

    def _lead_to(self, labels: Mapping[str, str]) -> None:
        name = self.side.object_name("prefect-server")
        self.side.hands.change(f"service/{name}", lambda service: service["spec"].update(selector=dict(labels)))
        # What is connected already stays connected; new processes are not.
        self.side.hands.roll(*(self.side.object_name(part) for part in self.side.clients_of_prefect))
        self.side.forwards["api"].reopen()

    def _real(self) -> dict[str, str]:
        deployment = self.side.kubectl.get("deployment", self.side.object_name("prefect-server"))
        labels: dict[str, str] = deployment["spec"]["selector"]["matchLabels"]
        return labels


class KubernetesProxy(ProxyKit):
    """Before the Kubernetes API, for the worker alone: it is told another address, with a certificate to match."""

    name = "faults-kubernetes"
    port = 6443

    def objects(self) -> list[dict[str, Any]]:
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name},
            "spec": {"selector": {"faults": self.name}, "ports": [{"port": self.port}]},
        }
        certificate, key = self._certificate()
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self.name},
            "stringData": {"tls.crt": certificate, "tls.key": key},
        }
        return [service, secret]

    def volumes(self) -> dict[str, dict[str, Any]]:
        return {"/tls": {"secret": {"secretName": self.name}}, "/ca": {"configMap": {"name": "kube-root-ca.crt"}}}

    def arguments(self) -> list[str]:
        return [
            "--upstream=kubernetes.default.svc:443",
            "--upstream-ca=/ca/ca.crt",
            "--certificate=/tls/tls.crt",
            "--key=/tls/tls.key",
        ]

    def switch_on(self) -> None:
        self._tell_worker(
            {"name": "KUBERNETES_SERVICE_HOST", "value": self.name},
            {"name": "KUBERNETES_SERVICE_PORT", "value": str(self.port)},
        )

    def switch_off(self) -> None:
        self._tell_worker()

    def _tell_worker(self, *variables: dict[str, str]) -> None:
        def edit(deployment: dict[str, Any]) -> None:
            [container] = deployment["spec"]["template"]["spec"]["containers"]
            kept = [one for one in container["env"] if not one["name"].startswith("KUBERNETES_SERVICE_")]
            container["env"] = [*kept, *variables]

        name = self.side.object_name("worker")
        self.side.hands.change(f"deployment/{name}", edit)
        self.side.hands.ready(name)

    def _certificate(self) -> tuple[str, str]:
        """A certificate for the proxy's name, signed on the node with the cluster's own key, which stays there."""
        folder = "/tmp/faults"  # noqa: S108 - on the node
        script = f"""set -e; mkdir -p {folder}; cd {folder}
openssl req -new -newkey rsa:2048 -nodes -keyout tls.key -subj /CN={self.name} -out tls.csr 2> /dev/null
printf 'subjectAltName=DNS:{self.name}\\nbasicConstraints=CA:FALSE\\nkeyUsage=digitalSignature,keyEncipherment\\n' > ext
printf 'extendedKeyUsage=serverAuth\\nsubjectKeyIdentifier=hash\\nauthorityKeyIdentifier=keyid\\n' >> ext
pki=/etc/kubernetes/pki
openssl x509 -req -in tls.csr -CA $pki/ca.crt -CAkey $pki/ca.key -set_serial $RANDOM$RANDOM -days 2 -extfile ext \
  -out tls.crt 2> /dev/null
cat tls.crt; echo ===; cat tls.key"""
        [worker, *_] = self.side.pods("worker")
        done = self.side.hands.on_node(worker, "bash", "-c", script)
        assert done.returncode == 0, done.stderr
        certificate, _, key = done.stdout.partition("===\n")
        return certificate, key


def clear_leftovers(side: Side) -> None:
    """Take away what a series that was killed left in place."""
    there = {one["metadata"]["name"] for one in side.kubectl.items("deployments")}
    for kind in (PrefectProxy, KubernetesProxy):
        if kind.name in there:
            kind(side).remove()
