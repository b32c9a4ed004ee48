"""A credential is changed while runs go on, by the commands of the chart's README: all follow, no run is lost."""

import re
import subprocess
from pathlib import Path

import httpx

from .platform import Kubectl, Platform, Release, eventually

README = Path(__file__).parents[2] / "charts" / "pipelines" / "README.md"
ROLLOUT_SECONDS = 180
RUN_SECONDS = 300


def documented(kubectl: Kubectl, release: Release) -> None:
    """Run the README's commands on this release, as somebody would who pastes them."""
    section = README.read_text().partition("## A change of a credential")[2].partition("\n## ")[0]
    [commands] = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    commands = commands.replace("kubectl --namespace pipelines", " ".join(kubectl.command()))
    commands = commands.replace("pipelines-prefect-auth", f"{release.name}-prefect-auth")
    commands = commands.replace("instance=pipelines", f"instance={release.name}")
    subprocess.run(["bash", "-euo", "pipefail", "-c", commands], check=True, timeout=120)


def test_prefects_credential_is_changed_without_losing_a_run(release: Release, kubectl: Kubectl) -> None:
    """The old one is refused, the new one opens; runs on their way and one that comes after load their days, once."""
    old = kubectl.secret(f"{release.name}-prefect-auth", "auth-string")
    with Platform.connect(release) as platform:
        before = [platform.start({"logical_date": f"2013-06-0{day}"}) for day in range(1, 4)]
        eventually(
            lambda: any(platform.status(run)["state"] == "Running" for run in before),
            within=120,
            every=0.2,
            what="a run is on its way",
        )
        documented(kubectl, release)
    for part in ("prefect-server", "worker", "orchestrator"):
        kubectl("rollout", "status", f"deployment/{release.name}-{part}", f"--timeout={ROLLOUT_SECONDS}s")
    new = kubectl.secret(f"{release.name}-prefect-auth", "auth-string")
    assert new != old
    with Platform.connect(release) as platform:
        user, _, password = old.partition(":")
        refused = httpx.post(f"{platform.prefect.base_url}flow_runs/count", json={}, auth=(user, password))
        assert refused.status_code == 401, refused.text
        assert platform.prefect.post("/flow_runs/count", json={}).status_code == 200
        after = platform.start({"logical_date": "2013-06-04"})
        for run in [*before, after]:
            assert platform.finished(run, within=RUN_SECONDS)["state"] == "Completed", run
    loaded = release.query("warehouse", "SELECT run_id, count(*) FROM loads GROUP BY run_id")
    counts = {run: count for run, count in loaded if run in {*before, after}}
    assert counts == dict.fromkeys([*before, after], "1")
