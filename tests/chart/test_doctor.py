"""The doctor on what the chart renders: its checks read labels, arguments, rules and references as they really are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pipelines_client.doctor.catalogue import chosen
from pipelines_client.doctor.checks import Result, Side
from pipelines_client.doctor.running import run
from pipelines_client.doctor.sights import Sights
from pipelines_client.doctor.sights.cluster import ClusterSight
from pipelines_client.doctor.sights.machine import MachineSight
from pipelines_client.doctor.sights.service import ServiceSight
from pipelines_client.place import Wanted

from tests.unit.client.doctor.healthy import make_healthy, moment
from tests.unit.client.doctor.wires import Object, Wires, serving

from .conftest import EGRESS, SCENARIOS, SOURCE, Manifest, render
from .installed import NAMESPACE, placed

BUSY = 120.0
COLLECTIONS = {
    "Service": "services",
    "Deployment": "deployments",
    "StatefulSet": "statefulsets",
    "Job": "jobs",
    "ConfigMap": "configmaps",
    "NetworkPolicy": "networkpolicies",
    "Secret": "secrets",
}
# Checks of what no rendering has: nodes, quotas, Helm's records, and of the service.
OURS = frozenset(
    {"PL320", "OrchestratorDown", "PL001", "PL322", "PL323", "PL324", "PL010", "PL011", "PL014", "PL015"}
    | {"PL325", "PL326", "PL005", "PL327", "PL105"}
)


@pytest.fixture(scope="module")
def wires() -> Iterator[Wires]:
    """A cluster and an orchestrator at the wire."""
    with serving(Wires()) as wires:
        yield wires


def install(wires: Wires, objects: list[Manifest], *secrets: Object) -> None:
    """Have the cluster hold a rendering, with everything up; `secrets` are those of its user's own."""
    make_healthy(wires)
    for kind in (*COLLECTIONS.values(), "pods", "persistentvolumeclaims"):
        wires.objects[kind] = []
    for manifest in map(placed, objects):
        collection = COLLECTIONS.get(manifest["kind"])
        if collection is None:
            continue
        one: Object = {**manifest, "metadata": {**manifest["metadata"], "creationTimestamp": moment(60)}}
        if manifest["kind"] == "Secret":
            one["data"] = {**manifest.get("data", {}), **manifest.get("stringData", {})}
        if manifest["kind"] == "Job":
            one["status"] = {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}
        if collection in {"deployments", "statefulsets"}:
            one["status"] = {"availableReplicas": manifest["spec"]["replicas"]}
            wires.objects["pods"].append(_pod(one))
            wires.objects["persistentvolumeclaims"] += [_claim(one, made) for made in _templates(manifest)]
        wires.objects[collection].append(one)
    wires.objects["secrets"] += secrets


def _templates(manifest: Manifest) -> list[Manifest]:
    made: list[Manifest] = manifest["spec"].get("volumeClaimTemplates", [])
    return made


def _pod(workload: Object) -> Object:
    template = workload["spec"]["template"]
    metadata = {"name": f"{workload['metadata']['name']}-0", "namespace": NAMESPACE}
    ready = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}]
    return {
        "metadata": metadata | {"labels": template["metadata"]["labels"], "creationTimestamp": moment(60)},
        "spec": {**template["spec"], "nodeName": "node-1"},
        "status": {"phase": "Running", "conditions": ready},
    }


def _claim(workload: Object, made: Manifest) -> Object:
    """As the StatefulSet's controller makes it."""
    metadata = {"name": f"{made['metadata']['name']}-{workload['metadata']['name']}-0", "namespace": NAMESPACE}
    labels = workload["spec"]["selector"]["matchLabels"]
    return {"metadata": metadata | {"labels": labels}, "spec": made["spec"], "status": {"phase": "Bound"}}


def secret(name: str, *keys: str) -> Object:
    """One of the user's own."""
    return {"metadata": {"name": name, "namespace": NAMESPACE}, "data": dict.fromkeys(keys, "eA==")}


def told(wires: Wires, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the checks of the release say."""
    wires.kubeconfig(tmp_path / "kubeconfig")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    service = ServiceSight(Wanted(url=wires.api))
    sights = Sights(
        machine=MachineSight(folder=tmp_path),
        cluster=ClusterSight(context="here", namespace=NAMESPACE),
        service=service,
        in_cluster=True,
    )
    try:
        outcomes = dict(run(chosen(before=False, sides=frozenset(Side)), sights, seconds=BUSY, patience=BUSY))
    finally:
        service.close()
    assert set(outcomes) >= OURS
    return {name: outcome for name, outcome in outcomes.items() if name in OURS and outcome is not None}


DATABASE = secret("our-database", "prefect-url", "orchestrator-url", "warehouse-url")
POSTGRESQL = ("postgres-password", "prefect-password", "orchestrator-password", "warehouse-password")
WITH_SECRETS: dict[str, tuple[Object, ...]] = {
    "kind": (),
    "source of their own": (),
    "external database": (DATABASE,),
    "existing secrets": (secret("ours", "prefect", "prefect-url", "orchestrator-url", "warehouse-url", *POSTGRESQL),),
    "profile ha": (DATABASE,),
    "by an ingress": (secret("keys", "keys.json"),),
    "no network policies": (),
}


@pytest.mark.parametrize("scenario", WITH_SECRETS)
def test_what_the_chart_installs_passes(
    wires: Wires, scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every check of the release, in every shape in which people install it."""
    install(wires, render(SCENARIOS[scenario], release="flights"), *WITH_SECRETS[scenario])
    outcomes = told(wires, tmp_path, monkeypatch)
    assert {name: one.error for name, one in outcomes.items() if one.result is not Result.SUCCESS} == {}


def test_what_the_values_forgot_is_told(wires: Wires, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A way to the source that is none, and a Secret that nobody made."""
    elsewhere = [{**EGRESS[0], "ports": [{"port": 8443}]}]
    values = {**SCENARIOS["external database"], "flowRuns": {**SOURCE["flowRuns"], "egress": elsewhere}}
    install(wires, render(values, release="flights"))
    outcomes = told(wires, tmp_path, monkeypatch)
    wrong = {name: one.error for name, one in outcomes.items() if one.result is not Result.SUCCESS}
    assert set(wrong) == {"PL325", "PL326"}
    assert wrong["PL325"] == "Secret our-database is not there"
    assert wrong["PL326"].startswith("runs fetch from flights.example.com:443, and no rule of flights-pipelines-")
