"""The weekly training as its pod runs it: `python -m etl.start` on a real Prefect server and warehouse."""

import asyncio
import json
import uuid
from base64 import b64decode
from datetime import date, timedelta
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import polars as pl
from etl.deploy import register_within
from etl.registration import Deployment, Registration, WorkPool
from prefect.settings import PREFECT_API_URL, temporary_settings

from .pods import DAY, RUN_SECONDS, Platform

DAYS = 14


def repeated(platform: Platform) -> None:
    """The day that a run loaded, put under the dates before it too: days enough to learn from."""
    with adbc.connect(platform.warehouse) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM flights WHERE logical_date = $1", (DAY,))
        flights = cursor.fetch_polars()
        for number in range(1, DAYS):
            earlier = flights.with_columns(pl.lit(DAY - timedelta(days=number)).alias("logical_date"))
            cursor.adbc_ingest("flights", earlier, mode="append")
        connection.commit()


def deploy(platform: Platform) -> str:
    """Register the training with the Prefect server."""
    name = f"model-{uuid.uuid4().hex[:8]}"
    training = Deployment(entrypoint="delay_model.flow.delay_model", name=name, work_queue="models")
    registration = Registration(work_pool=WorkPool(name=name), deployments=(training,))
    api = str(platform.prefect.base_url).rstrip("/")
    with temporary_settings({PREFECT_API_URL: api}):
        asyncio.run(register_within(registration, wait_seconds=10))
    found = platform.prefect.get(f"/deployments/name/delay_model/{name}").raise_for_status().json()
    assert found["parameter_openapi_schema"]["properties"]["least_days"]["maximum"] == 90
    return str(found["id"])


def trained(platform: Platform, deployment_id: str, **parameters: Any) -> tuple[str, dict[str, Any], str]:
    """A run of the training to its end: its id, its state, and what its process said."""
    answer = platform.prefect.post(f"/deployments/{deployment_id}/create_flow_run", json={"parameters": parameters})
    flow_run_id = str(answer.raise_for_status().json()["id"])
    process = platform.execute(flow_run_id)
    _, stderr = process.communicate(timeout=RUN_SECONDS)
    assert process.returncode == 0, stderr
    return flow_run_id, platform.run(flow_run_id)["state"], stderr


def test_a_training_is_a_run_like_any_other(platform: Platform) -> None:
    """Refused by name on too few days; on enough it leaves a model and artifacts; trained again, it replaces none."""
    loading = platform.accept()
    _, stderr = platform.execute(loading).communicate(timeout=RUN_SECONDS)
    assert platform.run(loading)["state_name"] == "Completed", stderr
    deployment_id = deploy(platform)
    after = (DAY + timedelta(days=1)).isoformat()

    _, state, _ = trained(platform, deployment_id, logical_date=after, least_days=DAYS)
    assert state["name"] == "Failed"
    assert "TooFewDays: 1 days" in state["message"]
    assert platform.query("SELECT count(*) FROM delay_models") == [(0,)]

    repeated(platform)
    flow_run_id, state, stderr = trained(platform, deployment_id, logical_date=after, least_days=DAYS)
    assert state["name"] == "Completed", stderr
    [row] = platform.query(
        "SELECT flow_run_id::text, first_day, last_day, days, in_use, note, fence = (SELECT max(fence) FROM claims)"
        " FROM delay_models"
    )
    assert row[:4] == (flow_run_id, DAY - timedelta(days=DAYS - 1), DAY, DAYS)
    assert row[6] is True
    assert row[5] in state["message"]
    artifacts = platform.artifacts(flow_run_id)
    assert {key: one["type"] for key, one in artifacts.items()} == {
        "delay-model-metrics": "table",
        "delay-model-importances": "image",
        "delay-model-calibration": "image",
    }
    assert [one["model"] for one in json.loads(artifacts["delay-model-metrics"]["data"])][:2] == ["new", "baseline"]
    svg = b64decode(artifacts["delay-model-calibration"]["data"].partition(",")[2]).decode()
    assert "predicted delay, minutes" in svg
    assert {"start", "claim", "read", "train", "keep"} == {line["step"] for line in platform.log_lines(flow_run_id)}

    again, state, stderr = trained(platform, deployment_id, logical_date=after, least_days=DAYS)
    assert state["name"] == "Completed", stderr
    models = platform.query("SELECT flow_run_id::text, in_use, model FROM delay_models ORDER BY id")
    assert [one[:2] for one in models] == [(flow_run_id, row[4]), (again, False)]
    assert models[0][2] == models[1][2]
    # a load of the training's logical date is not disturbed by it
    assert platform.query("SELECT count(*) FROM claims WHERE logical_date = $1", date.fromisoformat(after)) == [(0,)]
