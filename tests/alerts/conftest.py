"""The chart's alerts as Prometheus gets them, and promtool to run them on made-up series."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCHEDULE = [{"slug": "x", "cron": "0 9 * * *", "timezone": "Europe/Madrid"}]
# A daily one, a weekly one that is given its hours, and one that nothing starts by itself.
PIPELINES = [
    {"name": name, "flow": "job", "deployment": name, "entrypoint": "flows.job", "workQueue": "default", **schedules}
    for name, schedules in (("etl", {"schedules": SCHEDULE}), ("weekly", {"schedules": SCHEDULE}), ("by-hand", {}))
]
VALUES = {
    "source": {"enabled": True},
    "pipelines": PIPELINES,
    "monitoring": {"rules": {"enabled": True, "hoursWithoutSuccess": {"weekly": 170}}},
}

Rules = list[dict[str, Any]]
Promtool = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def rules() -> Rules:
    """The rules that helm renders for the release `pipelines` in the namespace `data`."""
    if shutil.which("helm") is None:
        pytest.skip("helm is not installed")
    command = ["helm", "template", "pipelines", str(ROOT / "charts/pipelines"), "--namespace", "data", "--values", "-"]
    done = subprocess.run(command, input=json.dumps(VALUES), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    [made] = [one for one in yaml.safe_load_all(done.stdout) if one and one["kind"] == "PrometheusRule"]
    found: Rules = [rule for group in made["spec"]["groups"] for rule in group["rules"]]
    return found


@pytest.fixture(scope="session")
def promtool() -> Promtool:
    """`promtool("check", "rules", path)`."""
    if shutil.which("promtool") is None:
        missing = "promtool is not installed (Debian and Ubuntu: apt install prometheus)"
        if os.environ.get("REQUIRE_PROMTOOL"):
            pytest.fail(missing)
        pytest.skip(missing)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=120, check=False)

    return run
