"""Each thing that can hold a run, done to runs on the cluster: named with its evidence, and gone when it is undone."""

import contextlib
import json
import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import pytest

from .platform import Kubectl, Platform, Release, eventually

NAMED_SECONDS = 15
# What a rule gives a healthy run, and what this test's own looks take on a busy machine.
GRACE_SECONDS = 15
BEGUN_SECONDS = 300
SMALL = {"cpu_request": "10m", "memory_request": "64Mi"}  # so that what a test left behind is not in the way
POOL, QUEUE = "/work_pools/pipelines", "/work_pools/pipelines/queues/week-10"


class Ward:
    """Runs that something is done to, and what the API says of them."""

    def __init__(self, platform: Platform, kubectl: Kubectl) -> None:
        self.platform, self.kubectl = platform, kubectl
        self.deployment: dict[str, Any] = self.prefect("GET", "/deployments/name/daily_job/daily-0900")
        self._day = date(2013, 8, 1)
        self.runs: list[str] = []

    def prefect(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.platform.prefect.request(method, path, json=body).raise_for_status()
        return answer.json() if answer.content else None

    def run(self, **variables: Any) -> str:
        """A run made in Prefect with job variables of its own, so known under its flow-run id."""
        self._day += timedelta(days=1)
        body = {"parameters": {"logical_date": self._day.isoformat()}, "job_variables": variables}
        made = self.prefect("POST", f"/deployments/{self.deployment['id']}/create_flow_run", body)
        self.runs.append(made["id"])
        return str(made["id"])

    def reason(self, run: str) -> dict[str, Any] | None:
        """What the run's status says holds it."""
        answer = self.platform.api.get(f"/api/etl/status/{run}")
        reason: dict[str, Any] | None = answer.json().get("reason") if answer.is_success else None
        return reason

    def named(
        self, run: str, kind: str, *evidence: str, within: float = NAMED_SECONDS + GRACE_SECONDS
    ) -> dict[str, Any]:
        """The reason, once it is that one and carries the evidence."""

        def told() -> dict[str, Any] | None:
            reason = self.reason(run)
            return reason if reason and reason["id"] == kind else None

        began = time.monotonic()
        try:
            reason = eventually(told, within=within, what=f"run {run} is held by {kind}", every=0.25)
        except AssertionError as exc:
            raise AssertionError(f"{exc}; its status: {self.platform.status(run)}") from None
        logging.info("%s named after %.1f s: %s", kind, time.monotonic() - began, reason["detail"])
        for one in evidence:
            assert one in reason["detail"], reason
        return reason

    def free(self, run: str, *, within: float = NAMED_SECONDS + GRACE_SECONDS) -> None:
        """Nothing holds the run any more."""
        eventually(lambda: self.reason(run) is None, within=within, what=f"run {run} is held by nothing")

    def shows(self, look: Callable[[], object], what: str) -> None:
        """Kubernetes itself says so."""
        eventually(look, within=BEGUN_SECONDS, what=what)

    def pods(self, run: str) -> list[Any]:
        return self.kubectl.items("pods", "--selector", f"prefect.io/flow-run-id={run}")

    def begun(self, run: str, state: str = "Running", *, within: float = BEGUN_SECONDS) -> None:
        """The run got that far."""

        def got_there() -> bool:
            answer = self.platform.api.get(f"/api/etl/status/{run}")  # 404 until it is adopted
            return answer.is_success and answer.json()["state"] in {state, "Completed"}

        eventually(got_there, within=within, what=f"run {run} is {state}")


@pytest.fixture(scope="module")
def kubeconfig(release: Release, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A kubeconfig whose context is the cluster's, as a person has it who pastes a command."""
    path = tmp_path_factory.mktemp("kube") / "config"
    done = subprocess.run(
        ["kind", "get", "kubeconfig", "--name", release.cluster], capture_output=True, text=True, check=True
    )
    path.write_text(done.stdout)
    return str(path)


@pytest.fixture
def paste(kubeconfig: str) -> Callable[[str], str]:
    """Run a fix as it is told."""

    def pasted(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            env={**os.environ, "KUBECONFIG": kubeconfig},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    return pasted


@pytest.fixture
def ward(platform: Platform, kubectl: Kubectl) -> Iterator[Ward]:
    """Runs are cancelled afterwards, whatever became of them; the pool, queue and deployment are as they were."""
    one = Ward(platform, kubectl)
    yield one
    one.prefect("PATCH", POOL, {"is_paused": False, "concurrency_limit": None})
    one.prefect("PATCH", QUEUE, {"is_paused": False, "concurrency_limit": None})
    one.prefect("PATCH", f"/deployments/{one.deployment['id']}", {"concurrency_limit": None})
    platform.source.delete("/faults").raise_for_status()
    for run in one.runs:
        platform.api.post(f"/api/etl/cancel/{run}")


@pytest.fixture
def open_template(ward: Ward) -> Iterator[None]:
    """A base job template in which a run may ask for what the chart's own does not offer."""
    template = ward.prefect("GET", POOL)["base_job_template"]
    opened = json.loads(json.dumps(template))
    pod = opened["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    volumes = pod["volumes"]
    pod |= {
        "volumes": "{{ volumes }}",
        "nodeSelector": "{{ node_selector }}",
        "hostNetwork": "{{ host_network }}",
        "activeDeadlineSeconds": "{{ pod_deadline }}",
    }
    pod["containers"][0]["envFrom"] = "{{ env_from }}"
    opened["variables"]["properties"] |= {
        "volumes": {"type": "array", "default": volumes},
        "node_selector": {"type": "object", "default": {}},
        "host_network": {"type": "boolean", "default": False},
        "pod_deadline": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        "env_from": {"type": "array", "default": []},
    }
    ward.prefect("PATCH", POOL, {"base_job_template": opened})
    yield
    ward.prefect("PATCH", POOL, {"base_job_template": template})


CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "unbound"},
    "spec": {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "there-is-none",
        "resources": {"requests": {"storage": "1Mi"}},
    },
}
# For pods with a deadline alone: nobody else's are counted.
QUOTA = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "none-with-a-deadline"},
    "spec": {"hard": {"pods": "0"}, "scopes": ["Terminating"]},
}


