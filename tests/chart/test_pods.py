"""The doors of `pods` and of a part's `pod`: what a cluster wants of every pod reaches every pod, and breaks none."""

import pytest

from .conftest import SCENARIOS, Manifest, containers, find, flow_pod, pods, render

EVERYTHING = SCENARIOS["everything set"]


@pytest.fixture(scope="module")
def opened() -> dict[str, Manifest]:
    return pods(render(EVERYTHING))


def test_what_pods_says_reaches_every_pod(opened: dict[str, Manifest]) -> None:
    """Annotations, labels, affinity, priority, volumes, spread; flow pods, registration and migration included."""
    assert len(opened) >= 7
    for name, pod in opened.items():
        assert pod["metadata"]["annotations"]["example.com/cost-centre"] == "data", name
        assert pod["metadata"]["labels"]["zone"] == "blue", name
        assert pod["spec"]["affinity"] == EVERYTHING["pods"]["affinity"], name
        assert {"name": "ca", "configMap": {"name": "site-ca"}} in pod["spec"]["volumes"], name
        for container in containers(pod):
            where = (name, container["name"])
            assert {"name": "HTTPS_PROXY", "value": "http://proxy:3128"} in container["env"], where
            assert container["envFrom"] == [{"configMapRef": {"name": "site"}}], where
            assert {"name": "ca", "mountPath": "/etc/ssl/site", "readOnly": True} in container["volumeMounts"], where


def test_no_variable_stands_twice(opened: dict[str, Manifest]) -> None:
    """Server-side apply refuses a list with one name twice; the value's own replaces the chart's."""
    for name, pod in opened.items():
        for container in containers(pod):
            names = [variable["name"] for variable in container["env"]]
            assert len(names) == len(set(names)), (name, container["name"])
            assert {"name": "DO_NOT_TRACK", "value": "yes"} in container["env"]


def test_labels_that_select_stay(opened: dict[str, Manifest]) -> None:
    """A label of the values cannot take a pod out of its Service, Deployment or NetworkPolicy."""
    found = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in opened.values()}
    assert "not to be taken over" not in found
    assert {"orchestrator", "worker", "prefect-server", "flow-run", "registration", "orchestrator-migration"} <= found


def test_a_part_has_its_own_over_all(opened: dict[str, Manifest]) -> None:
    """Maps are merged, lists and words replace."""
    flow, worker = opened["flow run"]["spec"], opened["Deployment/pipelines-worker"]["spec"]
    assert flow["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "batch"}
    assert flow["tolerations"] == [{"key": "batch", "operator": "Exists"}]
    assert flow["priorityClassName"] == "batch"
    assert worker["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert worker["tolerations"] == [{"key": "data", "operator": "Exists"}]
    assert worker["priorityClassName"] == "data"


def test_a_spread_counts_the_parts_own_pods(opened: dict[str, Manifest]) -> None:
    """Without a selector Kubernetes would count none; one that is given stays."""
    for name, pod in opened.items():
        [spread] = pod["spec"]["topologySpreadConstraints"]
        selected = spread["labelSelector"]["matchLabels"]
        assert selected.items() <= pod["metadata"]["labels"].items(), name
        assert "app.kubernetes.io/component" in selected
    given = {"maxSkew": 1, "topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "mine"}}}
    objects = render({**SCENARIOS["kind"], "worker": {"pod": {"topologySpreadConstraints": [given]}}})
    worker = find(objects, "Deployment", "pipelines-worker")["spec"]["template"]["spec"]
    assert worker["topologySpreadConstraints"] == [given]


def test_by_default_pods_carry_nothing_more() -> None:
    """Empty values leave no empty fields, which some checkers and diffs take for something."""
    objects = render(SCENARIOS["kind"])
    for name, pod in pods(objects).items():
        assert not {"affinity", "priorityClassName", "topologySpreadConstraints", "nodeSelector"} & set(pod["spec"]), (
            name
        )
        assert not any("envFrom" in container for container in containers(pod)), name
    assert "annotations" not in flow_pod(objects)["metadata"]


def test_further_objects_are_templates() -> None:
    """extraObjects come with the release, and may name it."""
    assert find(render(EVERYTHING), "ConfigMap", "pipelines-extra")["data"] == {"a": "b"}
