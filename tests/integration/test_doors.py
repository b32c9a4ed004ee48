"""The API's doors on a cluster: behind each a second orchestrator of the release, which itself stays as it is."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from .platform import Kubectl, Release, eventually

OPS, VIEWER = secrets.token_hex(32), secrets.token_hex(32)
KEYS = {"keys": [{"name": "ops", "key": OPS}, {"name": "viewer", "key": VIEWER, "may": {"etl": ["read"]}}]}
READY_SECONDS = 120


def apply(kubectl: Kubectl, *objects: dict[str, Any]) -> None:
    kubectl("apply", "--filename", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


@contextlib.contextmanager
def behind(release: Release, name: str, environment: dict[str, str], **pod: Any) -> Iterator[httpx.Client]:
    """A client of another orchestrator, made from the release's own with these variables and pod fields changed."""
    kubectl = release.kubectl
    own = kubectl.get("deployment", f"{release.name}-orchestrator")
    labels = {**own["spec"]["template"]["metadata"]["labels"], "test.pipelines/door": name}
    spec = own["spec"]["template"]["spec"]
    [container] = spec["containers"]
    container["env"] = [one for one in container["env"] if one["name"] not in environment]
    container["env"] += [{"name": key, "value": value} for key, value in environment.items()]
    container["volumeMounts"] += pod.pop("mounts", [])
    spec["volumes"] += pod.pop("volumes", [])
    spec |= pod
    template = {"metadata": {"labels": labels}, "spec": spec}
    # Not the release's own name, so that its Service never leads here; the NetworkPolicies select it all the same.
    template["metadata"]["labels"]["app.kubernetes.io/name"] = name
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"test.pipelines/door": name}}, "template": template},
    }
    apply(kubectl, deployment)
    try:
        kubectl("rollout", "status", f"deployment/{name}", f"--timeout={READY_SECONDS}s")
        with (
            kubectl.port_forward(f"deployment/{name}", 8080) as url,
            httpx.Client(base_url=url, timeout=30) as client,
        ):
            yield client
    finally:
        kubectl("delete", "deployment", name, "--wait=false")


@pytest.fixture
def keys(kubectl: Kubectl) -> Iterator[str]:
    """A Secret with two keys."""
    name = "test-callers"
    apply(
        kubectl,
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "stringData": {"keys.json": json.dumps(KEYS)},
        },
    )
    yield name
    kubectl("delete", "secret", name)


def test_keys_open_the_api(release: Release, keys: str) -> None:
    """401 without one, 403 for what one may not, 202 for what one may; the probes need none."""
    environment = {"ORCHESTRATOR_AUTH": "apiKey", "ORCHESTRATOR_API_KEYS_FILE": "/etc/orchestrator/keys.json"}
    mounts = [{"name": "api-keys", "mountPath": "/etc/orchestrator", "readOnly": True}]
    volumes = [{"name": "api-keys", "secret": {"secretName": keys, "defaultMode": 0o440}}]
    with behind(release, "test-door-keys", environment, mounts=mounts, volumes=volumes) as api:
        refused = api.post("/api/etl/start")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert api.post("/api/etl/start", headers={"Authorization": f"Bearer {OPS[::-1]}"}).status_code == 401
        forbidden = api.post("/api/etl/start", headers={"Authorization": f"Bearer {VIEWER}"})
        assert forbidden.status_code == 403
        assert "viewer may not start in the pipeline etl" in forbidden.json()["detail"]
        started = api.post("/api/etl/start", headers={"X-API-Key": OPS}, json={"logical_date": "2013-08-01"})
        assert started.status_code == 202, started.text
        where = started.headers["location"]
        status = api.get(where, headers={"Authorization": f"Bearer {VIEWER}"})
        assert status.status_code == 200
        assert api.get("/metrics").status_code == 200
        cancelled = api.post(where.replace("/status/", "/cancel/"), headers={"X-API-Key": OPS})
        assert cancelled.status_code in {202, 409}
        log = release.kubectl("logs", "deployment/test-door-keys", "--tail=-1")
    assert OPS not in log
    assert VIEWER not in log


@pytest.fixture
def cluster_rights(release: Release, kubectl: Kubectl) -> Iterator[tuple[str, str]]:
    """Two service accounts: one with a ClusterRole on the API's paths, one with none; and the reviewer's right."""
    suffix = f"{release.namespace}-{os.getpid()}"
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1"}
    group = "rbac.authorization.k8s.io"

    def bound(name: str, role: str, subject: str) -> dict[str, Any]:
        return {
            **rbac,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": f"{name}-{suffix}"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": subject, "namespace": release.namespace}],
        }

    starter = f"test-starter-{suffix}"
    rules = [
        {"nonResourceURLs": ["/orchestrator/api/etl/start"], "verbs": ["post"]},
        {"nonResourceURLs": ["/orchestrator/api/etl/*", "/orchestrator/api/pipelines"], "verbs": ["get"]},
    ]
    objects = [
        {**account, "metadata": {"name": "test-starter"}},
        {**account, "metadata": {"name": "test-nobody"}},
        {**rbac, "kind": "ClusterRole", "metadata": {"name": starter}, "rules": rules},
        bound("test-starter", starter, "test-starter"),
        bound("test-reviewer", "system:auth-delegator", f"{release.name}-orchestrator"),
    ]
    apply(kubectl, *objects)
    yield kubectl("create", "token", "test-starter").strip(), kubectl("create", "token", "test-nobody").strip()
    kubectl("delete", "--filename", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def test_the_clusters_tokens_open_the_api(release: Release, cluster_rights: tuple[str, str]) -> None:
    """A service account with a ClusterRole on the paths gets in; one without is 403; a made-up token is 401."""
    starter, nobody = ({"Authorization": f"Bearer {token}"} for token in cluster_rights)
    environment = {"ORCHESTRATOR_AUTH": "kubernetes"}
    with behind(release, "test-door-tokens", environment) as api:
        assert api.post("/api/etl/start").status_code == 401
        assert api.get("/api/pipelines", headers={"Authorization": "Bearer a.made.up"}).status_code == 401

        def let_in() -> httpx.Response | None:
            answer = api.post("/api/etl/start", headers=starter, json={"logical_date": "2013-08-02"})
            assert answer.status_code in {202, 403}, answer.text  # RBAC is there a moment after it is written
            return answer if answer.status_code == 202 else None

        started = eventually(let_in, within=20, what="the ClusterRole lets the token start a run")
        where = started.headers["location"]
        assert api.get(where, headers=starter).status_code == 200
        names = [one["name"] for one in api.get("/api/pipelines", headers=starter).json()["pipelines"]]
        assert names == ["etl"]
        for method, path, headers in (
            ("POST", where.replace("/status/", "/cancel/"), starter),
            ("GET", where, nobody),
            ("POST", "/api/etl/start", nobody),
        ):
            forbidden = api.request(method, path, headers=headers)
            assert forbidden.status_code == 403, forbidden.text
            assert f"the verb {method.lower()} on the nonResourceURL /orchestrator{path}" in forbidden.json()["detail"]
        assert api.get("/healthz").status_code == 200
        log = release.kubectl("logs", "deployment/test-door-tokens", "--tail=-1")
    assert not any(token in log for token in cluster_rights)
    assert f"system:serviceaccount:{release.namespace}:test-starter" in log
