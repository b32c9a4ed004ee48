"""Who may do what, who may speak to whom, and where no credential is, each asked of the cluster itself."""

import json
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import pytest

from .platform import Kubectl, Platform, Release, eventually

READY_SECONDS = 90
STRANGE_NAMESPACE = "test-strangers"

# Every right in the namespace that a service account has; what Kubernetes gives to everybody is left out.
WORKER = {("batch/jobs", verb) for verb in ("create", "delete", "get", "list", "watch")} | {
    ("pods", "list"),
    ("pods", "watch"),
    ("pods/log", "get"),
}
ORCHESTRATOR = {("batch/jobs", verb) for verb in ("delete", "get", "list", "watch")} | {
    (resource, verb) for resource in ("pods", "events") for verb in ("get", "list", "watch")
}
RIGHTS: dict[str, set[tuple[str, str]]] = {"worker": WORKER, "orchestrator": ORCHESTRATOR}

PORTS = {"orchestrator": 8080, "prefect-server": 4200, "postgresql": 5432, "source": 8090}
API_SERVER = "kubernetes-api"
# The picture's arrows from pods that can be made here: by the part whose labels they carry.
ARROWS = {
    "flow-run": {"prefect-server", "postgresql", "source"},
    "worker": {"prefect-server", API_SERVER},
    "orchestrator": {"prefect-server", "postgresql", API_SERVER},
    "prefect-server": {"postgresql"},
    "postgresql": set(),
    "source": set(),
    "registration": {"prefect-server", "postgresql"},
    "orchestrator-migration": {"postgresql"},
    "prefect-migration": {"postgresql"},
    "unheard-of": set(),
}

# Tries every address at once: a way that is closed answers nothing, and would otherwise be waited for one by one.
CONNECT = """
import asyncio, json, sys
async def one(name, host, port):
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 4)
        writer.close()
        return name
    except (OSError, TimeoutError):
        return None
async def main():
    found = await asyncio.gather(*(one(*target) for target in json.loads(sys.argv[1])))
    print(json.dumps([name for name in found if name]))
asyncio.run(main())
"""


def accounts(kubectl: Kubectl, release: Release) -> list[str]:
    return [
        account["metadata"]["name"]
        for account in kubectl.items("serviceaccounts", "--selector", f"app.kubernetes.io/instance={release.name}")
    ]


def rights(kubectl: Kubectl, account: str) -> set[tuple[str, str]]:
    """What a service account may do in the namespace, by the cluster's own answer."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": kubectl.namespace},
    }
    user = f"system:serviceaccount:{kubectl.namespace}:{account}"
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{kubectl.namespace}", "system:authenticated")
    answer = json.loads(
        kubectl(
            *("create", "--as", user, *(f"--as-group={group}" for group in groups)),
            *("--validate=false", "--output", "json", "--filename", "-"),
            stdin=json.dumps(review),
        )
    )["status"]
    assert not answer["incomplete"], answer
    found = {
        (f"{group}/{resource}".lstrip("/"), verb)
        for rule in answer["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    return {(resource, verb) for resource, verb in found if "selfsubject" not in resource}


def test_each_part_has_exactly_its_rights(kubectl: Kubectl, release: Release) -> None:
    """Asked of the cluster for every service account of the release: the two Roles, and nothing for anybody else."""
    names = accounts(kubectl, release)
    assert len(names) >= 6
    table = {name: rights(kubectl, name) for name in [*names, "default"]}
    assert table == {
        name: RIGHTS.get(name.removeprefix(f"{release.name}-"), set()) if name != "default" else set() for name in table
    }


def test_no_part_has_a_right_in_another_namespace(kubectl: Kubectl, release: Release) -> None:
    """Nor over the cluster: nothing beyond what every account has is granted elsewhere."""
    elsewhere = Kubectl(kubectl.context, "kube-system")
    for name in accounts(kubectl, release):
        user = f"system:serviceaccount:{kubectl.namespace}:{name}"
        for verb, resource in (("list", "pods"), ("get", "secrets"), ("create", "jobs.batch"), ("list", "nodes")):
            command = elsewhere.command("auth", "can-i", verb, resource, "--as", user)
            assert _says(command) == "no", (name, verb, resource)
    user = f"system:serviceaccount:{kubectl.namespace}:{release.name}-worker"
    assert _says(kubectl.command("auth", "can-i", "create", "jobs.batch", "--as", user)) == "yes"


def _says(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.strip()


def etl_image(kubectl: Kubectl) -> str:
    """The image that the release's registration runs: it has Python, and is on every node already."""
    [job, *_] = [job for job in kubectl.items("jobs") if "-register-" in job["metadata"]["name"]]
    return str(job["spec"]["template"]["spec"]["containers"][0]["image"])


