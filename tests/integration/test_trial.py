"""`helm test` on a cluster, in front of each door: it runs the product, says so, and leaves nothing behind."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .platform import Release

SECONDS = 300
KEY = secrets.token_hex(32)
CALLERS = {"keys": [{"name": "trial", "key": KEY, "may": {"etl": ["read", "start"]}}]}
DAY = {"logicalDate": "2013-11-01"}

DOORS: dict[str, dict[str, Any]] = {
    "none": {"tests": DAY},
    "apiKey": {
        "orchestrator": {
            "auth": {"mode": "apiKey", "metricsOpen": False, "apiKeys": {"existingSecret": "test-trial-callers"}}
        },
        "tests": {**DAY, "apiKey": {"existingSecret": "test-trial-key"}},
    },
    "kubernetes": {
        "orchestrator": {"auth": {"mode": "kubernetes", "metricsOpen": False, "tokenAudience": "pipelines"}},
        "tests": DAY,
    },
}


@pytest.fixture(scope="module", autouse=True)
def keys(release: Release) -> Iterator[None]:
    """The file of keys that the orchestrator reads, and the one key that the test is given; the release is put back."""
    held = {"test-trial-callers": {"keys.json": json.dumps(CALLERS)}, "test-trial-key": {"api-key": KEY}}
    for name, data in held.items():
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
        release.kubectl("apply", "--filename", "-", stdin=json.dumps(secret))
    yield
    release.up()
    release.kubectl("delete", "secret", *held)


def left(release: Release) -> str:
    """What the test made and did not take away."""
    label = f"app.kubernetes.io/instance={release.name},app.kubernetes.io/component=test"
    kinds = "pods,serviceaccounts,configmaps,networkpolicies,clusterroles,clusterrolebindings"
    return release.kubectl("get", kinds, "--selector", label, "--output=name", "--ignore-not-found")


@pytest.mark.parametrize("door", DOORS)
def test_the_whole_path_is_tried(door: str, release: Release, tmp_path: Path) -> None:
    """It passes with the door's own credential, tells the rows and the metrics, and everything it made is gone."""
    values = tmp_path / "values.json"
    values.write_text(json.dumps(DOORS[door]))
    release.up(values)
    done = release.helm("test", release.name, "--timeout", f"{SECONDS}s", within=SECONDS + 60)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "rows loaded, 0 rejected" in said
    assert "/metrics counts it" in said
    assert left(release) == ""


def test_a_run_that_fails_fails_the_test_and_keeps_its_log(release: Release, tmp_path: Path) -> None:
    """The source has no such day: the reason is told, and the pod is there to be read, until the next test."""
    values = tmp_path / "values.json"
    values.write_text(json.dumps({"tests": {"logicalDate": "2024-02-29"}}))
    release.up(values)
    done = release.helm("test", release.name, "--timeout", f"{SECONDS}s", within=SECONDS + 60)
    assert done.returncode != 0
    assert "the run ended Failed" in release.kubectl("logs", f"{release.name}-test")
    assert left(release).split() == [f"pod/{release.name}-test"]
