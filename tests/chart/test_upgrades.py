"""What no release may change: Kubernetes refuses to, or data and clients would be left behind."""

from .conftest import SCENARIOS, Manifest, find, render

# Selectors, claims and Service names of the release `pipelines`, as installed clusters have them. Only ever add a line.
IMMUTABLE = {
    "Deployment/pipelines-orchestrator": "orchestrator",
    "Deployment/pipelines-prefect-server": "prefect-server",
    "Deployment/pipelines-source": "source",
    "Deployment/pipelines-worker": "worker",
    "StatefulSet/pipelines-postgresql": "postgresql",
}
SERVICES = {
    "pipelines-orchestrator": 8080,
    "pipelines-postgresql": 5432,
    "pipelines-prefect-server": 4200,
    "pipelines-source": 8090,
}


def test_selectors_stay_as_installed() -> None:
    """A changed selector makes `helm upgrade` fail on every existing installation."""
    selectors = {
        f"{o['kind']}/{o['metadata']['name']}": o["spec"]["selector"]["matchLabels"]
        for o in render(SCENARIOS["kind"])
        if o["kind"] in {"Deployment", "StatefulSet"}
    }
    assert selectors == {
        name: {
            "app.kubernetes.io/name": "pipelines",
            "app.kubernetes.io/instance": "pipelines",
            "app.kubernetes.io/component": component,
        }
        for name, component in IMMUTABLE.items()
    }


def test_the_data_stays_where_it_is() -> None:
    """Another claim, mount or data folder would start an empty database beside the old one."""
    stateful = find(render(SCENARIOS["kind"]), "StatefulSet", "pipelines-postgresql")["spec"]
    [claim] = stateful["volumeClaimTemplates"]
    assert claim == {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "8Gi"}}},
    }
    assert stateful["serviceName"] == "pipelines-postgresql"
    [container] = stateful["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["data"] == "/var/lib/postgresql/data"
    assert {"name": "PGDATA", "value": "/var/lib/postgresql/data/pgdata"} in container["env"]


def test_services_keep_names_and_ports() -> None:
    """URLs in Secrets, in dashboards and in people's scripts hold them."""
    services = {
        o["metadata"]["name"]: o["spec"]["ports"][0]["port"]
        for o in render(SCENARIOS["kind"])
        if o["kind"] == "Service"
    }
    assert services == SERVICES


def test_labels_of_a_release_do_not_reach_pods() -> None:
    """A common label, or a new chart version's, restarts no pod and changes no Job in place."""
    plain = render(SCENARIOS["kind"])
    labelled = render({**SCENARIOS["kind"], "commonLabels": {"team": "data"}})

    def templates(objects: list[Manifest]) -> dict[str, Manifest]:
        return {o["metadata"]["name"]: o["spec"]["template"] for o in objects if "template" in o.get("spec", {})}

    assert templates(plain) == templates(labelled)
    assert all(o["metadata"]["labels"]["team"] == "data" for o in labelled)
