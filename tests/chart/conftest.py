"""The chart rendered by helm, once for each set of values."""

import functools
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "pipelines"
KIND = ROOT / "k8s" / "kind" / "values.yaml"

Manifest = dict[str, Any]

EGRESS = [{"to": [{"ipBlock": {"cidr": "10.1.2.0/24"}}], "ports": [{"port": 443}]}]
SOURCE = {"flowRuns": {"sourceUrl": "https://flights.example.com", "egress": EGRESS}}
EXTERNAL = {"postgresql": {"enabled": False}, "database": {"existingSecret": "our-database"}}

PROXY = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}]
KEYS = {"mode": "apiKey", "apiKeys": {"existingSecret": "keys"}}


def profile(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """A profile's values, with what it leaves to its user."""
    read: dict[str, Any] = yaml.safe_load((CHART / "profiles" / f"{name}.yaml").read_text())
    return merged(read, values)


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two sets of values as helm merges them: maps by key, all else replaced."""
    both = {
        key: merged(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
        for key, value in above.items()
    }
    return below | both


# Every shape in which people install it, by name.
SCENARIOS: dict[str, Manifest] = {
    "source of their own": SOURCE,
    "kind": yaml.safe_load(KIND.read_text()),
    "external database": {**SOURCE, **EXTERNAL},
    "existing secrets": {
        **SOURCE,
        "postgresql": {"existingSecret": "ours"},
        "prefectServer": {"auth": {"existingSecret": "ours", "key": "prefect"}},
    },
    "everything set": {
        "source": {"enabled": True},
        "commonLabels": {"team": "data"},
        "images": {"registry": "registry.example.com/team", "tag": "1.2.3", "pullSecrets": [{"name": "registry"}]},
        "pods": {
            "annotations": {"example.com/cost-centre": "data"},
            "labels": {"zone": "blue", "app.kubernetes.io/component": "not to be taken over"},
            "extraEnv": [
                {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
                {"name": "DO_NOT_TRACK", "value": "yes"},
            ],
            "extraEnvFrom": [{"configMapRef": {"name": "site"}}],
            "extraVolumes": [{"name": "ca", "configMap": {"name": "site-ca"}}],
            "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/site", "readOnly": True}],
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "data", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
            ],
            "priorityClassName": "data",
        },
        "flowRuns": {
            "env": {"ETL_MAX_REJECTED_RATIO": "0.1"},
            "pod": {
                "nodeSelector": {"pool": "batch"},
                "tolerations": [{"key": "batch", "operator": "Exists"}],
                "priorityClassName": "batch",
            },
            "egress": EGRESS,
        },
        "extraObjects": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "{{ .Release.Name }}-extra"},
                "data": {"a": "b"},
            }
        ],
        "telemetry": {
            "otlpEndpoint": "http://otel-collector.monitoring:4318",
            "egress": [{"to": [{"namespaceSelector": {}}], "ports": [{"port": 4318}]}],
        },
        "orchestrator": {"replicas": 3, "allowFrom": [{"podSelector": {"matchLabels": {"app": "web"}}}]},
        "monitoring": {
            "serviceMonitor": {"enabled": True},
            "rules": {"enabled": True},
            "dashboard": {"enabled": True},
        },
    },
    "profile dev": profile("dev", {}),
    "profile small": profile("small", SOURCE),
    "profile ha": profile("ha", {**SOURCE, "database": {"existingSecret": "our-database"}}),
    "a broker of their own": {
        **SOURCE,
        "prefectServer": {"replicas": 3, "separateServices": True},
        "broker": {"existingSecret": "our-redis", "egress": EGRESS},
    },
    "by an ingress": {
        **SOURCE,
        "expose": {"by": "ingress", "host": "pipelines.example.com", "prefect": {"path": "/prefect"}},
        "orchestrator": {"auth": KEYS, "allowFrom": PROXY},
        "prefectServer": {"allowFrom": PROXY},
    },
    "by a gateway": {
        **SOURCE,
        "expose": {
            "by": "gateway",
            "host": "pipelines.example.com",
            "prefect": {"host": "prefect.example.com"},
            "gateways": [{"name": "public", "namespace": "gateways"}],
        },
        "orchestrator": {"auth": KEYS, "allowFrom": PROXY},
        "prefectServer": {"allowFrom": PROXY},
    },
    "no network policies": {**SOURCE, "networkPolicy": {"enabled": False}},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if shutil.which("helm") is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="helm is not installed"))


def run_helm(values: Manifest, *, release: str = "pipelines", chart: Path = CHART) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["helm", "template", release, str(chart), "--namespace", "data", "--values", "-"],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@functools.cache
def _rendered(values: str, release: str) -> list[Manifest]:
    done = run_helm(json.loads(values), release=release)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def render(values: Manifest, *, release: str = "pipelines") -> list[Manifest]:
    """The objects of a rendering."""
    return _rendered(json.dumps(values, sort_keys=True), release)


def refusal(values: Manifest, *, release: str = "pipelines") -> str:
    """Why helm refuses these values."""
    done = run_helm(values, release=release)
    assert done.returncode != 0, "helm accepted the values"
    return done.stderr


def find(objects: list[Manifest], kind: str, name: str) -> Manifest:
    """The one object of a kind whose name begins so."""
    [found] = [o for o in objects if o["kind"] == kind and o["metadata"]["name"].startswith(name)]
    return found


def registration(objects: list[Manifest]) -> Manifest:
    document: Manifest = json.loads(find(objects, "ConfigMap", "pipelines-register-")["data"]["registration.json"])
    return document


def flow_pod(objects: list[Manifest]) -> Manifest:
    """The pod template of a flow run's Job, from the base job template."""
    template = registration(objects)["workPool"]["baseJobTemplate"]
    pod: Manifest = template["job_configuration"]["job_manifest"]["spec"]["template"]
    return pod


def pods(objects: list[Manifest]) -> dict[str, Manifest]:
    """Every pod template by the name of what makes it, flow pods and those of `helm test` included."""
    found = {
        f"{o['kind']}/{o['metadata']['name']}": o if o["kind"] == "Pod" else o["spec"]["template"]
        for o in objects
        if o["kind"] in {"Deployment", "StatefulSet", "Job", "Pod"}
    }
    return {**found, "flow run": flow_pod(objects)}


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


@pytest.fixture(params=SCENARIOS, scope="session")
def objects(request: pytest.FixtureRequest) -> list[Manifest]:
    """The objects of each scenario in turn."""
    return render(SCENARIOS[request.param])
