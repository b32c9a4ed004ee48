"""The profile `ha` with a PostgreSQL of its own: any one pod goes while runs flow, and callers notice nothing."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from .conftest import ROOT
from .platform import Kubectl, Platform, Release, eventually

NAMESPACE = "pipelines-ha"
# What URLs, shells and SQL would take for something else.
PASSWORD = "p@ss/w:rd%20#1"
READY_SECONDS = 180
RUN_SECONDS = 300
CALLS_SECONDS = 10
RUNS = 12

# One pod of each part that has any, in turn.
PARTS = ("orchestrator", "prefect-server", "prefect-services", "worker", "valkey")

# A caller inside the cluster, so that the Service, not a forward to one pod, stands between it and the API. It asks for
# a run every few seconds, under a key that makes asking again harmless, and tells each answer that it got in the end.
CALLER = """
import json, sys, time, urllib.error, urllib.request
url, runs, gap = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
for number in range(runs):
    body = json.dumps({"logical_date": f"2013-08-{number + 1:02}"}).encode()
    headers = {"content-type": "application/json", "idempotency-key": f"ha-{number}"}
    tries, status, document = 0, None, {}
    while tries < 6:
        tries += 1
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
                status, document = answer.status, json.load(answer)
                break
        except urllib.error.HTTPError as exc:
            status = exc.code
            if status < 500:
                break
        except OSError as exc:
            status = type(exc).__name__
        time.sleep(0.5 * tries)
    print(json.dumps({"status": status, "tries": tries, "run_id": document.get("run_id")}), flush=True)
    time.sleep(gap)
"""


def values() -> dict[str, Any]:
    """What the profile leaves to its user, and requests so low that it fits beside the session's release."""
    asked = {"requests": {"cpu": "10m", "memory": "64Mi"}}
    names = ("orchestrator", "prefectServer", "worker", "valkey", "source")
    parts: dict[str, dict[str, Any]] = {part: {"resources": asked} for part in names}
    parts["source"]["enabled"] = True
    parts["orchestrator"]["allowFrom"] = [{"podSelector": {"matchLabels": {"test.pipelines/part": "caller"}}}]
    return {
        **parts,
        "flowRuns": {"resources": {"requests": {"cpu": "50m", "memory": "192Mi"}, "limits": {"memory": "1Gi"}}},
        "database": {"existingSecret": "our-database"},
    }


