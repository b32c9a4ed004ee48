"""From the previous chart version to this one and back, each with a run in flight; then uninstalled."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT
from .platform import Kubectl, Platform, Release, eventually, modest

RUN_SECONDS = 300
# At most; shorter than a statement of the load may wait for its lock.
HELD_SECONDS = 400
ROLLBACK_SECONDS = 420
# Finished Jobs of flow runs go by themselves after so long: within the test.
TTL_SECONDS = 60

POOL = "/work_pools/pipelines"


@dataclass(frozen=True)
class Versions:
    """One release at the previous version's commit and at this checkout, and what an empty namespace holds."""

    old: Release
    new: Release
    values: Path
    before: set[str]


def objects(kubectl: Kubectl) -> set[str]:
    """Everything in the namespace by kind and name, but for what Kubernetes writes about it."""
    listed = kubectl("api-resources", "--namespaced", "--verbs=list", "--output=name").split()
    kinds = [kind for kind in listed if kind not in {"events", "events.events.k8s.io"} and "metrics.k8s.io" not in kind]
    return set(kubectl("get", ",".join(kinds), "--output=name", "--ignore-not-found").split())


@pytest.fixture(scope="module")
def versions(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versions]:
    """The previous version, with its own images and values, in a namespace of its own on the test's cluster."""
    shallow = ["git", "rev-parse", "--is-shallow-repository"]
    if subprocess.run(shallow, capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip() != "false":
        pytest.skip("the previous version is not in a shallow clone: git fetch --unshallow")
    done = subprocess.run([ROOT / "charts" / "previous"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    values = tmp_path_factory.mktemp("values") / "modest.json"
    asked = modest()
    asked["flowRuns"]["finishedJobTtlSeconds"] = TTL_SECONDS
    values.write_text(json.dumps(asked))
    new = Release(cluster=release.cluster, namespace="pipelines-upgrade", name="pipelines", root=ROOT)
    old = replace(new, root=Path(done.stdout.strip()))
    everywhere = replace(new.kubectl, namespace="default")
    everywhere("delete", "namespace", new.namespace, "--ignore-not-found")  # what an earlier session began to remove
    everywhere("create", "namespace", new.namespace)
    before = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
    eventually(lambda: before <= objects(new.kubectl), within=30, what="the namespace has what Kubernetes puts there")
    try:
        old.up(values)
        yield Versions(old, new, values, before)
    finally:
        everywhere("delete", "namespace", new.namespace, "--wait=false")


@pytest.fixture(autouse=True)
def installed(versions: Versions) -> Release:
    """Whose pods and logs a failure shows."""
    return versions.new


@contextlib.contextmanager
def held_load(release: Release) -> Iterator[None]:
    """Whoever loads waits for its turn at the table meanwhile: the run is in the middle of its load."""
    sql = f"BEGIN; LOCK TABLE flights IN SHARE MODE; SELECT pg_sleep({HELD_SECONDS}); COMMIT"
    psql = ["env", "PGAPPNAME=holder", "psql", "-U", "postgres", "-d", "warehouse", "-c", sql]
    command = release.kubectl.command("exec", f"{release.name}-postgresql-0", "--", *psql)
    holder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    waiting = (
        "SELECT 1 FROM pg_locks JOIN pg_class ON pg_class.oid = relation"
        " WHERE relname = 'flights' AND mode = 'ShareLock' AND granted"
    )
    try:
        eventually(lambda: release.query("warehouse", waiting), within=30, what="the table is locked")
        yield
    finally:
        let_go = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holder'"
        release.query("warehouse", let_go)
        holder.wait(60)


def begun(release: Release, day: str) -> str:
    """A run that waits in its load for the lock."""
    with Platform.connect(release) as platform:
        run_id = platform.start({"logical_date": day})
        # Not granted: the load has come to the table.
        blocked = "SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'RowExclusiveLock'"
        eventually(
            lambda: release.query("warehouse", blocked), within=RUN_SECONDS, what=f"run {run_id} waits in its load"
        )
        assert platform.status(run_id)["state"] == "Running"
    return run_id


def completed_once(release: Release, run_id: str) -> None:
    """The run is Completed, ended after the release's last change had begun, and has one load."""
    history = json.loads(release.helm("history", release.name, "--output", "json", within=60).stdout)
    changed_at = datetime.fromisoformat(history[-1]["updated"])
    with Platform.connect(release) as platform:
        status = platform.finished(run_id, within=RUN_SECONDS)
        assert (status["state"], status["state_name"]) == ("Completed", "Completed"), status
        assert datetime.fromisoformat(status["ended_at"]) > changed_at, "the run was not in flight"
    assert release.query("warehouse", f"SELECT count(*) FROM loads WHERE run_id = '{run_id}'") == [["1"]]


def deployment(platform: Platform) -> dict[str, Any]:
    found: dict[str, Any] = platform.prefect.get("/deployments/name/daily_job/daily-0900").raise_for_status().json()
    return found


def kept(release: Release) -> None:
    """What people changed in Prefect before the upgrade is as they left it."""
    with Platform.connect(release) as platform:
        present = deployment(platform)
        [schedule] = present["schedules"]
        assert schedule["active"] is False
        assert present["global_concurrency_limit"]["limit"] == 3
        assert platform.prefect.get(POOL).json()["concurrency_limit"] == 7


def revision(release: Release, database: str) -> str:
    [[found]] = release.query(database, "SELECT version_num FROM alembic_version")
    return found


@pytest.fixture(scope="module")
def revisions(versions: Versions) -> dict[str, str]:
    """The schemas' revisions as the previous version made them."""
    return {database: revision(versions.old, database) for database in ("orchestrator", "warehouse")}


def test_an_upgrade_with_a_run_in_flight(versions: Versions, revisions: dict[str, str]) -> None:
    """The run completes once; a paused schedule and changed limits stay."""
    with Platform.connect(versions.old) as platform:
        present = deployment(platform)
        schedule = f"/deployments/{present['id']}/schedules/{present['schedules'][0]['id']}"
        for path, change in (
            (schedule, {"active": False}),
            (f"/deployments/{present['id']}", {"concurrency_limit": 3}),
            (POOL, {"concurrency_limit": 7}),
        ):
            platform.prefect.patch(path, json=change).raise_for_status()
    with held_load(versions.old):
        run_id = begun(versions.old, "2013-09-01")
        versions.new.up(versions.values)
    completed_once(versions.new, run_id)
    kept(versions.new)
    images = {
        container["image"]
        for pod in versions.new.kubectl.items("pods", "--selector", "app.kubernetes.io/component=orchestrator")
        for container in pod["spec"]["containers"]
    }
    tag = subprocess.run([ROOT / "images" / "tag", "orchestrator"], capture_output=True, text=True, check=True)
    assert images == {f"pipelines-orchestrator:{tag.stdout.strip()}"}


def refusals(release: Release, part: str, container: str) -> str:
    """What the newest pods of a part say in that container, as far as they have begun."""
    said = ""
    for pod in release.kubectl.items("pods", "--selector", f"app.kubernetes.io/component={part}"):
        name = pod["metadata"]["name"]
        command = release.kubectl.command("logs", name, "--container", container)
        said += subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    return said


def test_a_rollback_with_a_run_in_flight(versions: Versions, revisions: dict[str, str]) -> None:
    """Over the same schemas: the run completes once, and what people changed stays.

    Over a migrated schema the older image refuses to start and names both revisions, the newer one goes on serving, and
    the way out is the upgrade again.
    """
    newer = {database: revision(versions.new, database) for database in revisions}
    with held_load(versions.new):
        run_id = begun(versions.new, "2013-09-02")
        wait = ["--wait", "--timeout", f"{ROLLBACK_SECONDS}s"] if newer == revisions else []
        done = versions.new.helm("rollback", versions.new.name, "1", *wait, within=ROLLBACK_SECONDS + 30)
        assert done.returncode == 0, done.stderr
        gates = {"orchestrator": ("orchestrator", "schema"), "warehouse": ("registration", "migrate-warehouse")}
        for database, (part, container) in gates.items():
            if newer[database] != revisions[database]:
                # of the warehouse 0.1.0 names the one that it does not know
                names = [newer[database]] + ([revisions[database]] if database == "orchestrator" else [])

                def named(part: str = part, container: str = container, names: list[str] = names) -> bool:
                    said = refusals(versions.new, part, container)
                    return all(one in said for one in names)

                eventually(named, within=ROLLBACK_SECONDS, what=f"{part} names both revisions of {database}")
    # Where only the warehouse is newer, the older orchestrator serves; else the newer one never went away. But between
    # two of Prefect's servers there is none, and nobody waited.
    versions.new.rolled_out("prefect-server", "source", within=150)
    completed_once(versions.new, run_id)
    kept(versions.new)
    versions.new.up(versions.values)
    kept(versions.new)


def test_uninstalling_leaves_what_the_notes_name(versions: Versions) -> None:
    """The claim and the Secret of the data; flow runs' Jobs go by themselves."""
    notes = versions.new.helm("get", "notes", versions.new.name, within=60).stdout
    versions.new.uninstall()
    kept_objects = {
        "persistentvolumeclaim/data-pipelines-postgresql-0": "the claim data-pipelines-postgresql-0",
        "secret/pipelines-postgresql": "the Secret pipelines-postgresql",
    }

    def left() -> bool:
        return objects(versions.new.kubectl) - versions.before == set(kept_objects)

    try:
        eventually(left, within=TTL_SECONDS + 120, what="nothing but the data is left", every=2)
    except AssertionError:
        pytest.fail(f"left behind: {sorted(objects(versions.new.kubectl) - versions.before - set(kept_objects))}")
    for words in kept_objects.values():
        assert words in notes
