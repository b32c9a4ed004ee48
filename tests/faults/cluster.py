"""Hands on the cluster: port-forwards that come back, SIGKILL from the node, connections cut, Deployments rolled."""

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..integration.platform import Kubectl, eventually

Pod = Mapping[str, Any]


class Forward:
    """A port-forward to a Service or pod, opened anew whenever it ends, always on the same local port."""

    def __init__(self, kubectl: Kubectl, target: str, port: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._command = kubectl.command("port-forward", target, f"{self.port}:{port}")
        self._closed = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep_open, name=f"forward {target}", daemon=True)

    def open(self, *, within: float = 60) -> "Forward":
        """Start it and wait until something listens."""
        self._thread.start()
        eventually(self._listens, within=within, what=f"a port-forward: {' '.join(self._command)}", every=0.2)
        return self

    def close(self) -> None:
        """End it for good."""
        self._closed.set()
        self._end()
        self._thread.join(timeout=30)

    def reopen(self) -> None:
        """Leave the pod it is bound to; the next one may be another."""
        self._end()

    def _end(self) -> None:
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def _keep_open(self) -> None:
        while not self._closed.is_set():
            self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self._process.wait()
            self._closed.wait(0.3)


@dataclass(frozen=True)
class Hands:
    """What can be done to the pods of one namespace, and to the node under them."""

    kubectl: Kubectl

    def pods(self, selector: str) -> list[Pod]:
        """The pods that are there and not on their way out."""
        # Asked of the server: after hours of runs a thousand have ended, and to read them takes longer than a run.
        there = ("--field-selector", "status.phase!=Succeeded,status.phase!=Failed")
        found = self.kubectl.items("pods", "--selector", selector, *there)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def kill(self, pod: Pod) -> bool:
        """SIGKILL the first process of a pod's container, from the node; False where it has none any more."""
        statuses = pod["status"].get("containerStatuses") or []
        ids = [one["containerID"].removeprefix("containerd://") for one in statuses if "running" in one["state"]]
        done = [
            self.on_node(pod, "ctr", "--namespace", "k8s.io", "task", "kill", "--signal", "SIGKILL", one) for one in ids
        ]
        return any(one.returncode == 0 for one in done)

    def on_node(self, pod: Pod, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the node of a pod: kind's nodes are containers of their names."""
        node = pod["spec"]["nodeName"]
        return subprocess.run(["docker", "exec", node, *command], capture_output=True, text=True, check=False)

    def evict(self, pod: Pod) -> bool:
        """Ask for the pod's eviction, as a node drain does; False where it is gone."""
        name = pod["metadata"]["name"]
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        path = f"/api/v1/namespaces/{self.kubectl.namespace}/pods/{name}/eviction"
        command = self.kubectl.command("create", "--raw", path, "--filename", "-")
        done = subprocess.run(command, input=json.dumps(body), capture_output=True, text=True, check=False)
        return done.returncode == 0

    def forget_connections(self, sources: Iterable[Pod], targets: Iterable[str]) -> None:
        """Make the node forget what goes on between pods and addresses.

        A policy decides about connections when they begin. One that is forgotten begins anew with its next packet.
        """
        targets = list(targets)
        for pod in sources:
            for target in targets:
                source = pod["status"].get("podIP")
                if source:
                    self.on_node(pod, "conntrack", "--delete", "--orig-src", source, "--reply-src", target)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        for one in objects:
            self.kubectl("apply", "--filename", "-", stdin=json.dumps(one))

    def change(self, name: str, edit: Callable[[dict[str, Any]], None]) -> None:
        """Change an object, `kind/name`, in place.

        In the release's own name: what somebody else had changed, the next `helm upgrade` would refuse to change.
        """
        changed = self.kubectl.get(name)
        changed.pop("status", None)
        changed["metadata"] = {key: changed["metadata"].get(key, {}) for key in ("name", "labels", "annotations")}
        edit(changed)
        command = ("apply", "--server-side", "--force-conflicts", "--field-manager=helm", "--filename", "-")
        self.kubectl(*command, stdin=json.dumps(changed))

    def delete(self, *names: str) -> None:
        """Delete objects by `kind/name`; absent ones are as good as deleted."""
        self.kubectl("delete", "--ignore-not-found", "--wait=false", *names)

    def roll(self, *deployments: str, within: float = 180) -> None:
        """Replace the pods of Deployments at once, and wait for the new ones: no back-off of earlier kills is left."""
        for name in deployments:
            selector = selector_of(self.kubectl.get("deployment", name))
            self.kubectl("delete", "pods", "--selector", selector, "--wait=true", "--grace-period=5")
        self.ready(*deployments, within=within)

    def ready(self, *deployments: str, within: float = 180) -> None:
        """Wait until Deployments have the pods they want."""
        for name in deployments:
            self.kubectl("rollout", "status", f"deployment/{name}", f"--timeout={within:g}s")


def selector_of(workload: Mapping[str, Any]) -> str:
    """The label selector of a Deployment or StatefulSet, as kubectl takes it."""
    return ",".join(f"{key}={value}" for key, value in workload["spec"]["selector"]["matchLabels"].items())


def is_running(pod: Pod) -> bool:
    """Whether a pod's container runs now."""
    return any("running" in one["state"] for one in pod["status"].get("containerStatuses") or [])


def pause(seconds: float) -> None:
    """Let a fault last; the one place where time simply passes."""
    time.sleep(seconds)