def restricted(name: str, image: str, uid: int, command: list[str], **container: Any) -> dict[str, Any]:
    """A pod of the test's own, as the namespace admits it."""
    security = {"runAsNonRoot": True, "runAsUser": uid, "fsGroup": uid, "seccompProfile": {"type": "RuntimeDefault"}}
    one = {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        **container,
    }
    metadata = {"name": name, "labels": {"test.pipelines/part": name}}
    spec = {"automountServiceAccountToken": False, "securityContext": security, "containers": [one]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def database(kubectl: Kubectl) -> None:
    """A PostgreSQL as somebody else would run it, with the three databases and one Secret of URLs."""
    server = restricted("our-postgresql", "postgres:17", 999, ["docker-entrypoint.sh", "postgres"])
    server["spec"]["containers"][0] |= {
        "env": [{"name": "POSTGRES_PASSWORD", "value": PASSWORD}, {"name": "PGDATA", "value": "/data/pgdata"}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "run", "mountPath": "/var/run/postgresql"}],
        "readinessProbe": {"exec": {"command": ["pg_isready", "-q", "-h", "127.0.0.1"]}, "periodSeconds": 1},
    }
    server["spec"]["volumes"] = [{"name": "data", "emptyDir": {}}, {"name": "run", "emptyDir": {}}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "our-postgresql"},
        "spec": {"selector": {"test.pipelines/part": "our-postgresql"}, "ports": [{"port": 5432}]},
    }
    schemes = {"prefect": "postgresql+asyncpg", "orchestrator": "postgresql", "warehouse": "postgresql"}
    urls = {
        f"{role}-url": f"{scheme}://{role}:{quote(PASSWORD, safe='')}@our-postgresql:5432/{role}"
        for role, scheme in schemes.items()
    }
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "our-database"}, "stringData": urls}
    items = [server, service, secret]
    kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    kubectl("wait", "--for=condition=Ready", "pod/our-postgresql", f"--timeout={READY_SECONDS}s")
    statements = [
        statement
        for role in schemes
        for statement in (f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'", f"CREATE DATABASE {role} OWNER {role}")
    ]
    for statement in statements:
        psql(kubectl, "postgres", statement)
    psql(kubectl, "prefect", "CREATE EXTENSION pg_trgm")


def psql(kubectl: Kubectl, name: str, sql: str) -> list[str]:
    options = ["-h", "127.0.0.1", "-U", "postgres", "-d", name, "-v", "ON_ERROR_STOP=1", "-Atc", sql]
    return kubectl("exec", "our-postgresql", "--", "env", f"PGPASSWORD={PASSWORD}", "psql", *options).splitlines()


@pytest.fixture(scope="module")
def ha(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """The profile, installed beside the session's release."""
    path: Path = tmp_path_factory.mktemp("values") / "ha.json"
    path.write_text(json.dumps(values()))
    made = Release(cluster=release.cluster, namespace=NAMESPACE, name="pipelines", root=ROOT)
    everywhere = Kubectl(release.kubectl.context, "default")
    load = ["kind", "load", "docker-image", "--name", release.cluster, "valkey/valkey:8"]
    subprocess.run(load, check=True, capture_output=True, timeout=180)
    everywhere("create", "namespace", NAMESPACE)
    try:
        database(made.kubectl)
        made.up(ROOT / "charts" / "pipelines" / "profiles" / "ha.yaml", path)
        yield made
    except BaseException:
        print(made.diagnose())  # noqa: T201 - for the failure's report
        raise
    finally:
        everywhere("delete", "namespace", NAMESPACE, "--wait=false")


def kill(kubectl: Kubectl, release: Release, part: str) -> None:
    """One pod of a part goes at once, as with its node, and the part is whole again before the next."""
    selector = f"app.kubernetes.io/instance={release.name},app.kubernetes.io/component={part}"
    pods = [one["metadata"]["name"] for one in kubectl.items("pods", "--selector", selector)]
    kubectl("delete", "pod", pods[0], "--grace-period=0", "--force")

    def whole() -> bool:
        found = kubectl.items("pods", "--selector", selector)
        ready = [one for one in found if _ready(one) and one["metadata"]["name"] not in pods[:1]]
        # a StatefulSet's pod comes back under its name
        return len(ready) >= len(pods) or (len(pods) == 1 and any(map(_ready, found)))

    eventually(whole, within=READY_SECONDS, what=f"{part} is whole again")


def _ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def test_any_one_pod_goes_and_nothing_is_lost(ha: Release) -> None:
    """Every start is accepted within a few tries, every run ends Completed, and each day is loaded once."""
    kubectl = ha.kubectl
    url = f"http://{ha.name}-orchestrator:8080/api/etl/start"
    own = kubectl.items("deployments", f"--field-selector=metadata.name={ha.name}-orchestrator")[0]
    image = own["spec"]["template"]["spec"]["containers"][0]["image"]
    arguments = ["python", "-c", CALLER, url, str(RUNS), str(CALLS_SECONDS)]
    caller = restricted("caller", image, 10001, arguments)
    caller["spec"]["restartPolicy"] = "Never"
    kubectl("apply", "-f", "-", stdin=json.dumps(caller))
    wait = kubectl.command("wait", "--for=condition=Ready", "pod/caller", "--timeout=60s")
    subprocess.run(wait, check=True, capture_output=True)
    eventually(lambda: kubectl("logs", "caller"), within=60, what="the first run is asked for")
    for part in PARTS:
        kill(kubectl, ha, part)
    wait = kubectl.command("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/caller")
    subprocess.run([*wait, f"--timeout={RUNS * CALLS_SECONDS + 60}s"], check=True, capture_output=True)
    answers = [json.loads(line) for line in kubectl("logs", "caller").splitlines()]
    assert Counter(one["status"] for one in answers) == {202: RUNS}, answers
    with Platform.connect(ha) as platform:
        for one in answers:
            status = platform.finished(one["run_id"], within=RUN_SECONDS)
            assert (status["state"], status["state_name"]) == ("Completed", "Completed"), status
    loads = psql(kubectl, "warehouse", "SELECT run_id FROM loads")
    assert sorted(loads) == sorted(one["run_id"] for one in answers)


def test_both_replicas_of_each_api_are_on_call(ha: Release) -> None:
    """Two of what answers, guarded by a budget, and the background services once."""
    ready = {
        one["metadata"]["name"].removeprefix(f"{ha.name}-"): one["status"].get("readyReplicas", 0)
        for one in ha.kubectl.items("deployments")
    }
    assert {part: ready[part] for part in ("orchestrator", "prefect-server", "prefect-services")} == {
        "orchestrator": 2,
        "prefect-server": 2,
        "prefect-services": 1,
    }
    budgets = {one["metadata"]["name"] for one in ha.kubectl.items("poddisruptionbudgets")}
    assert budgets == {f"{ha.name}-orchestrator", f"{ha.name}-prefect-server"}
