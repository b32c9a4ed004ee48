"""How the tests reach a release: make, kubectl, and HTTP through port-forwards; nothing of the code under test."""

import contextlib
import json
import os
import re
import subprocess
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

T = TypeVar("T")


def eventually(probe: Callable[[], T | None], *, within: float, what: str, every: float = 0.5) -> T:
    """The probe's first answer that is not None or False.

    Raises:
        AssertionError: there was none in time; names what was awaited.
    """
    deadline = time.monotonic() + within
    while True:
        answer = probe()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(every)


def modest() -> dict[str, Any]:
    """Values with requests so low that further releases fit beside the session's on two cores; limits are as ever."""
    parts = ("orchestrator", "prefectServer", "worker", "postgresql", "source")
    asked = {part: {"resources": {"requests": {"cpu": "10m", "memory": "64Mi"}}} for part in parts}
    return {**asked, "flowRuns": {"resources": {"requests": {"cpu": "50m", "memory": "256Mi"}}}}


@dataclass(frozen=True)
class Kubectl:
    """kubectl bound to one cluster and namespace."""

    context: str
    namespace: str

    def command(self, *arguments: str) -> list[str]:
        return ["kubectl", "--context", self.context, "--namespace", self.namespace, *arguments]

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def get(self, *arguments: str) -> Any:
        return json.loads(self("get", *arguments, "--output", "json"))

    def items(self, *arguments: str) -> list[Any]:
        items: list[Any] = self.get(*arguments)["items"]
        return items

    def secret(self, name: str, key: str) -> str:
        return b64decode(self.get("secret", name)["data"][key]).decode()

    @contextlib.contextmanager
    def port_forward(self, target: str, port: int) -> Iterator[str]:
        """A base URL for a port of a Service or pod."""
        process = subprocess.Popen(
            self.command("port-forward", target, f":{port}"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            forwarded = re.search(r"127\.0\.0\.1:(\d+)", line)
            assert forwarded, f"no port-forward to {target}: {line}{process.stderr.read() if process.stderr else ''}"
            yield f"http://127.0.0.1:{forwarded[1]}"
        finally:
            process.terminate()
            process.communicate(timeout=30)


@dataclass(frozen=True)
class Release:
    """One installation of the chart on a kind cluster."""

    cluster: str
    namespace: str
    name: str
    root: Path

    @property
    def kubectl(self) -> Kubectl:
        return Kubectl(f"kind-{self.cluster}", self.namespace)

    def make(self, target: str, *, within: float, **variables: str) -> str:
        """Run a target of the Makefile for this release; its output is shown as it comes."""
        environment = {
            **os.environ,
            "CLUSTER": self.cluster,
            "NAMESPACE": self.namespace,
            "RELEASE": self.name,
            **variables,
        }
        subprocess.run(
            ["make", "--no-print-directory", target], cwd=self.root, env=environment, timeout=within, check=True
        )
        return target

    def up(self, *values: Path) -> None:
        """Install or upgrade, with further values files."""
        self.make("up", within=1500, VALUES=" ".join(map(str, values)))

    def down(self) -> None:
        self.make("down", within=120)

    def helm(self, *arguments: str, within: float) -> subprocess.CompletedProcess[str]:
        """helm bound to this release's cluster and namespace; what came of it is the caller's to judge."""
        bound = ["--kube-context", f"kind-{self.cluster}", "--namespace", self.namespace]
        return subprocess.run(["helm", *arguments, *bound], capture_output=True, text=True, timeout=within, check=False)

    def rolled_out(self, *parts: str, within: int) -> None:
        """Wait until the newest pods of these parts are the ones that serve."""
        for part in parts:
            self.kubectl("rollout", "status", f"deployment/{self.name}-{part}", f"--timeout={within}s")

    def uninstall(self) -> None:
        done = self.helm("uninstall", self.name, "--wait", "--timeout", "5m", within=330)
        assert done.returncode == 0, done.stderr

    def diagnose(self) -> str:
        """Pods, events and logs, for a failure's report."""
        done = subprocess.run(
            [self.root / "k8s" / "diagnose"],
            env={**os.environ, "CLUSTER": self.cluster, "NAMESPACE": self.namespace, "RELEASE": self.name},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.stdout + done.stderr

    def query(self, database: str, sql: str) -> list[list[str]]:
        """Rows of a query, each a list of text cells, asked inside the PostgreSQL pod."""
        pod = f"{self.name}-postgresql-0"
        out = self.kubectl(
            "exec",
            pod,
            "--",
            "psql",
            "-U",
            "postgres",
            "-d",
            database,
            "-v",
            "ON_ERROR_STOP=1",
            "-AtF",
            "\t",
            "-c",
            sql,
        )
        return [line.split("\t") for line in out.splitlines()]


@dataclass
class Platform:
    """The HTTP APIs of a release."""

    release: Release
    api: httpx.Client
    prefect: httpx.Client
    source: httpx.Client
    started: list[str] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def connect(cls, release: Release) -> Iterator["Platform"]:
        kubectl, name = release.kubectl, release.name
        limits = httpx.Limits(keepalive_expiry=2)  # before any of the servers closes an idle connection
        user, _, password = kubectl.secret(f"{name}-prefect-auth", "auth-string").partition(":")
        with (
            kubectl.port_forward(f"service/{name}-orchestrator", 8080) as api,
            kubectl.port_forward(f"service/{name}-prefect-server", 4200) as prefect,
            kubectl.port_forward(f"service/{name}-source", 8090) as source,
            httpx.Client(base_url=api, timeout=30, limits=limits) as api_client,
            httpx.Client(base_url=f"{prefect}/api", timeout=30, limits=limits, auth=(user, password)) as prefect_client,
            httpx.Client(base_url=source, timeout=30, limits=limits) as source_client,
        ):
            yield cls(release=release, api=api_client, prefect=prefect_client, source=source_client)

    def start(self, body: Mapping[str, Any] | None = None, *, pipeline: str = "etl") -> str:
        """Start a run; its run_id."""
        answer = self.api.post(f"/api/{pipeline}/start", json=body or {})
        assert answer.status_code == 202, answer.text
        document = answer.json()
        assert document["status"] == "scheduled"
        return str(document["run_id"])

    def status(self, run_id: str, *, pipeline: str = "etl") -> dict[str, Any]:
        document: dict[str, Any] = self.api.get(f"/api/{pipeline}/status/{run_id}").raise_for_status().json()
        return document

    def finished(self, run_id: str, *, within: float, pipeline: str = "etl") -> dict[str, Any]:
        """The run's status once it has ended, whichever way."""

        def ended() -> dict[str, Any] | None:
            status = self.status(run_id, pipeline=pipeline)
            return status if status["state"] in {"Completed", "Failed", "Crashed", "Cancelled"} else None

        return eventually(ended, within=within, what=f"run {run_id} of {pipeline} ended")
