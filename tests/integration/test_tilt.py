"""`tilt ci` on the cluster: the chart with Tilt's images becomes healthy, beside the installed release."""

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from .platform import Kubectl, Release

NAMESPACE = "pipelines-tilt"


def tilt(release: Release, *arguments: str, within: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["tilt", *arguments, "--context", f"kind-{release.cluster}"],
        cwd=release.root,
        env={**os.environ, "CLUSTER": release.cluster, "NAMESPACE": NAMESPACE, "RELEASE": release.name},
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )


@pytest.fixture
def installed_tilt(release: Release) -> Iterator[None]:
    if shutil.which("tilt") is None:
        pytest.skip("tilt is not installed")
    yield
    release.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")


@pytest.mark.usefixtures("installed_tilt")
def test_tilt_ci_ends_green(release: Release) -> None:
    """Everything that `tilt up` shows is ready, on the chart and values of `make up`."""
    done = tilt(release, "ci", "--port", "0", "--timeout", "8m", within=540)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "All workloads are healthy" in done.stdout
    pods = Kubectl(release.kubectl.context, NAMESPACE).items("pods")
    assert {pod["status"]["phase"] for pod in pods} <= {"Running", "Succeeded"}
