"""Two releases in one namespace and one in another, by the profiles dev and small: each runs its own flows in its own
databases, and goes alone.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from .conftest import ROOT
from .platform import Platform, Release, eventually, modest

RUN_SECONDS = 300


@pytest.fixture(scope="module")
def releases(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Release]]:
    """The same name twice in two namespaces, and another beside the first."""
    values: Path = tmp_path_factory.mktemp("values") / "modest.json"
    values.write_text(json.dumps(modest()))
    placed = [("pipelines-a", "beside", "dev"), ("pipelines-b", "beside", "small"), ("pipelines-a", "apart", "small")]
    made = [Release(cluster=release.cluster, namespace=space, name=name, root=ROOT) for name, space, _ in placed]
    try:
        for one, (_, _, profile) in zip(made, placed, strict=True):
            one.up(ROOT / "charts" / "pipelines" / "profiles" / f"{profile}.yaml", values)
        yield made
    finally:
        everywhere = replace(release.kubectl, namespace="default")
        for space in {one.namespace for one in made}:
            everywhere("delete", "namespace", space, "--ignore-not-found", "--wait=false")


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
