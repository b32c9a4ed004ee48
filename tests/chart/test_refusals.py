"""What the chart refuses before a cluster sees it, and what the message says to do."""

from typing import Any

import pytest
import yaml

from .conftest import CHART, EGRESS, SCENARIOS, SOURCE, Manifest, refusal, render

ETL = yaml.safe_load((CHART / "values.yaml").read_text())["pipelines"][0]
MORNING = {"slug": "morning", "cron": "0 9 * * *", "timezone": "Europe/Madrid"}


def pipeline(**changes: Any) -> Manifest:
    return {**SOURCE, "pipelines": [{**ETL, **changes}]}


@pytest.mark.parametrize(
    "values",
    [
        pipeline(mispelt=True),
        pipeline(schedules=[{**MORNING, "mispelt": True}]),
        {**SOURCE, "images": {"pullSecrets": [{"name": "registry", "mispelt": True}]}},
    ],
    ids=["a pipeline", "a schedule", "a pull secret"],
)
def test_an_unknown_key_in_a_list_is_refused(values: Manifest) -> None:
    """The entries of lists are as strict as the levels above."""
    assert "mispelt" in refusal(values)


@pytest.mark.parametrize(
    ("values", "where"),
    [
        (pipeline(name="Daily ETL"), "/pipelines/0/name"),
        (pipeline(flow="a/b", entrypoint="etl.flow.a/b"), "/pipelines/0/flow"),
        (pipeline(deployment="a/b"), "/pipelines/0/deployment"),
        (pipeline(entrypoint="etl/flow.py:daily_job"), "/pipelines/0/entrypoint"),
        (pipeline(schedules=[{"slug": "morning", "cron": "0 9 * * *"}]), "/pipelines/0/schedules/0"),
        ({**SOURCE, "pipelines": []}, "/pipelines"),
        ({**SOURCE, "flowRuns": {"resources": {"requests": {"nvidia.com/gpu": 1}}}}, "/flowRuns/resources/requests"),
        ({**SOURCE, "flowRuns": {"env": {"NOT-A-NAME": "x"}}}, "/flowRuns/env"),
        ({**SOURCE, "orchestrator": {"pollSeconds": 0}}, "/orchestrator/pollSeconds"),
        ({**SOURCE, "orchestrator": {"replicas": 0}}, "/orchestrator/replicas"),
        ({**SOURCE, "images": {"etl": {"digest": "latest"}}}, "/images/etl/digest"),
        ({**SOURCE, "telemetry": {"otlpEndpoint": "otel-collector:4318"}}, "/telemetry/otlpEndpoint"),
        ({**SOURCE, "fullnameOverride": "7-days"}, "/fullnameOverride"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_value_is_named(values: Manifest, where: str) -> None:
    """The schema's message carries the path of the value at fault."""
    assert f"'{where}'" in refusal(values)


def test_a_schedule_is_known_by_one_slug() -> None:
    """Two schedules of one slug would overwrite each other at each registration."""
    message = refusal(pipeline(schedules=[MORNING, {**MORNING, "cron": "0 21 * * *"}]))
    assert "pipelines[].schedules[].slug" in message
    assert "morning stands twice" in message


def test_a_source_behind_the_network_policy_is_refused() -> None:
    """A source that no egress rule lets flow pods reach; with the rule, or without policies, it is accepted."""
    away = {"flowRuns": {"sourceUrl": "https://flights.example.com"}}
    message = refusal(away)
    assert "flowRuns.egress" in message
    assert "networkPolicy.enabled=false" in message
    assert render({**away, "networkPolicy": {"enabled": False}})


def test_a_collector_behind_the_network_policies_is_refused() -> None:
    """Spans would be dropped silently; a way to nowhere is refused as well."""
    telemetry = {"otlpEndpoint": "http://otel-collector.monitoring:4318"}
    message = refusal({**SOURCE, "telemetry": telemetry})
    assert "telemetry.egress" in message
    assert "networkPolicy.enabled=false" in message
    assert render({**SOURCE, "telemetry": telemetry, "networkPolicy": {"enabled": False}})
    assert "telemetry.otlpEndpoint" in refusal({**SOURCE, "telemetry": {"egress": EGRESS}})


def test_a_flow_is_known_by_its_function_or_by_prefects_default_name() -> None:
    """`def daily_job` is daily_job where the flow says so, and daily-job where Prefect names it."""
    assert render(pipeline(flow="daily-job"))


@pytest.mark.parametrize("release", ["team.data", "data"])
def test_any_release_name_gives_names_that_services_may_have(release: str) -> None:
    """Helm allows dots in a release's name; a Service's name does not."""
    services = [o["metadata"]["name"] for o in render(SCENARIOS["kind"], release=release) if o["kind"] == "Service"]
    assert services
    assert not [name for name in services if "." in name]


def test_a_release_name_that_starts_with_a_digit_needs_another() -> None:
    """A Service's name starts with a letter: the message says which value gives it one."""
    assert "fullnameOverride" in refusal(SCENARIOS["kind"], release="7-days")
    assert render({**SCENARIOS["kind"], "fullnameOverride": "seven-days"}, release="7-days")
