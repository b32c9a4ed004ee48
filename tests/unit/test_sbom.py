"""The bills of materials (images/sbom) are CycloneDX, and list what uv.lock puts into each image and nothing else."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.markers import Marker

ROOT = Path(__file__).parents[2]
# Who asks for what an image holds: a workspace member, or the workspace's dependency group of that name.
PARTS = {"prefect": "group", "etl": "member", "delay_model": "member", "orchestrator": "member", "source": "member"}
IMAGE = {
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "python_full_version": "3.13.0",
    "python_version": "3.13",
    "sys_platform": "linux",
}

Package = dict[str, Any]


@pytest.fixture(scope="module")
def boms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sbom")
    subprocess.run([sys.executable, ROOT / "images" / "sbom", folder], check=True, timeout=300)
    return {part: folder / f"pipelines-{part}.cdx.json" for part in PARTS}


def locked(part: str) -> dict[str, str]:
    """What uv.lock has for the image, by a walk of its own: name and version of each package that a need leads to."""
    packages: dict[str, list[Package]] = {}
    for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]:
        packages.setdefault(package["name"], []).append(package)

    def chosen(need: Package) -> Package:
        [package] = [p for p in packages[need["name"]] if need.get("version") in {None, p["version"]}]
        return package

    def wanted(needs: list[Package]) -> list[Package]:
        return [need for need in needs if "marker" not in need or Marker(need["marker"]).evaluate(IMAGE)]

    groups = packages["pipelines"][0]["dev-dependencies"]
    needs = groups[part] if PARTS[part] == "group" else [{"name": part.replace("_", "-")}]
    found: dict[str, str] = {}
    extras: set[tuple[str, str]] = set()
    waiting = wanted(needs)
    while waiting:
        need = waiting.pop()
        package = chosen(need)
        if package["name"] not in found:
            found[package["name"]] = package["version"]
            waiting += wanted(package.get("dependencies", []))
        for extra in set(need.get("extra", [])):
            if (package["name"], extra) not in extras:
                extras.add((package["name"], extra))
                waiting += wanted(package.get("optional-dependencies", {}).get(extra, []))
    return found


@pytest.mark.parametrize("part", PARTS)
def test_it_is_valid_cyclonedx(boms: dict[str, Path], part: str) -> None:
    """Against the published schema of its version, strictly: no field that the schema does not know."""
    validator = JsonStrictValidator(SchemaVersion.V1_5)
    bom = json.loads(boms[part].read_text())
    # The schema's check of a URL takes a tenth of a second: of components alike in form, a few are checked with theirs.
    for component in bom["components"][5:]:
        component.pop("externalReferences", None)
    assert validator.validate_str(json.dumps(bom)) is None
    assert validator.validate_str(json.dumps({**bom, "components": [{"type": "library"}]})) is not None


@pytest.mark.parametrize("part", PARTS)
def test_it_lists_what_the_lock_puts_into_the_image(boms: dict[str, Path], part: str) -> None:
    """Every package in the locked version, none that is for another Python or system."""
    bom = json.loads(boms[part].read_text())
    assert {one["name"]: one["version"] for one in bom["components"]} == locked(part)
    assert len(bom["components"]) == len(locked(part))
    subject = bom["metadata"]["component"]
    tag = subprocess.check_output([ROOT / "images" / "tag", part], text=True).strip()
    assert (subject["type"], subject["name"], subject["version"]) == ("container", f"pipelines-{part}", tag)


@pytest.mark.parametrize("part", PARTS)
def test_every_component_is_reached_from_the_image(boms: dict[str, Path], part: str) -> None:
    """The needs form one graph, from the image to each component, without a reference to what is not there."""
    bom = json.loads(boms[part].read_text())
    needs = {one["ref"]: one["dependsOn"] for one in bom["dependencies"]}
    reached, waiting = set(), [bom["metadata"]["component"]["bom-ref"]]
    while waiting:
        ref = waiting.pop()
        if ref not in reached:
            reached.add(ref)
            waiting += needs[ref]
    assert reached - {f"pipelines-{part}"} == {one["bom-ref"] for one in bom["components"]}


@pytest.mark.parametrize("part", PARTS)
def test_a_component_names_the_distributions_that_fit(boms: dict[str, Path], part: str) -> None:
    """With their hashes: no wheel of another Python, of Windows, macOS or musl."""
    for component in json.loads(boms[part].read_text())["components"]:
        for distribution in component.get("externalReferences", []):
            assert distribution["hashes"]
            if distribution["url"].endswith(".whl"):
                python, _, platform = distribution["url"].removesuffix(".whl").split("-")[-3:]
                assert platform == "any" or "linux_" in platform.replace("manylinux", "linux_")
                assert "musl" not in platform
                assert "py3" in python or python.startswith("cp3")