@pytest.fixture
def obstacles(kubectl: Kubectl) -> Iterator[None]:
    """A volume that nobody provides, and a quota that lets nothing in."""
    for manifest in (CLAIM, QUOTA):
        kubectl("apply", "--filename", "-", stdin=json.dumps(manifest))
    yield
    kubectl("delete", "persistentvolumeclaim/unbound", "resourcequota/none-with-a-deadline", "--wait=false")
    kubectl("delete", "secret/late-secret", "--ignore-not-found")


@pytest.mark.usefixtures("open_template", "obstacles")
def test_what_keeps_a_pod_from_running_is_named(ward: Ward, kubectl: Kubectl) -> None:
    """Eight causes at once, on a run each: named by Kubernetes' own words; the one that is mended goes on."""
    volume = {"name": "tmp", "emptyDir": {}}
    claimed = {"name": "data", "persistentVolumeClaim": {"claimName": "unbound"}}
    greedy = ward.run(cpu_request="512")
    choosy = ward.run(**SMALL, node_selector={"disk": "golden"})
    unpulled = ward.run(**SMALL, image="registry.invalid/pipelines-etl:nope")
    secretive = ward.run(**SMALL, env_from=[{"secretRef": {"name": "late-secret"}}])
    unbound = ward.run(**SMALL, volumes=[volume, claimed])
    over_quota = ward.run(**SMALL, pod_deadline=3000)
    unsafe = ward.run(**SMALL, host_network=True)
    broken = ward.run(**SMALL, command="python -c 'raise SystemExit(3)'")

    def waits(run: str) -> list[str]:
        states = [s["state"] for pod in ward.pods(run) for s in pod["status"].get("containerStatuses", [])]
        return [state["waiting"]["reason"] for state in states if "waiting" in state]

    ward.shows(lambda: ward.pods(greedy) and ward.pods(choosy) and ward.pods(unbound), "three pods that need a node")
    ward.named(greedy, "PL010", "Insufficient cpu")
    ward.named(choosy, "PL010", "didn't match Pod's node affinity/selector")
    ward.named(unbound, "PL015", "unbound immediate PersistentVolumeClaims")
    ward.shows(lambda: {"ErrImagePull", "ImagePullBackOff"} & set(waits(unpulled)), "an image that is not there")
    ward.named(unpulled, "PL011", "registry.invalid/pipelines-etl:nope")
    ward.shows(lambda: "CreateContainerConfigError" in waits(secretive), "a Secret that is not there")
    ward.named(secretive, "PL014", 'secret "late-secret" not found')
    ward.named(over_quota, "PL012", "none-with-a-deadline")
    ward.named(unsafe, "PL013", "violates PodSecurity", "host")
    # Prefect takes half a minute to call it Crashed; by then either is told
    told = {"PL014", "PL108"}
    eventually(lambda: (ward.reason(broken) or {}).get("id") in told, within=60, what="the entrypoint's end is told")
    held = ward.platform.api.get("/metrics").text
    assert 'orchestrator_runs_held{pipeline="etl",reason="PL010"} 2.0' in held

    kubectl("create", "secret", "generic", "late-secret", "--from-literal=NOTHING=1")
    ward.begun(secretive)
    ward.free(secretive)


