"""A second pipeline on the cluster, by values alone: its image, its registration, its runs by the API, its model."""

from collections.abc import Iterator
from typing import Any

import pytest

from .platform import Platform, Release, eventually

RUN_SECONDS = 300
FIRST, LAST, AFTER = "2013-03-01", "2013-03-14", "2013-03-15"


@pytest.fixture(scope="module")
def with_training(release: Release) -> Iterator[Release]:
    """The release with the weekly training, whose image is built and loaded for it; taken off the list afterwards."""
    release.up(release.root / "k8s" / "kind" / "delay-model.yaml")
    yield release
    release.up()


def loaded(platform: Platform) -> None:
    """Load two weeks by a backfill, several days a pod."""
    asked = {"from": FIRST, "to": LAST, "mode": "missing", "max_concurrent": 2, "runs_per_pod": 7}
    shown = platform.api.post("/api/etl/backfill", json=asked).raise_for_status().json()
    created = platform.api.post("/api/etl/backfill", json={**asked, "digest": shown["digest"]})
    assert created.status_code == 202, created.text
    path = f"/api/etl/backfill/{created.json()['backfill_id']}"

    def finished() -> dict[str, Any] | None:
        progress: dict[str, Any] = platform.api.get(path).raise_for_status().json()
        return progress if progress["status"] == "finished" else None

    eventually(finished, within=RUN_SECONDS, what="the backfill is finished")


def test_a_second_pipeline_trains_a_model(with_training: Release) -> None:
    """Started by the API, refused by name on too few days, Completed on enough; model and artifacts are there."""
    release = with_training
    with Platform.connect(release) as platform:
        offered = {
            one["name"]: one for one in platform.api.get("/api/pipelines").raise_for_status().json()["pipelines"]
        }
        assert set(offered) == {"etl", "delay-model"}
        loaded(platform)
        refused = platform.start({"logical_date": AFTER, "parameters": {"least_days": 90}}, pipeline="delay-model")
        run_id = platform.start({"logical_date": AFTER, "parameters": {"least_days": 14}}, pipeline="delay-model")
        status = platform.finished(run_id, within=RUN_SECONDS, pipeline="delay-model")
        assert status["state"] == "Completed", status
        [[flow_run_id, days, note]] = release.query(
            "warehouse", f"SELECT flow_run_id, days, note FROM delay_models WHERE run_id = '{run_id}'"
        )
        assert (flow_run_id, int(days) >= 14) == (status["flow_run_id"], True)
        assert note in status["message"]
        artifacts = platform.prefect.post(
            "/artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": [flow_run_id]}}}
        ).json()
        assert {one["key"] for one in artifacts} == {
            "delay-model-metrics",
            "delay-model-importances",
            "delay-model-calibration",
        }

        status = platform.finished(refused, within=RUN_SECONDS, pipeline="delay-model")
        assert status["state"] == "Failed", status

        def named() -> str | None:
            reason = platform.status(refused, pipeline="delay-model")["reason"]
            return reason["id"] if reason else None

        assert eventually(named, within=60, what="the cause is named") == "PL115"
