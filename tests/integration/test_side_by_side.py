"""Two releases in one namespace and one in another, by the profiles dev and small: each runs its own flows in its own
databases, and goes alone. The one apart is rendered and applied, as GitOps tools do it.
"""

import json
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from .conftest import ROOT
from .platform import Platform, Release, eventually, modest

RUN_SECONDS = 300
READY_SECONDS = 300
CHART = ROOT / "charts" / "pipelines"


@pytest.fixture(scope="module")
def releases(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Release]]:
    """The same name twice in two namespaces, and another beside the first."""
    values: Path = tmp_path_factory.mktemp("values") / "modest.json"
    values.write_text(json.dumps(modest()))
    placed = [("pipelines-a", "beside"), ("pipelines-b", "beside"), ("pipelines-a", "apart")]
    made = [Release(cluster=release.cluster, namespace=space, name=name, root=ROOT) for name, space in placed]
    everywhere = replace(release.kubectl, namespace="default")
    try:
        made[0].up(CHART / "profiles" / "dev.yaml", values)
        made[1].up(CHART / "profiles" / "small.yaml", values)
        same = values.with_name("same.json")  # the images of this checkout, as the session's release has them
        same.write_text(release.helm("get", "values", release.name, "--output", "json", within=60).stdout)
        everywhere("create", "namespace", "apart")
        everywhere("label", "namespace", "apart", "pod-security.kubernetes.io/enforce=restricted")
        apply(made[2], same, CHART / "profiles" / "small.yaml", values)
        yield made
    finally:
        for space in {one.namespace for one in made}:
            everywhere("delete", "namespace", space, "--ignore-not-found", "--wait=false")


def apply(release: Release, *values: Path) -> None:
    """`helm template | kubectl apply`: what nobody could look up in a cluster is given, as the README says."""
    auth, database = f"{release.name}-prefect-auth", f"{release.name}-postgresql"
    passwords = {role: secrets.token_hex() for role in ("postgres", "prefect", "orchestrator", "warehouse")}
    schemes = {"prefect": "postgresql+asyncpg", "orchestrator": "postgresql", "warehouse": "postgresql"}
    urls = {
        f"{role}-url": f"{scheme}://{role}:{passwords[role]}@{database}:5432/{role}" for role, scheme in schemes.items()
    }
    held = {
        auth: {"auth-string": f"prefect:{secrets.token_hex()}"},
        database: {**{f"{role}-password": password for role, password in passwords.items()}, **urls},
    }
    for name, data in held.items():
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
        release.kubectl("apply", "--filename", "-", stdin=json.dumps(secret))
    given = ["--set", f"prefectServer.auth.existingSecret={auth}", "--set", f"postgresql.existingSecret={database}"]
    files = [argument for file in values for argument in ("--values", str(file))]
    rendered = release.helm("template", release.name, str(CHART), "--skip-tests", *files, *given, within=60)
    assert rendered.returncode == 0, rendered.stderr
    release.kubectl("apply", "--filename", "-", stdin=rendered.stdout)
    eventually(lambda: ready(release), within=READY_SECONDS, what=f"{release.name} in {release.namespace} is ready")


def ready(release: Release) -> bool:
    """Every Deployment has what it asks for, and every Job is complete."""
    deployments = release.kubectl.items("deployments")
    jobs = release.kubectl.items("jobs")
    return all(one["status"].get("readyReplicas") == one["spec"]["replicas"] for one in deployments) and all(
        one["status"].get("succeeded") for one in jobs
    )


def run(release: Release, day: str) -> str:
    """A run of the release to its end; its id."""
    with Platform.connect(release) as platform:
        run_id = platform.start({"logical_date": day})
        status = platform.finished(run_id, within=RUN_SECONDS)
        assert (status["state"], status["state_name"]) == ("Completed", "Completed"), (release, status)
    return run_id


def loaded(release: Release) -> set[str]:
    return {run_id for [run_id] in release.query("warehouse", "SELECT run_id FROM loads")}


def test_each_runs_its_own_flows(releases: list[Release]) -> None:
    """The same day in each: in each warehouse there is its own release's run, and no other."""
    runs = [run(one, "2013-10-01") for one in releases]
    assert [loaded(one) for one in releases] == [{run_id} for run_id in runs]
    for one, run_id in zip(releases, runs, strict=True):
        with Platform.connect(one) as platform:
            listed = platform.api.get("/api/etl/runs").raise_for_status().json()["runs"]
            assert [told["run_id"] for told in listed] == [run_id]


def test_one_goes_and_the_others_stay(releases: list[Release]) -> None:
    """Uninstalled, it takes nothing of its neighbour's and nothing of its namesake's with it."""
    gone, *others = releases
    before = [loaded(one) for one in others]
    gone.uninstall()

    def parts() -> set[str]:
        pods = gone.kubectl.items("pods", "--selector", f"app.kubernetes.io/instance={gone.name}")
        return {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods} - {"flow-run"}

    eventually(lambda: not parts(), within=120, what=f"no part of {gone.name} is left")
    assert gone.kubectl.get("secret", f"{gone.name}-postgresql")["metadata"]["name"] == f"{gone.name}-postgresql"
    for one, runs in zip(others, before, strict=True):
        another = run(one, "2013-10-02")
        assert loaded(one) == runs | {another}
