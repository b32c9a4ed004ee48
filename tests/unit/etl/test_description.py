"""A flow of another image is registered by what that image says of it."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from etl.description import Description
from etl.errors import RegistrationRefused

from .registering import declared, register


async def test_another_images_flow_is_registered_by_its_description(
    prefect_server: str, api: httpx.AsyncClient, tmp_path: Path
) -> None:
    """Its name, docstring and parameters come from the file that its image wrote; its Jobs have its image."""
    told = tmp_path / "reports.json"
    described = {
        "entrypoint": "reports.flow.monthly",
        "name": "monthly",
        "version": "7",
        "description": "Every month.",
        "parameters": {"type": "object", "properties": {"month": {"type": "string"}}, "required": ["month"]},
    }
    told.write_text(json.dumps(described))
    variables = {"image": "registry.example.com/reports:7", "memory_request": "2Gi"}
    registration = declared(
        entrypoint="reports.flow.monthly", schedules=(), described_in=told, job_variables=variables, description=None
    )
    await register(registration, prefect_server)
    [deployment] = registration.deployments
    answer = await api.get(f"/deployments/name/monthly/{deployment.name}")
    document = answer.raise_for_status().json()
    assert document["job_variables"] == variables
    assert document["description"] == "Every month."
    assert document["version"] == "7"
    assert document["parameter_openapi_schema"]["required"] == ["month"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "left no description there"),
        ("{}", "left no description there"),
        (
            '{"entrypoint": "a.b", "name": "b", "version": null, "description": null, "parameters": {}}',
            "it describes a.b, and etl.flow.daily_job is declared",
        ),
    ],
    ids=["no file", "an empty one", "another flow's"],
)
async def test_a_description_that_is_none_is_refused(
    prefect_server: str, tmp_path: Path, content: str | None, says: str
) -> None:
    """Before anything is registered, and with the file named."""
    told = tmp_path / "told.json"
    if content is not None:
        told.write_text(content)
    with pytest.raises(RegistrationRefused, match=says):
        await register(declared(described_in=told), prefect_server)


def test_an_image_describes_its_flow(tmp_path: Path) -> None:
    """The command writes what the registration reads; no flow is no description."""
    told = tmp_path / "told.json"
    command = [sys.executable, "-m", "etl.description"]
    done = subprocess.run([*command, "etl.flow.daily_job", str(told)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Description.read(told, "etl.flow.daily_job") == Description.of("etl.flow.daily_job")
    none = subprocess.run([*command, "etl.flow.nothing", str(told)], capture_output=True, text=True, check=False)
    assert none.returncode == 1
    assert "etl.flow.nothing is no flow in this image" in none.stderr
