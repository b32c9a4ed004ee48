"""What `helm test` makes: a pod that may do what its test needs, for as long as it takes."""

from typing import Any

import pytest

from .conftest import CHART, SCENARIOS, SOURCE, Manifest, find, refusal, render

KEYS = {"mode": "apiKey", "apiKeys": {"existingSecret": "callers"}}
KEY = {"apiKey": {"existingSecret": "trial"}}
TOKENS = {"mode": "kubernetes", "tokenAudience": "pipelines"}


def behind(auth: Manifest, **tests: Any) -> list[Manifest]:
    return render({**SOURCE, "orchestrator": {"auth": auth}, "tests": tests})


def made(objects: list[Manifest]) -> dict[str, Manifest]:
    """What the test makes, by kind; its NetworkPolicies by name."""
    hooks = [o for o in objects if o["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"]
    return {o["metadata"]["name"] if o["kind"] == "NetworkPolicy" else o["kind"]: o for o in hooks}


def told(objects: list[Manifest]) -> Manifest:
    [container] = find(objects, "Pod", "pipelines-test")["spec"]["containers"]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def test_the_pod_runs_the_script_in_the_orchestrators_image() -> None:
    """It is on the node already; the script is the chart's file; what it is told are the release's own names."""
    objects = render(SCENARIOS["kind"])
    spec = find(objects, "Pod", "pipelines-test")["spec"]
    [container] = spec["containers"]
    [orchestrator] = find(objects, "Deployment", "pipelines-orchestrator")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == orchestrator["image"]
    assert container["command"] == ["python", "/etc/pipelines/trial-run.py"]
    script = made(objects)["ConfigMap"]
    assert spec["volumes"] == [{"name": "trial-run", "configMap": {"name": script["metadata"]["name"]}}]
    assert script["data"] == {"trial-run.py": (CHART / "files" / "trial-run.py").read_text()}
    assert told(objects) == {
        "TRIAL_URL": "http://pipelines-orchestrator:8080",
        "TRIAL_PIPELINE": "etl",
        "TRIAL_SECONDS": "240",
        "TRIAL_AUTH": "none",
    }
    assert spec["serviceAccountName"] == made(objects)["ServiceAccount"]["metadata"]["name"] == "pipelines-test"
    assert spec["restartPolicy"] == "Never"


def test_everything_is_there_before_the_pod_and_goes_with_it() -> None:
    """Hooks of a lower weight come first; all are taken away after a success, and made anew by the next test."""
    hooks = made(behind(TOKENS))
    assert set(hooks) == {
        *("ServiceAccount", "ConfigMap", "ClusterRole", "ClusterRoleBinding", "Pod"),
        *("pipelines-test", "pipelines-test-orchestrator"),
    }
    weights = {kind: int(o["metadata"]["annotations"]["helm.sh/hook-weight"]) for kind, o in hooks.items()}
    assert max(weights, key=lambda kind: weights[kind]) == "Pod"
    assert weights["ClusterRole"] < weights["ClusterRoleBinding"]
    policies = {o["metadata"]["annotations"]["helm.sh/hook-delete-policy"] for o in hooks.values()}
    assert policies == {"before-hook-creation,hook-succeeded"}
    output = hooks["Pod"]["metadata"]["annotations"]["helm.sh/hook-output-log-policy"]
    assert output == "hook-succeeded,hook-failed"


def test_the_values_reach_the_script() -> None:
    """The day, the time, and a minute more for the pod than for the script."""
    objects = behind({"mode": "none"}, logicalDate="2013-01-15", timeoutSeconds=90)
    assert told(objects)["TRIAL_LOGICAL_DATE"] == "2013-01-15"
    assert told(objects)["TRIAL_SECONDS"] == "90"
    assert find(objects, "Pod", "pipelines-test")["spec"]["activeDeadlineSeconds"] == 150


@pytest.mark.parametrize("auth", [{"mode": "none"}, KEYS])
def test_without_the_door_of_the_cluster_it_has_no_right_and_no_token(auth: Manifest) -> None:
    """No ClusterRole, no projected token."""
    objects = behind(auth)
    assert not {"ClusterRole", "ClusterRoleBinding"} & set(made(objects))
    volumes = find(objects, "Pod", "pipelines-test")["spec"]["volumes"]
    assert [one["name"] for one in volumes] == ["trial-run"]
    assert told(objects)["TRIAL_AUTH"] == auth["mode"]


def test_a_key_is_read_from_its_secret() -> None:
    """By reference; without one the script is told nothing, and says what is missing."""
    assert told(behind(KEYS, **KEY))["TRIAL_API_KEY"] == {"secretKeyRef": {"name": "trial", "key": "api-key"}}
    named = {"apiKey": {"existingSecret": "trial", "key": "ci"}}
    assert told(behind(KEYS, **named))["TRIAL_API_KEY"] == {"secretKeyRef": {"name": "trial", "key": "ci"}}
    assert "TRIAL_API_KEY" not in told(behind(KEYS))


@pytest.mark.parametrize("mode", ["none", "kubernetes"])
def test_a_key_that_no_door_asks_for_is_refused(mode: str) -> None:
    """The message names the value, the reason and the fix."""
    message = refusal({**SOURCE, "orchestrator": {"auth": {"mode": mode}}, "tests": KEY})
    assert "tests.apiKey.existingSecret" in message
    assert f"orchestrator.auth.mode is {mode}" in message
    assert "Set orchestrator.auth.mode=apiKey" in message


@pytest.mark.parametrize("metrics_open", [True, False])
def test_a_token_is_the_pods_own_and_opens_one_pipeline(metrics_open: bool) -> None:
    """For the orchestrator's audience; its right is to start the first pipeline and to read what became of it."""
    objects = behind({**TOKENS, "metricsOpen": metrics_open})
    spec = find(objects, "Pod", "pipelines-test")["spec"]
    assert spec["automountServiceAccountToken"] is False
    [token] = [one for one in spec["volumes"] if one["name"] == "token"]
    [source] = token["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "pipelines"
    assert told(objects)["TRIAL_TOKEN_FILE"] == "/var/run/secrets/orchestrator/token"
    hooks = made(objects)
    rules = hooks["ClusterRole"]["rules"]
    rights = {(path, verb) for rule in rules for path in rule["nonResourceURLs"] for verb in rule["verbs"]}
    assert rights == {
        ("/orchestrator/api/etl/start", "post"),
        ("/orchestrator/api/etl/status/*", "get"),
    } | (set() if metrics_open else {("/metrics", "get")})
    binding = hooks["ClusterRoleBinding"]
    assert binding["roleRef"]["name"] == hooks["ClusterRole"]["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "pipelines-test", "namespace": "data"}]
    assert "audience" not in str(behind({"mode": "kubernetes"}))


@pytest.mark.parametrize(
    ("tests", "where"),
    [
        ({"logicalDate": "yesterday"}, "/tests/logicalDate"),
        ({"timeoutSeconds": 0}, "/tests/timeoutSeconds"),
        ({"apiKey": {"key": ""}}, "/tests/apiKey/key"),
    ],
)
def test_a_value_of_the_wrong_shape_is_refused(tests: Manifest, where: str) -> None:
    """By the schema."""
    assert where in refusal({**SOURCE, "tests": tests})
