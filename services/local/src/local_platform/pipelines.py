"""Which pipelines are registered and offered on this machine, as the chart's values list them for a cluster."""

import importlib.util
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A name in the API, and the deployment behind it, by what a registration file says of one (etl.registration)."""

    name: str
    flow: str
    deployment: dict[str, Any]

    @property
    def offered(self) -> dict[str, str]:
        """What the orchestrator is told."""
        return {"name": self.name, "deployment": f"{self.flow}/{self.deployment['name']}"}


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
    """Those whose flow is in this environment: `make demo` has the daily one alone, and needs no scikit-learn."""
    return [DAILY, *([WEEKLY] if importlib.util.find_spec("delay_model") else [])]