@pytest.fixture
def worker(kubectl: Kubectl, release: Release) -> Iterator[str]:
    """The worker's Deployment, left as it was found: one that polls every queue."""
    name = f"deployment/{release.name}-worker"
    yield name
    command = kubectl.get(name)["spec"]["template"]["spec"]["containers"][0]["command"]
    if "--work-queue=default" in command:
        _poll(kubectl, name, [one for one in command if one != "--work-queue=default"])
    kubectl("scale", name, "--replicas=1")
    kubectl("rollout", "status", name, "--timeout=120s")


def _poll(kubectl: Kubectl, worker: str, command: list[str]) -> None:
    patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/command", "value": command}]
    kubectl("patch", worker, "--type=json", "--patch", json.dumps(patch))


def test_what_keeps_prefect_from_letting_a_run_go_is_named_and_mended(
    ward: Ward, kubectl: Kubectl, worker: str, paste: Callable[[str], str]
) -> None:
    """One run, held by one thing after another; each fix, pasted as it is told, leads to the next."""
    ward.prefect("PATCH", POOL, {"is_paused": True})
    run = ward.run(**SMALL)
    reason = ward.named(run, "PL002", "pipelines")
    ward.prefect("PATCH", QUEUE, {"is_paused": True})
    paste(reason["fix"])
    reason = ward.named(run, "PL003", "week-10")
    ward.prefect("PATCH", QUEUE, {"concurrency_limit": 0})
    paste(reason["fix"])
    reason = ward.named(run, "PL007", "0 of 0")
    ward.prefect("PATCH", POOL, {"concurrency_limit": 0})
    ward.named(run, "PL006", "0 of 0")
    ward.prefect("PATCH", POOL, {"concurrency_limit": None})
    reason = ward.named(run, "PL007", "week-10")

    command = kubectl.get(worker)["spec"]["template"]["spec"]["containers"][0]["command"]
    kubectl("scale", worker, "--replicas=0")
    ward.shows(
        lambda: not kubectl.items("pods", "--selector", "app.kubernetes.io/component=worker"), "the worker is gone"
    )
    paste(reason["fix"])
    reason = ward.named(run, "PL001", "pipelines", "week-10")
    _poll(kubectl, worker, [*command, "--work-queue=default"])
    paste(reason["fix"])
    ward.named(run, "PL005", "workers poll default", within=BEGUN_SECONDS)
    _poll(kubectl, worker, command)
    ward.begun(run)
    ward.free(run)


