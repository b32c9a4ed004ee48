"""A second pipeline is values alone: its deployment, its image, its schedule, its name in the API."""

import json
import subprocess
from typing import Any

import pytest
import yaml

from .conftest import ROOT, Manifest, containers, pods, refusal, registration, render

KIND = yaml.safe_load((ROOT / "k8s" / "kind" / "values.yaml").read_text())
WEEKLY = KIND | yaml.safe_load((ROOT / "k8s" / "kind" / "delay-model.yaml").read_text())
IMAGE = "pipelines-delay_model"


def deployments(objects: list[Manifest]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in registration(objects)["deployments"]}


def images(objects: list[Manifest]) -> list[str]:
    return [container["image"] for pod in pods(objects).values() for container in containers(pod)]


def own(image: str, **entries: dict[str, str]) -> dict[str, Any]:
    """Values of somebody's pipeline `reports` with that image."""
    pipeline = {"name": "reports", "flow": "monthly", "deployment": "m", "entrypoint": "r.monthly", "workQueue": "q"}
    return {"source": {"enabled": True}, "pipelines": [{**pipeline, "image": image}], "images": entries}


def test_the_weekly_training_is_registered_beside_the_daily_job() -> None:
    """On Mondays at six in Madrid, one at a time, in pods of its own image and memory; the daily job's stay theirs."""
    objects = render(WEEKLY)
    registered = deployments(objects)
    assert set(registered) == {"daily-0900", "weekly-0600"}
    weekly = registered["weekly-0600"]
    assert weekly["schedules"] == [{"slug": "weekly-0600", "cron": "0 6 * * 1", "timezone": "Europe/Madrid"}]
    assert (weekly["entrypoint"], weekly["concurrencyLimit"]) == ("delay_model.flow.delay_model", 1)
    assert weekly["jobVariables"]["image"].startswith(f"{IMAGE}:")
    assert weekly["jobVariables"]["memory_request"] == "512Mi"
    assert registered["daily-0900"]["jobVariables"] == {}
    assert weekly["describedIn"] == "/described/delay-model.json"


def test_its_flow_is_described_by_its_own_image() -> None:
    """In the registration's pod, by the command that the image has from the ETL image."""
    [described] = [
        container
        for pod in pods(render(WEEKLY)).values()
        for container in containers(pod)
        if container["image"].startswith(f"{IMAGE}:")
    ]
    command = ["python", "-m", "etl.description", "delay_model.flow.delay_model", "/described/delay-model.json"]
    assert described["command"] == command


def test_the_orchestrator_offers_it_by_its_name() -> None:
    """Without a line of code of its own."""
    [offered] = {
        variable["value"]
        for pod in pods(render(WEEKLY)).values()
        for container in containers(pod)
        for variable in container.get("env", [])
        if variable["name"] == "ORCHESTRATOR_PIPELINES"
    }
    assert {one["name"]: one["deployment"] for one in json.loads(offered)} == {
        "etl": "daily_job/daily-0900",
        "delay-model": "delay_model/weekly-0600",
    }


def test_an_installation_without_it_has_none_of_its_image() -> None:
    """Neither a pod nor a Job names it, and it is not built for one."""
    assert [image for image in images(render(KIND)) if IMAGE in image] == []
    used = {
        values: subprocess.check_output([ROOT / "images" / "used", *arguments], text=True).split()
        for values, arguments in {
            "kind": ["--values", "k8s/kind/values.yaml"],
            "weekly": ["--values", "k8s/kind/values.yaml", "--values", "k8s/kind/delay-model.yaml"],
        }.items()
    }
    assert used == {
        "kind": ["prefect", "etl", "orchestrator", "source"],
        "weekly": ["prefect", "etl", "delay_model", "orchestrator", "source"],
    }


def test_a_pipeline_of_ones_own_names_an_entry_of_images() -> None:
    """Its image comes from the registry that the others come from, with a tag or a digest of its own."""
    entries = {"reports": {"repository": "reports", "tag": "7"}}
    values = own("reports", **entries)
    values["images"] |= {"registry": "registry.example.com/team"}
    objects = render(values)
    assert deployments(objects)["m"]["jobVariables"]["image"] == "registry.example.com/team/reports:7"
    assert "registry.example.com/team/reports:7" in images(objects)
    digest = f"sha256:{'a' * 64}"
    objects = render(own("reports", reports={"repository": "reports", "digest": digest}))
    assert deployments(objects)["m"]["jobVariables"]["image"] == f"reports@{digest}"


def test_an_image_in_full_stays_as_it_is() -> None:
    """Whatever the registry of the others is."""
    values = own("elsewhere.example.com/reports:7")
    values["images"] = {"registry": "registry.example.com/team"}
    assert deployments(render(values))["m"]["jobVariables"]["image"] == "elsewhere.example.com/reports:7"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (own("reprots", reports={"repository": "reports"}), "reports names reprots, and images has no such entry"),
        (own("x/reports:7", reports={"repository": "reports"}), "images.reports: no pipeline names it"),
        (own("reports", reports={"tag": "7"}), "repository"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(values: dict[str, Any], said: str) -> None:
    """A misspelt one would otherwise be an image that no node can pull."""
    assert said in refusal(values)
