"""The pipelines of a laptop are those of a cluster."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from etl.registration import DAILY_JOB, Deployment
from local_platform.pipelines import DAILY, WEEKLY, Pipeline, installed

ROOT = Path(__file__).parents[3]
LISTED = yaml.safe_load((ROOT / "k8s" / "kind" / "delay-model.yaml").read_text())["pipelines"]


def test_the_daily_job_is_registered_as_without_a_file() -> None:
    """`make dev` writes a registration down; of the daily job it says what the registration says by itself."""
    assert Deployment.model_validate(DAILY.deployment) == DAILY_JOB


@pytest.mark.parametrize(("pipeline", "listed"), list(zip((DAILY, WEEKLY), LISTED, strict=True)))
def test_what_is_registered_here_is_what_kind_lists(pipeline: Pipeline, listed: dict[str, Any]) -> None:
    """Name, deployment, entrypoint, queue, schedule and limit; image and resources are a cluster's."""
    assert pipeline.offered == {"name": listed["name"], "deployment": f"{listed['flow']}/{listed['deployment']}"}
    cluster = {
        key: value for key, value in listed.items() if key not in {"name", "flow", "deployment", "image", "resources"}
    }
    assert pipeline.deployment == {**cluster, "name": listed["deployment"]}


def test_both_are_here_where_both_are_installed() -> None:
    """As in the environment of the tests, and of `make dev`."""
    assert installed() == [DAILY, WEEKLY]
