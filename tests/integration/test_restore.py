"""The chart's own PostgreSQL, backed up and restored as docs/restore.md says: nothing is missed."""

import re
import subprocess
from pathlib import Path

from .platform import Platform, Release, eventually

PAGE = Path(__file__).parents[2] / "docs" / "restore.md"
RUN_SECONDS = 300
RESTORE_SECONDS = 420
BEFORE, RUNNING, AFTER = "2013-05-06", "2013-05-07", "2013-05-08"


def documented(name: str, release: Release, folder: Path) -> None:
    """Execute the page's commands under that name on this release, as somebody would who pastes them."""
    [commands] = re.findall(rf"<!-- restore: {name} -->\n```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    commands = commands.replace("kubectl --namespace pipelines", " ".join(release.kubectl.command()))
    commands = commands.replace("pipelines-postgresql", f"{release.name}-postgresql")
    commands = commands.replace("instance=pipelines", f"instance={release.name}")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=RESTORE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_what_was_dumped_comes_back_and_what_ran_is_loaded_once(release: Release, tmp_path: Path) -> None:
    """A run that Prefect's dump has as running is found without its pod, executed again, and leaves one load.

    What came after the dumps is not there; a day that is run again is loaded.
    """
    with Platform.connect(release) as platform:
        before = platform.start({"logical_date": BEFORE})
        assert platform.finished(before, within=RUN_SECONDS)["state"] == "Completed"
        platform.source.put("/faults", json={"kind": "latency", "seconds": 20}).raise_for_status()
        running = platform.start({"logical_date": RUNNING})
        eventually(
            lambda: platform.status(running)["state"] == "Running",
            within=RUN_SECONDS,
            every=0.2,
            what="a run is on its way",
        )
        documented("chart backup", release, tmp_path)
        assert platform.status(running)["state"] == "Running", "the dumps were to be made meanwhile"
        platform.source.delete("/faults").raise_for_status()
        assert platform.finished(running, within=RUN_SECONDS)["state"] == "Completed"
        after = platform.start({"logical_date": AFTER})
        assert platform.finished(after, within=RUN_SECONDS)["state"] == "Completed"
    documented("chart restore", release, tmp_path)
    with Platform.connect(release) as platform:
        assert platform.status(before)["state"] == "Completed"
        assert platform.finished(running, within=RUN_SECONDS)["state"] == "Completed"
        assert platform.api.get(f"/api/etl/status/{after}").status_code == 404
        again = platform.start({"logical_date": AFTER})
        assert platform.finished(again, within=RUN_SECONDS)["state"] == "Completed"
    loads = dict(release.query("warehouse", "SELECT run_id, count(*) FROM loads GROUP BY run_id"))
    assert {run: loads.get(run) for run in (before, running, after, again)} == {
        before: "1",
        running: "1",
        after: None,
        again: "1",
    }
