"""The cluster under test: made by `make up` as a user makes it, reached by kubectl and HTTP alone.

Kept afterwards with --keep-cluster; a cluster of that name that runs already is used again.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .platform import Kubectl, Platform, Release

ROOT = Path(__file__).parents[2]
CLUSTER = os.environ.get("TEST_CLUSTER", "pipelines-test")
NAMESPACE = os.environ.get("TEST_NAMESPACE", "pipelines")
TOOLS = ("docker", "kind", "kubectl", "helm")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--keep-cluster", action="store_true", help="leave the kind cluster for the next run")


def missing_tool() -> str | None:
    """Why there can be no cluster here, if so."""
    for tool in TOOLS:
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        return "Docker does not run"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing_tool()
    if reason is None:
        return
    if os.environ.get("REQUIRE_CLUSTER") == "1":
        raise pytest.UsageError(f"REQUIRE_CLUSTER=1, but {reason}")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"no cluster: {reason}"))


@pytest.fixture(scope="session")
def release(request: pytest.FixtureRequest) -> Iterator[Release]:
    """The chart installed by `make up`, with the images of this checkout, in a namespace that enforces `restricted`."""
    release = Release(cluster=CLUSTER, namespace=NAMESPACE, name="pipelines", root=ROOT)
    try:
        release.up()
        yield release
    finally:
        if not request.config.getoption("--keep-cluster"):
            release.down()


@pytest.fixture(scope="session")
def kubectl(release: Release) -> Kubectl:
    return release.kubectl


@pytest.fixture(scope="session")
def platform(release: Release) -> Iterator[Platform]:
    """The HTTP APIs through port-forwards."""
    with Platform.connect(release) as platform:
        yield platform


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failure on the cluster carries the evidence: pods, events, logs."""
    report = yield
    if report.failed and call.when in {"setup", "call"}:
        used = getattr(item, "funcargs", {}).values()
        every = [one for value in used for one in (value if isinstance(value, list) else [value])]
        for release in {one.namespace: one for one in every if isinstance(one, Release)}.values():
            report.sections.append((f"namespace {release.namespace}", release.diagnose()))
    return report
