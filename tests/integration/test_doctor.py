"""The doctor on a real cluster: a release that is up passes, and what is taken away is told by its own check."""

import json
import subprocess
import sys
from typing import Any

from .platform import Kubectl, eventually

CLUSTER_SIDE = ("kubernetes", "release", "pods", "wiring")
SERVICE_SIDE = ("service", "prefect")


def doctor(kubectl: Kubectl, *categories: str) -> tuple[int, dict[str, Any]]:
    """The command's exit code, and what it says of each check."""
    only = [word for category in categories for word in ("--category", category)]
    place = ("--context", kubectl.context, "--namespace", kubectl.namespace)
    command = [sys.executable, "-m", "pipelines_client", "doctor", "--json", "--timeout", "100", *place, *only]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    return done.returncode, {one["id"]: one for category in told["categories"] for one in category["checks"]}


def failed(results: dict[str, Any]) -> dict[str, str]:
    return {name: one["error"] for name, one in results.items() if one["result"] == "error"}


def test_a_release_that_is_up_passes(kubectl: Kubectl) -> None:
    """Every look at the cluster and, by a port-forward of its own, at the service."""
    code, results = doctor(kubectl, *CLUSTER_SIDE, *SERVICE_SIDE)
    assert (code, failed(results)) == (0, {})
    passed = {name for name, one in results.items() if one["result"] == "success"}
    assert {"PL311", "PL314", "PL320", "PL321", "PL001", "PL322", "PL324", "PL011", "PL015"} <= passed
    assert {"PL325", "PL326", "PL005", "PL330", "PL331", "PL332", "PL017", "PL337"} <= passed


def test_a_worker_that_is_gone_is_told(kubectl: Kubectl) -> None:
    """By the id that the reason of its runs has, and by a command that brings it back."""
    [worker] = kubectl.items("deployments", "--selector", "app.kubernetes.io/component=worker")
    name = worker["metadata"]["name"]
    kubectl("scale", f"deployment/{name}", "--replicas=0")
    try:
        told = eventually(lambda: failed(doctor(kubectl, "release")[1]), within=60, what="the doctor misses the worker")
        assert told == {"PL001": f"Deployment {name} is scaled to 0"}
        hint = doctor(kubectl, "release")[1]["PL001"]["hint"]
    finally:
        kubectl("scale", f"deployment/{name}", "--replicas=1")
        kubectl("rollout", "status", f"deployment/{name}", "--timeout=170s")
    assert hint.startswith(f"kubectl --context {kubectl.context} --namespace {kubectl.namespace} scale deployment")
