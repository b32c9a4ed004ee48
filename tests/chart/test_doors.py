"""The door of the API in the chart: what each mode mounts, binds and opens, and what is refused half-made."""

from typing import Any

import pytest

from .conftest import SOURCE, Manifest, find, refusal, render

KEYS = {"mode": "apiKey", "apiKeys": {"existingSecret": "callers"}}
TOKENS = {"mode": "kubernetes", "tokenAudience": "pipelines"}


def behind(auth: Manifest, **more: Any) -> Manifest:
    return {**SOURCE, "orchestrator": {"auth": auth}, **more}


def service(objects: list[Manifest]) -> Manifest:
    spec: Manifest = find(objects, "Deployment", "pipelines-orchestrator")["spec"]["template"]["spec"]
    return spec


def environment(objects: list[Manifest]) -> dict[str, str]:
    [container] = service(objects)["containers"]
    return {one["name"]: one.get("value", "") for one in container["env"]}


def bindings(objects: list[Manifest]) -> list[Manifest]:
    """Without those that `helm test` makes for itself."""
    found = [o for o in objects if o["kind"] == "ClusterRoleBinding"]
    return [o for o in found if "helm.sh/hook" not in o["metadata"].get("annotations", {})]


@pytest.mark.parametrize(
    ("auth", "says"),
    [
        ({"mode": "apiKey"}, ["orchestrator.auth.apiKeys.existingSecret", "orchestrator.auth.mode=none"]),
        ({**KEYS, "mode": "none"}, ["orchestrator.auth.apiKeys.existingSecret", "orchestrator.auth.mode=apiKey"]),
        ({**KEYS, "mode": "kubernetes"}, ["orchestrator.auth.apiKeys.existingSecret", "is kubernetes"]),
        ({"tokenAudience": "pipelines"}, ["orchestrator.auth.tokenAudience", "orchestrator.auth.mode=kubernetes"]),
        ({**KEYS, "tokenAudience": "pipelines"}, ["orchestrator.auth.tokenAudience", "is apiKey"]),
        ({"metricsOpen": False}, ["orchestrator.auth.metricsOpen", "mode is none"]),
        ({"mode": "basic"}, ["/orchestrator/auth/mode"]),
    ],
)
def test_half_a_door_is_refused(auth: Manifest, says: list[str]) -> None:
    """The message names the value, the reason and the fix."""
    message = refusal(behind(auth))
    assert all(words in message for words in says), message


def test_without_a_door_nothing_is_mounted_or_bound() -> None:
    """The default: no Secret, no right of the cluster's."""
    objects = render(SOURCE)
    assert environment(objects)["ORCHESTRATOR_AUTH"] == "none"
    assert [volume["name"] for volume in service(objects)["volumes"]] == ["tmp", "kubernetes-api"]
    assert bindings(objects) == []


def test_keys_are_mounted_from_their_secret() -> None:
    """As a volume, which follows the Secret; the file is where the service looks; the other containers have it not."""
    objects = render(behind(KEYS))
    spec = service(objects)
    [volume] = [one for one in spec["volumes"] if one["name"] == "api-keys"]
    assert volume["secret"]["secretName"] == "callers"
    assert volume["secret"]["items"] == [{"key": "keys.json", "path": "keys.json"}]
    [container] = spec["containers"]
    [mount] = [one for one in container["volumeMounts"] if one["name"] == "api-keys"]
    assert mount == {"name": "api-keys", "mountPath": "/etc/orchestrator", "readOnly": True}
    assert environment(objects)["ORCHESTRATOR_API_KEYS_FILE"] == "/etc/orchestrator/keys.json"
    assert [one["name"] for one in spec["initContainers"][-1]["volumeMounts"]] == ["tmp"]
    assert bindings(objects) == []


def test_tokens_are_reviewed_by_a_right_of_the_cluster() -> None:
    """One binding, to system:auth-delegator, of the service alone."""
    objects = render(behind(TOKENS))
    [binding] = bindings(objects)
    assert binding["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": "system:auth-delegator",
    }
    account = service(objects)["serviceAccountName"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "data"}]
    assert environment(objects)["ORCHESTRATOR_TOKEN_AUDIENCE"] == "pipelines"
    assert not [o for o in objects if o["kind"] == "ClusterRole" and "annotations" not in o["metadata"]]


def test_a_door_changes_no_job() -> None:
    """The migration's pod gets neither the keys nor another name."""

    def jobs(values: Manifest) -> dict[str, Manifest]:
        return {o["metadata"]["name"]: o["spec"] for o in render(values) if o["kind"] == "Job"}

    assert jobs(SOURCE) == jobs(behind(KEYS)) == jobs(behind(TOKENS))


def test_limits_reach_the_service() -> None:
    """Each value as its variable."""
    limits = {"readsPerSecond": 7, "writesPerSecond": 3, "refusalsPerSecond": 2, "streams": 11, "streamsPerCaller": 5}
    told = environment(render({**SOURCE, "orchestrator": {"limits": limits}}))
    assert {name: told[f"ORCHESTRATOR_{name}"] for name in ("READS_PER_SECOND", "STREAMS_PER_CALLER")} == {
        "READS_PER_SECOND": "7",
        "STREAMS_PER_CALLER": "5",
    }
    assert (told["ORCHESTRATOR_WRITES_PER_SECOND"], told["ORCHESTRATOR_STREAMS"]) == ("3", "11")
