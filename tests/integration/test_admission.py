"""Every object of every installation, judged by a real API server: a dry run where only `restricted` is let in."""

import json
import subprocess
from collections.abc import Iterator

import pytest

from ..chart.conftest import SCENARIOS, Manifest, render
from ..chart.installed import flow_job
from .platform import Kubectl

NAMESPACE = "test-admission"
PRIORITY = SCENARIOS["everything set"]["pods"]["priorityClassName"]
# Kinds that another operator brings; this cluster knows none of them.
FOREIGN = {"ServiceMonitor", "PrometheusRule", "HTTPRoute"}


@pytest.fixture(scope="module")
def namespace(kubectl: Kubectl) -> Iterator[Kubectl]:
    """An empty namespace that refuses a pod which is not `restricted`."""
    everywhere = Kubectl(kubectl.context, "default")
    everywhere("create", "namespace", NAMESPACE)
    everywhere("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    everywhere("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/warn=restricted")
    inside = Kubectl(kubectl.context, NAMESPACE)
    # A bare pod is judged with its service account and its priority, which a dry run has not made.
    inside("create", "serviceaccount", "pipelines-test")
    everywhere("create", "priorityclass", PRIORITY, "--value=1")
    yield inside
    everywhere("delete", "priorityclass", PRIORITY)
    everywhere("delete", "namespace", NAMESPACE, "--wait=false")


def dry_run(kubectl: Kubectl, objects: list[Manifest]) -> subprocess.CompletedProcess[str]:
    """Let the API server judge objects, each with its defaults and admission, and keep none."""
    for each in objects:
        each["metadata"].pop("namespace", None)
    document = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    command = kubectl.command("apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename", "-")
    return subprocess.run(command, input=document, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_api_server_takes_every_object(namespace: Kubectl, scenario: str) -> None:
    """Without an unknown field, a duplicate, a deprecated version, or a pod that the namespace would refuse."""
    objects = json.loads(json.dumps([one for one in render(SCENARIOS[scenario]) if one["kind"] not in FOREIGN]))
    for each in objects:
        for subject in each.get("subjects", []):
            subject["namespace"] = NAMESPACE
    done = dry_run(namespace, objects)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    assert len(done.stdout.splitlines()) == len(objects)


async def test_the_api_server_takes_a_flow_runs_job(namespace: Kubectl) -> None:
    """As the worker would post it, from the registered template; and refuses it with the root user."""
    [config] = [one for one in render(SCENARIOS["kind"]) if "registration.json" in one.get("data", {})]
    template = json.loads(config["data"]["registration.json"])["workPool"]["baseJobTemplate"]
    job = await flow_job(template)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a-flow-run"},
        "spec": job["spec"]["template"]["spec"],
    }
    for field in ("parallelism", "completions", "serviceAccountName"):  # of Prefect, and of the release's namespace
        pod["spec"].pop(field, None)
    done = dry_run(namespace, [json.loads(json.dumps(pod))])
    assert done.returncode == 0, done.stderr
    pod["spec"]["securityContext"]["runAsNonRoot"] = False
    refused = dry_run(namespace, [pod])
    assert "violates PodSecurity" in refused.stderr