def test_a_silent_pod_is_named_and_who_waits_for_it(ward: Ward, release: Release, paste: Callable[[str], str]) -> None:
    """A frozen process keeps the deployment's only slot: both runs say so, and the second goes once there is room."""
    ward.platform.source.put(
        "/faults", json={"kind": "latency", "seconds": 600, "paths": ["/flights"]}
    ).raise_for_status()
    ward.prefect("PATCH", f"/deployments/{ward.deployment['id']}", {"concurrency_limit": 1})
    frozen = ward.run(**SMALL)
    ward.begun(frozen)
    waiting = ward.run(**SMALL)
    [pod] = ward.pods(frozen)
    signal(release, pod, "STOP")
    ward.platform.source.delete("/faults").raise_for_status()
    reason = ward.named(waiting, "PL008", frozen, within=60)
    paste(reason["fix"])
    ward.begun(waiting)
    reason = ward.named(frozen, "PL016", pod["metadata"]["name"], within=120)
    assert int(reason["detail"].rsplit("of ", 1)[1].split(" s ago")[0]) <= 80 + NAMED_SECONDS + GRACE_SECONDS


def test_a_paused_deployment_and_a_deleted_flow_run(ward: Ward, paste: Callable[[str], str]) -> None:
    """Pausing a deployment holds its schedule, and no run made by hand; a run deleted in Prefect ends and says so."""
    ward.prefect("POST", f"/deployments/{ward.deployment['id']}/pause_deployment")
    try:

        def held() -> list[Any]:
            (pipeline,) = ward.platform.api.get("/api/pipelines").json()["pipelines"]
            return [one["reason"] for one in pipeline["held"] if one["reason"]["id"] == "PL004"]

        [reason] = eventually(held, within=NAMED_SECONDS + GRACE_SECONDS, what="the pause is told")
        by_hand = ward.run(**SMALL)
        ward.begun(by_hand)
        paste(reason["fix"])
        eventually(lambda: not held(), within=NAMED_SECONDS + GRACE_SECONDS, what="the schedule goes on")
    finally:
        ward.prefect("POST", f"/deployments/{ward.deployment['id']}/resume_deployment")
    ward.prefect("PATCH", POOL, {"is_paused": True})
    deleted = ward.run()
    ward.named(deleted, "PL002")
    ward.prefect("DELETE", f"/flow_runs/{deleted}")
    ward.named(deleted, "PL111", deleted)


@contextlib.contextmanager
def frozen_server(release: Release) -> Iterator[None]:
    """The Prefect server takes connections and answers none while the block lasts."""
    [server] = release.kubectl.items("pods", "--selector", "app.kubernetes.io/component=prefect-server")
    signal(release, server, "STOP")
    try:
        yield
    finally:
        signal(release, server, "CONT")


def signal(release: Release, pod: dict[str, Any], name: str) -> None:
    """Signal every process of a pod, from its node: inside, a container's first process heeds no such signal."""
    group = "pod" + pod["metadata"]["uid"].replace("-", "[-_]")
    script = f"kill -{name} $(grep --files-with-matches '{group}' /proc/[0-9]*/cgroup 2> /dev/null | cut -d/ -f3)"
    subprocess.run(["docker", "exec", f"{release.cluster}-control-plane", "bash", "-c", script], check=True)


def test_while_prefect_does_not_answer_runs_say_so(platform: Platform, release: Release) -> None:
    """A run accepted meanwhile is held by the outage; afterwards it completes, and nothing holds it."""
    with frozen_server(release):
        run = platform.start({"logical_date": "2013-09-30"})

        def told() -> dict[str, Any] | None:
            reason: dict[str, Any] | None = platform.status(run)["reason"]
            return reason if reason and reason["id"] == "PL017" else None

        reason = eventually(told, within=NAMED_SECONDS + GRACE_SECONDS, what="the outage is named")
        assert "Prefect" in reason["detail"]
    status = platform.finished(run, within=BEGUN_SECONDS)
    assert (status["state"], status["reason"]) == ("Completed", None)
