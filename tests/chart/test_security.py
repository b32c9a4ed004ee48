"""What every rendering promises: `restricted` pods, credentials in Secrets alone, few rights, closed doors."""

import re

import pytest

from .conftest import SCENARIOS, Manifest, containers, find, flow_pod, pods, registration, render

RESTRICTED_VOLUMES = {
    "configMap",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}

RIGHTS = {
    "pipelines-worker": {
        *{("jobs", verb) for verb in ("create", "delete", "get", "list", "watch")},
        *{("pods", verb) for verb in ("list", "watch")},
        ("pods/log", "get"),
    },
    "pipelines-orchestrator": {
        *{("jobs", verb) for verb in ("delete", "get", "list", "watch")},
        *{(resource, verb) for resource in ("pods", "events") for verb in ("get", "list", "watch")},
    },
}


def test_every_pod_is_restricted(objects: list[Manifest]) -> None:
    """The PodSecurity profile `restricted`, field by field, and a read-only root file system, flow pods included."""
    for name, pod in pods(objects).items():
        spec = pod["spec"]
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= RESTRICTED_VOLUMES, name
        for container in containers(pod):
            where = f"{name}, {container['name']}"
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, where
            assert context["capabilities"] == {"drop": ["ALL"]}, where
            assert context["readOnlyRootFilesystem"] is True, where
            assert not any("hostPort" in port for port in container.get("ports", [])), where


def test_every_pod_is_sized_and_closed_to_service_links(objects: list[Manifest]) -> None:
    """Requests for CPU and memory, a memory limit, and no environment injected for other Services."""
    for name, pod in pods(objects).items():
        assert pod["spec"]["enableServiceLinks"] is False, name
        for container in containers(pod):
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), (name, container["name"])
            assert "memory" in container["resources"]["limits"], (name, container["name"])


def test_two_containers_have_a_token(objects: list[Manifest]) -> None:
    """The worker makes Jobs, the orchestrator says what holds them; its schema gate and migration have no token."""
    with_token = {name for name, pod in pods(objects).items() if pod["spec"]["automountServiceAccountToken"]}
    assert with_token == {"Deployment/pipelines-worker"}
    mounted = set()
    for name, pod in pods(objects).items():
        tokens = {
            volume["name"]
            for volume in pod["spec"].get("volumes", [])
            for source in volume.get("projected", {}).get("sources", [])
            if "serviceAccountToken" in source
        }
        for container in containers(pod):
            if tokens & {mount["name"] for mount in container.get("volumeMounts", [])}:
                mounted.add((name, container["name"]))
    assert mounted == {("Deployment/pipelines-orchestrator", "orchestrator")}
    accounts = [o for o in objects if o["kind"] == "ServiceAccount"]
    assert accounts
    assert all(account["automountServiceAccountToken"] is False for account in accounts)


def test_rights_are_namespaced_and_few(objects: list[Manifest]) -> None:
    """Two Roles: the worker's, and the orchestrator's, which can make nothing; nothing cluster-wide."""
    assert not [o for o in objects if o["kind"].startswith("ClusterRole")]
    assert {o["metadata"]["name"] for o in objects if o["kind"] == "Role"} == set(RIGHTS)
    for name, rights in RIGHTS.items():
        role = find(objects, "Role", name)
        assert rights == {
            (resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]
        }
        binding = find(objects, "RoleBinding", name)
        assert binding["roleRef"]["name"] == name
        assert [(one["kind"], one["name"], one["namespace"]) for one in binding["subjects"]] == [
            ("ServiceAccount", name, "data")
        ]


def test_no_credential_stands_outside_a_secret(objects: list[Manifest]) -> None:
    """No URL with a password, and no environment variable that holds one, but by reference to a Secret."""
    secret_names = re.compile(r"PASSWORD|AUTH_STRING$|DATABASE_URL|CONNECTION_URL|WAREHOUSE_URL|REDIS.*URL|DOCKET_URL")
    for o in objects:
        if o["kind"] != "Secret":
            assert not re.search(r"://[^/\s\"]*:[^/\s\"]*@", str(o)), o["metadata"]["name"]
    for name, pod in pods(objects).items():
        for container in containers(pod):
            for variable in container.get("env", []):
                if secret_names.search(variable["name"]):
                    assert set(variable["valueFrom"]) == {"secretKeyRef"}, (name, variable["name"])


def test_generated_secrets_are_in_no_other_object() -> None:
    """The values that the chart generates appear in their Secret alone."""
    objects = render(SCENARIOS["kind"])
    generated = {
        value
        for o in objects
        if o["kind"] == "Secret"
        for key, value in o["stringData"].items()
        if key.endswith(("-password", "auth-string"))
    }
    assert len(generated) == 5
    others = str([o for o in objects if o["kind"] != "Secret"])
    assert not [value for value in generated if value in others]


def test_nothing_is_a_cronjob_or_a_hook(objects: list[Manifest]) -> None:
    """The schedule is Prefect's; Jobs are plain, for tools that know no hooks. Only what `helm test` makes is one."""
    assert not [o for o in objects if o["kind"] == "CronJob"]
    for o in objects:
        component = o["metadata"].get("labels", {}).get("app.kubernetes.io/component")
        hook = o["metadata"].get("annotations", {}).get("helm.sh/hook")
        assert hook == ("test" if component == "test" else None), o["metadata"]["name"]


