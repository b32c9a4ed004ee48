"""The Job of a flow run as Prefect's own worker makes it from the registered template: still restricted, still ours."""

from typing import Any
from uuid import UUID

import pytest
import yaml
from orchestrator import marks

from .conftest import CHART, SCENARIOS, Manifest, pods, registration, render
from .installed import flow_job


async def job(objects: list[Manifest], **job_variables: Any) -> Manifest:
    """The manifest that the worker posts for a run with these job variables."""
    return await flow_job(registration(objects)["workPool"]["baseJobTemplate"], **job_variables)


def environment(manifest: Manifest) -> dict[str, Any]:
    """The container's variables; each name once."""
    [container] = manifest["spec"]["template"]["spec"]["containers"]
    names = [variable["name"] for variable in container["env"]]
    assert len(names) == len(set(names))
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}


async def test_a_job_is_whole(objects: list[Manifest]) -> None:
    """Every placeholder is filled, with the types that Kubernetes takes, and the command is ours."""
    manifest = await job(objects)
    assert "{{" not in str(manifest)
    assert manifest["metadata"]["namespace"] == "data"
    assert manifest["metadata"]["generateName"].startswith("brave-otter-")
    assert manifest["spec"]["backoffLimit"] == 0
    assert manifest["spec"]["ttlSecondsAfterFinished"] > 0
    [container] = manifest["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["python", "-m", "etl.start"]
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert container["resources"]["limits"] == {"memory": "1Gi"}


async def test_a_job_stays_restricted_whatever_a_run_asks_for(objects: list[Manifest]) -> None:
    """Job variables reach what Prefect offers, and nothing of the security context."""
    plain = (await job(objects))["spec"]["template"]["spec"]
    asked = await job(
        objects,
        image="registry.example.com/flows:1",
        memory_request="2Gi",
        memory_limit="2Gi",
        finished_job_ttl=60,
        command="python -m flows.run",
        labels={"team": "data"},
        service_account_name="loader",
    )
    pod = asked["spec"]["template"]["spec"]
    [container], [plain_container] = pod["containers"], plain["containers"]
    assert container["image"] == "registry.example.com/flows:1"
    assert container["args"] == ["python", "-m", "flows.run"]
    cpu = plain_container["resources"]["requests"]["cpu"]
    assert container["resources"]["requests"] == {"cpu": cpu, "memory": "2Gi"}
    assert asked["spec"]["ttlSecondsAfterFinished"] == 60
    assert pod["serviceAccountName"] == "loader"
    assert asked["spec"]["template"]["metadata"]["labels"]["team"] == "data"
    for key in ("securityContext", "automountServiceAccountToken", "enableServiceLinks", "volumes"):
        assert pod[key] == plain[key]
    for key in ("securityContext", "volumeMounts"):
        assert container[key] == plain_container[key]


async def test_a_run_overrides_variables_but_reads_the_warehouse_by_reference(objects: list[Manifest]) -> None:
    """A run's own environment wins over the chart's, each name once; the credential stays a reference."""
    variables = environment(await job(objects, env={"ETL_SOURCE_URL": "https://other.example.com", "TEAM": "data"}))
    assert variables["ETL_SOURCE_URL"] == "https://other.example.com"
    assert variables["TEAM"] == "data"
    assert set(variables["ETL_WAREHOUSE_URL"]) == {"secretKeyRef"}


async def test_the_pod_keeps_the_labels_that_the_policies_select(objects: list[Manifest]) -> None:
    """Prefect's labels reach the pod beside ours, so that the NetworkPolicies still find it."""
    labels = (await job(objects))["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/instance"] == "pipelines"
    assert labels["app.kubernetes.io/component"] == "flow-run"
    assert any(name.startswith("prefect.io/flow-run") for name in labels)


@pytest.mark.parametrize("correlation_id", ["order-7", "a" * 127 + "."])
async def test_job_and_pod_carry_the_runs_ids(objects: list[Manifest], correlation_id: str) -> None:
    """Beside Prefect's own labels and the deployment's; an id that is no label's value is whole in the annotation."""
    run_id = UUID("0b5f0ac8-9a0e-4b8e-9a3b-6f0f6f1f6a11")
    of_deployment: Manifest = {"labels": {"team": "data"}, "annotations": {"team": "data"}}
    manifest = await job(objects, **of_deployment, **marks.job_variables(run_id, correlation_id))
    for metadata in (manifest["metadata"], manifest["spec"]["template"]["metadata"]):
        assert metadata["labels"]["pipelines/run-id"] == str(run_id)
        assert metadata["labels"]["pipelines/correlation-id"] == marks.label_value(correlation_id)
        assert metadata["annotations"]["pipelines/correlation-id"] == correlation_id
        assert metadata["labels"]["team"] == metadata["annotations"]["team"] == "data"
        assert "prefect.io/flow-run-id" in metadata["labels"]


@pytest.mark.parametrize("account", [{"name": "loader"}, {"annotations": {"cloud.example.com/role": "loader"}}])
async def test_flow_pods_run_under_the_account_of_the_values(account: Manifest) -> None:
    """One's own account is used and none is made; annotations go to the one that is made."""
    kind = SCENARIOS["kind"]
    objects = render({**kind, "flowRuns": {"serviceAccount": account}})
    used = (await job(objects))["spec"]["template"]["spec"]["serviceAccountName"]
    made = [o for o in objects if o["kind"] == "ServiceAccount" and o["metadata"]["name"] == used]
    if "name" in account:
        assert used == account["name"]
        assert made == []
    else:
        [ours] = made
        assert ours["metadata"]["annotations"] == account["annotations"]


REPORTS = {
    "name": "reports",
    "flow": "monthly",
    "deployment": "monthly",
    "entrypoint": "reports.flow.monthly",
    "workQueue": "reports",
    "image": "registry.example.com/reports:7",
    "resources": {"requests": {"cpu": 1, "memory": "2Gi"}, "limits": {"memory": "4Gi"}},
}


async def test_a_team_brings_its_own_image() -> None:
    """Its flow is described by its own image before the registration, and its Jobs have the image and the resources."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    objects = render({**SCENARIOS["kind"], "pipelines": [*values["pipelines"], REPORTS]})
    etl, reports = registration(objects)["deployments"]
    assert "describedIn" not in etl
    assert etl["jobVariables"] == {}
    [pod] = [pod for name, pod in pods(objects).items() if name.startswith("Job/pipelines-register-")]
    [describe] = [one for one in pod["spec"]["initContainers"] if one["name"].startswith("describe-")]
    assert describe["image"] == REPORTS["image"]
    assert describe["command"] == ["python", "-m", "etl.description", REPORTS["entrypoint"], reports["describedIn"]]
    [register] = pod["spec"]["containers"]
    folders = {mount["mountPath"] for one in (describe, register) for mount in one["volumeMounts"]}
    assert reports["describedIn"].rpartition("/")[0] in folders
    manifest = await job(objects, **reports["jobVariables"])
    [container] = manifest["spec"]["template"]["spec"]["containers"]
    assert container["image"] == REPORTS["image"]
    assert container["resources"] == {
        "requests": {"cpu": "1", "memory": "2Gi"},
        "limits": {"memory": "4Gi"},
    }
