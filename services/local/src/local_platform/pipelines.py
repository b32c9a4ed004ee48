"""Which pipelines are registered and offered on this machine, as the chart's values list them for a cluster.

Beside the two that this project brings, each flows/*/pipeline.yaml declares one: an entry of the chart's `pipelines`.
What such an entry says of images, memory and the like is for Kubernetes.
"""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from local_platform.errors import PlatformError

CHECKOUT = Path(__file__).parents[4]

_REQUIRED = ("name", "flow", "deployment", "entrypoint", "workQueue")
# What an entry may tell the registration, and under which name what it may tell the orchestrator.
_REGISTERED = ("entrypoint", "workQueue", "description", "tags", "parameters", "concurrencyLimit", "schedules")
_OFFERED = {
    "maxAttempts": "max_attempts",
    "startDeadlineSeconds": "start_deadline_seconds",
    "runDeadlineSeconds": "run_deadline_seconds",
    "missedSchedules": "missed_schedules",
    "missedAfterSeconds": "missed_after_seconds",
}


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A name in the API, and the deployment behind it, by what a registration file says of one (etl.registration).

    `limits`: what the orchestrator is told beside that, by its own names.
    """

    name: str
    flow: str
    deployment: dict[str, Any]
    limits: dict[str, Any] = field(default_factory=dict)

    @property
    def offered(self) -> dict[str, Any]:
        """What the orchestrator is told."""
        return {"name": self.name, "deployment": f"{self.flow}/{self.deployment['name']}", **self.limits}


DAILY = Pipeline(
    name="etl",
    flow="daily_job",
    deployment={
        "entrypoint": "etl.flow.daily_job",
        "name": "daily-0900",
        "workQueue": "week-10",
        "description": "Every morning at 09:00 in Madrid: yesterday's flights and weather into the warehouse.",
        "schedules": [{"slug": "daily-0900", "cron": "0 9 * * *", "timezone": "Europe/Madrid"}],
    },
)
WEEKLY = Pipeline(
    name="delay-model",
    flow="delay_model",
    deployment={
        "entrypoint": "delay_model.flow.delay_model",
        "name": "weekly-0600",
        "workQueue": "models",
        "description": "Every Monday at 06:00 in Madrid: a model of departure delay, from the last 90 loaded days.",
        "concurrencyLimit": 1,
        "schedules": [{"slug": "weekly-0600", "cron": "0 6 * * 1", "timezone": "Europe/Madrid"}],
    },
)


def installed() -> list[Pipeline]:
    """Those whose flow is in this environment: `make demo` has the daily one alone, and needs no scikit-learn.

    Raises:
        PlatformError: see declared.
    """
    brought = [DAILY, *([WEEKLY] if importlib.util.find_spec("delay_model") else [])]
    return [*brought, *declared(CHECKOUT, taken={pipeline.name for pipeline in brought})]


def declared(checkout: Path, *, taken: set[str]) -> list[Pipeline]:
    """The pipelines of flows/*/pipeline.yaml; `taken`: names that they may not have.

    Raises:
        PlatformError: a file is no YAML or lacks something, or two pipelines have one name; it names the file.
    """
    found: list[Pipeline] = []
    for file in sorted(checkout.glob("flows/*/pipeline.yaml")):
        entry = _read(file)
        if entry["name"] in taken | {pipeline.name for pipeline in found}:
            raise PlatformError(f"{file}: a pipeline {entry['name']} is there already; give it another name")
        deployment = {key: entry[key] for key in _REGISTERED if key in entry}
        limits = {theirs: entry[ours] for ours, theirs in _OFFERED.items() if ours in entry}
        found.append(
            Pipeline(
                name=entry["name"],
                flow=entry["flow"],
                deployment={"name": entry["deployment"], **deployment},
                limits=limits,
            )
        )
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        read = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as exc:
        raise PlatformError(f"{file} cannot be read: {exc}") from exc
    if not isinstance(read, dict):
        raise PlatformError(f"{file}: it is no map; an entry looks as in charts/pipelines/values.yaml")
    missing = [key for key in _REQUIRED if not read.get(key)]
    if missing:
        raise PlatformError(f"{file}: {', '.join(missing)} is missing")
    return read
