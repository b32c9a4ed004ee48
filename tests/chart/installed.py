"""A chart's objects as a cluster would hold them: in their namespace, and with the Job of a flow run among them."""

import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from .conftest import Manifest, registration, render

NAMESPACE = "data"
# The shapes that are checked, of conftest's SCENARIOS: every part of the chart's own, and with a source of their own.
CHECKED = ("kind", "source of their own")
# Their objects belong to no namespace.
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "PriorityClass", "Namespace"}


async def flow_job(base_job_template: Manifest, **job_variables: Any) -> Manifest:
    """The Job that Prefect's own worker posts for a run with these job variables."""
    configuration = await KubernetesWorkerJobConfiguration.from_template_and_values(
        base_job_template=base_job_template,
        values=job_variables,
        client=PrefectClient("http://unused.invalid/api"),
    )
    configuration.prepare_for_flow_run(FlowRun(flow_id=uuid4(), name="brave-otter"))
    manifest: Manifest = configuration.job_manifest
    return manifest


async def ours(values: Manifest) -> list[Manifest]:
    """The objects of this chart with these values, and one run's Job."""
    objects = render(values)
    job = await flow_job(registration(objects)["workPool"]["baseJobTemplate"])
    return [*map(placed, objects), named(job)]


def theirs(chart: Path, *arguments: str) -> list[Manifest]:
    """The objects of another chart."""
    command = ["helm", "template", chart.name, str(chart), "--namespace", NAMESPACE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise SystemExit(f"{chart}: helm does not render it: {done.stderr.strip()}")
    return [placed(one) for one in yaml.safe_load_all(done.stdout) if one]


def placed(manifest: Manifest) -> Manifest:
    """The object in the namespace that helm installs it into."""
    if manifest["kind"] in CLUSTER_WIDE:
        return manifest
    return {**manifest, "metadata": {"namespace": NAMESPACE, **manifest["metadata"]}}


def named(job: Manifest) -> Manifest:
    """The Job with a name as the API server makes one of its prefix."""
    metadata = dict(job["metadata"])
    return {**job, "metadata": {"name": f"{metadata.pop('generateName')}x7k2p", **metadata}}