def test_services_stay_inside(objects: list[Manifest]) -> None:
    """Every Service is a ClusterIP, whatever is put before it."""
    assert all(o["spec"]["type"] == "ClusterIP" for o in objects if o["kind"] == "Service")


@pytest.mark.parametrize("scenario", sorted(set(SCENARIOS) - {"by an ingress", "by a gateway"}))
def test_nothing_is_exposed_unless_asked(scenario: str) -> None:
    assert not [o for o in render(SCENARIOS[scenario]) if o["kind"] in {"Ingress", "HTTPRoute"}]


def allowed(objects: list[Manifest]) -> set[tuple[str, str, int]]:
    """Who may reach whom on which port, by components, as the policies of both ends agree."""

    def component(peer: Manifest) -> str:
        labels = peer["podSelector"]["matchLabels"]
        assert set(labels) == {"app.kubernetes.io/instance", "app.kubernetes.io/component"}
        return str(labels["app.kubernetes.io/component"])

    outward, inward = set(), set()
    for policy in (o for o in objects if o["kind"] == "NetworkPolicy"):
        mine = policy["spec"]["podSelector"]["matchLabels"].get("app.kubernetes.io/component")
        if mine is None:
            continue
        for rule in policy["spec"].get("egress", []):
            for peer in rule.get("to", []):
                if "podSelector" in peer:
                    outward |= {(mine, component(peer), port["port"]) for port in rule["ports"]}
        for rule in policy["spec"].get("ingress", []):
            for peer in rule["from"]:
                inward |= {(component(peer), mine, port["port"]) for port in rule["ports"]}
    assert outward == inward
    return outward


def test_the_network_policies_are_the_pictures_arrows() -> None:
    """Default deny in both directions, and these arrows alone."""
    objects = render(SCENARIOS["kind"])
    deny = find(objects, "NetworkPolicy", "pipelines-default-deny")
    assert deny["spec"]["podSelector"]["matchLabels"] == {"app.kubernetes.io/instance": "pipelines"}
    assert deny["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny["spec"]
    assert allowed(objects) == {
        ("orchestrator", "prefect-server", 4200),
        ("orchestrator", "postgresql", 5432),
        ("orchestrator-migration", "postgresql", 5432),
        ("prefect-migration", "postgresql", 5432),
        ("prefect-server", "postgresql", 5432),
        ("worker", "prefect-server", 4200),
        ("flow-run", "prefect-server", 4200),
        ("flow-run", "postgresql", 5432),
        ("flow-run", "source", 8090),
        ("registration", "prefect-server", 4200),
        ("registration", "postgresql", 5432),
        ("test", "orchestrator", 8080),
    }


def test_the_broker_is_for_the_servers_processes() -> None:
    """With the background services apart and the chart's Valkey: two arrows to it, and the databases are elsewhere."""
    assert allowed(render(SCENARIOS["profile ha"])) == {
        ("test", "orchestrator", 8080),
        ("orchestrator", "prefect-server", 4200),
        ("prefect-server", "valkey", 6379),
        ("prefect-services", "valkey", 6379),
        ("worker", "prefect-server", 4200),
        ("flow-run", "prefect-server", 4200),
        ("registration", "prefect-server", 4200),
    }


def test_two_parts_reach_the_kubernetes_api() -> None:
    """It has no label to select, so by port: from the worker and the orchestrator, and from nothing else."""
    objects = render(SCENARIOS["kind"])
    reach = {
        policy["spec"]["podSelector"]["matchLabels"].get("app.kubernetes.io/component")
        for policy in objects
        if policy["kind"] == "NetworkPolicy"
        for rule in policy["spec"].get("egress", [])
        if "to" not in rule and {"port": 6443} in rule["ports"]
    }
    assert reach == {"worker", "orchestrator"}


def test_flow_pods_carry_the_labels_that_the_policies_select(objects: list[Manifest]) -> None:
    """Not app.kubernetes.io/name, which the worker overwrites."""
    labels = flow_pod(objects)["metadata"]["labels"]
    assert {name: value for name, value in labels.items() if name.startswith("app.kubernetes.io/")} == {
        "app.kubernetes.io/instance": "pipelines",
        "app.kubernetes.io/component": "flow-run",
    }


@pytest.mark.parametrize("scenario", ["kind", "existing secrets"])
def test_flow_pods_read_the_api_credential_from_the_secret(scenario: str) -> None:
    """The worker is told the Secret, so that Prefect writes a reference into the Job."""
    objects = render(SCENARIOS[scenario])
    [worker] = find(objects, "Deployment", "pipelines-worker")["spec"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable for variable in worker["env"]}
    reference = variables["PREFECT_API_AUTH_STRING"]["valueFrom"]["secretKeyRef"]
    prefix = "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET"
    assert variables[f"{prefix}_NAME"]["value"] == reference["name"]
    assert variables[f"{prefix}_KEY"]["value"] == reference["key"]


def test_the_registration_holds_no_credential(objects: list[Manifest]) -> None:
    """What is registered can be read by anybody who may read Prefect."""
    warehouse = [v for v in flow_pod(objects)["spec"]["containers"][0]["env"] if v["name"] == "ETL_WAREHOUSE_URL"]
    assert [set(variable) for variable in warehouse] == [{"name", "valueFrom"}]
    assert "password" not in str(registration(objects)).lower()