def pod(name: str, image: str, labels: dict[str, str]) -> dict[str, Any]:
    """A `restricted` pod that stays, to be asked things by `kubectl exec`."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {**labels, "test.pipelines/prober": "yes"}},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "prober",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["sleep", "1200"],
                    "resources": {"requests": {"cpu": "1m", "memory": "16Mi"}, "limits": {"memory": "256Mi"}},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }


@pytest.fixture(scope="module")
def probers(kubectl: Kubectl, release: Release) -> Iterator[dict[str, tuple[Kubectl, str]]]:
    """A pod with each part's labels and none of its rights, one without labels, and one in another namespace."""
    image = etl_image(kubectl)
    strange = Kubectl(kubectl.context, STRANGE_NAMESPACE)
    made: dict[str, tuple[Kubectl, str]] = {}
    objects = []
    for part in ARROWS:
        labels = {"app.kubernetes.io/instance": release.name, "app.kubernetes.io/component": part}
        objects.append(pod(f"test-prober-{part}", image, labels))
        made[part] = (kubectl, f"test-prober-{part}")
    objects.append(pod("test-prober-stranger", image, {}))
    made["a stranger"] = (kubectl, "test-prober-stranger")
    made["a stranger elsewhere"] = (strange, "test-prober-elsewhere")
    kubectl("create", "namespace", STRANGE_NAMESPACE)
    try:
        kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
        # With the labels of a flow pod: what selects it is the namespace, too.
        labels = {"app.kubernetes.io/instance": release.name, "app.kubernetes.io/component": "flow-run"}
        strange("apply", "-f", "-", stdin=json.dumps(pod("test-prober-elsewhere", image, labels)))
        for where, name in made.values():
            where("wait", "--for=condition=Ready", f"pod/{name}", f"--timeout={READY_SECONDS}s")
        yield made
    finally:
        kubectl("delete", "pods", "--selector", "test.pipelines/prober=yes", "--wait=false")
        kubectl("delete", "namespace", STRANGE_NAMESPACE, "--wait=false")


def targets(kubectl: Kubectl, release: Release) -> list[tuple[str, str, int]]:
    """Every door of the release and the API server, by address: whether a name is found is not the question."""
    found = [
        (part, str(kubectl.get("service", f"{release.name}-{part}")["spec"]["clusterIP"]), port)
        for part, port in PORTS.items()
    ]
    server = Kubectl(kubectl.context, "default").get("service", "kubernetes")["spec"]
    return [*found, (API_SERVER, str(server["clusterIP"]), 443)]


def reached(prober: tuple[Kubectl, str], wanted: list[tuple[str, str, int]]) -> set[str]:
    where, name = prober
    answer = where("exec", name, "--", "python", "-c", CONNECT, json.dumps(wanted))
    return set(json.loads(answer))


def test_every_arrow_is_open_and_every_other_closed(
    kubectl: Kubectl, release: Release, probers: dict[str, tuple[Kubectl, str]]
) -> None:
    """From pods with each part's labels to every part's port: the picture's arrows, and nothing else."""
    doors = targets(kubectl, release)

    def as_drawn() -> bool:
        # a policy takes a moment to reach the node's rules after a pod is there
        return all(reached(probers[part], doors) == open_ for part, open_ in ARROWS.items())

    try:
        eventually(as_drawn, within=60, every=2, what="the network is as the picture draws it")
    except AssertionError:
        assert {part: reached(probers[part], doors) for part in ARROWS} == ARROWS
        raise


@pytest.mark.parametrize("who", ["a stranger", "a stranger elsewhere"])
def test_strangers_reach_no_part(
    kubectl: Kubectl, release: Release, probers: dict[str, tuple[Kubectl, str]], who: str
) -> None:
    """Neither one without labels beside the release, nor one in another namespace with a flow pod's labels."""
    assert reached(probers[who], targets(kubectl, release)) - {API_SERVER} == set()


def test_a_flow_pods_credential_opens_the_warehouse_alone(kubectl: Kubectl, release: Release) -> None:
    """Its role may not connect to Prefect's database, nor to the ledger."""
    password = kubectl.secret(f"{release.name}-postgresql", "warehouse-password")
    ask = (
        'for database in warehouse prefect orchestrator postgres; do PGPASSWORD="$1" psql -h 127.0.0.1 -U warehouse'
        ' -d $database -Atc "select current_database()" 2>&1; done; true'
    )
    answer = kubectl("exec", f"{release.name}-postgresql-0", "--", "sh", "-c", ask, "sh", password).splitlines()
    assert answer[0] == "warehouse"
    assert sum("permission denied for database" in line for line in answer) == 3, answer


def test_a_secrets_value_is_in_a_secret_alone(kubectl: Kubectl, release: Release, platform: Platform) -> None:
    """After a run: in no Job, pod, event, ConfigMap, log, nor in helm's values and manifest outside of Secrets."""
    run_id = platform.start({"logical_date": "2013-05-05"})
    assert platform.finished(run_id, within=180)["state"] == "Completed"
    secrets = {
        b64decode(value).decode()
        for secret in kubectl.items("secrets", "--selector", f"app.kubernetes.io/instance={release.name}")
        for value in secret["data"].values()
    }
    canaries = secrets | {one.partition(":")[2] for one in secrets if one.startswith("prefect:")}
    assert len(canaries) >= 8
    kinds = "jobs,pods,events,configmaps,deployments,statefulsets,replicasets,services,serviceaccounts"
    places = {"objects": kubectl("get", kinds, "--output", "yaml"), "values": _helm(release, "values", "--all")}
    manifest = _helm(release, "manifest").split("\n---\n")
    places["manifest"] = "\n".join(one for one in manifest if "\nkind: Secret\n" not in f"\n{one}\n")
    for each in kubectl.items("pods"):
        name = each["metadata"]["name"]
        if each["status"]["phase"] in {"Running", "Succeeded", "Failed"}:
            places[f"log of {name}"] = kubectl("logs", name, "--all-containers", "--prefix=false")
    assert len(places) >= 10
    found = {place for place, text in places.items() if any(canary in text for canary in canaries)}
    assert found == set()


def _helm(release: Release, what: str, *arguments: str) -> str:
    command = ["helm", "get", what, release.name, "--namespace", release.namespace, *arguments]
    command += ["--kube-context", release.kubectl.context]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
