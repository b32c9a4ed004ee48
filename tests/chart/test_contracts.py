"""What the chart agrees on with the code and with Kubernetes: variables, names, schemas, probes, gates."""

import copy
import json
from datetime import timedelta
from typing import Any

import pytest
import yaml
from etl.registration import DAILY_JOB, Registration
from etl.settings import EtlSettings
from orchestrator.settings import Pipeline, Settings
from prefect.settings import Settings as PrefectSettings
from prefect.settings.legacy import _get_settings_fields
from prefect.settings.models.server.events import ServerEventsSettings
from prefect.settings.models.server.services import ServerServicesDBVacuumSettings
from prefect_kubernetes import KubernetesWorker
from prefect_kubernetes.settings import KubernetesSettings
from prefect_redis.cleanup_queue import RedisWorkerCleanupQueueSettings
from prefect_redis.client import RedisMessagingSettings

from .conftest import (
    CHART,
    SCENARIOS,
    SOURCE,
    Manifest,
    containers,
    find,
    flow_pod,
    pods,
    refusal,
    registration,
    render,
)

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def variables(objects: list[Manifest], prefix: str) -> set[str]:
    return {
        variable["name"]
        for pod in pods(objects).values()
        for container in containers(pod)
        for variable in container.get("env", [])
        if variable["name"].startswith(prefix)
    }


def test_orchestrator_variables_are_its_settings(objects: list[Manifest]) -> None:
    """An unknown environment variable would pass unseen: each one set is a field."""
    assert variables(objects, "ORCHESTRATOR_") <= {f"ORCHESTRATOR_{field}".upper() for field in Settings.model_fields}


@pytest.mark.parametrize("scenario", ["everything set", "kind"])
def test_spans_go_to_the_collector_of_the_values(scenario: str) -> None:
    """The orchestrator and the flow pods are told it and let through to it; nobody else, and nobody without one."""
    objects = render(SCENARIOS[scenario])
    telemetry = SCENARIOS[scenario].get("telemetry")
    told = {
        name: variable["value"]
        for name, pod in pods(objects).items()
        for variable in pod["spec"]["containers"][0].get("env", [])
        if variable["name"] == "OTEL_EXPORTER_OTLP_ENDPOINT"
    }
    parts = ["Deployment/pipelines-orchestrator", "flow run"] if telemetry else []
    assert told == dict.fromkeys(parts, "http://otel-collector.monitoring:4318")
    opened = {
        policy["metadata"]["name"]
        for policy in objects
        if policy["kind"] == "NetworkPolicy"
        and telemetry
        and telemetry["egress"][0] in policy["spec"].get("egress", [])
    }
    assert opened == ({"pipelines-orchestrator", "pipelines-flow-run"} if telemetry else set())


def test_etl_variables_are_its_settings(objects: list[Manifest]) -> None:
    """The same for the flow; the wait is etl.start's own."""
    known = {f"ETL_{field}".upper() for field in EtlSettings.model_fields} | {"ETL_API_WAIT_SECONDS"}
    assert variables(objects, "ETL_") <= known


def test_prefect_variables_are_prefects_settings(objects: list[Manifest]) -> None:
    """Each PREFECT_* variable is one that this version of Prefect reads."""
    known = set(_get_settings_fields(PrefectSettings))
    worker = "PREFECT_INTEGRATIONS_KUBERNETES_"
    nested = KubernetesSettings.model_fields
    known |= {f"{worker}WORKER_{field}".upper() for field in nested["worker"].annotation.model_fields}  # type: ignore[union-attr]
    known |= {f"{worker}OBSERVER_{field}".upper() for field in nested["observer"].annotation.model_fields}  # type: ignore[union-attr]
    known |= {f"PREFECT_REDIS_MESSAGING_{field}".upper() for field in RedisMessagingSettings.model_fields}
    known |= {
        f"PREFECT_REDIS_WORKER_CLEANUP_QUEUE_{field}".upper() for field in RedisWorkerCleanupQueueSettings.model_fields
    }
    assert variables(objects, "PREFECT_") <= known


def test_the_registration_is_what_the_etl_image_reads(objects: list[Manifest]) -> None:
    """The ConfigMap's document passes etl.registration, and its daily job is the one that the image declares itself."""
    declared = Registration.model_validate(registration(objects))
    assert declared.work_pool.type == "kubernetes"
    # By this it knows its own deployments again: the namespace too, a release's name is not the cluster's.
    assert declared.release == "data/pipelines"
    [deployment] = declared.deployments
    assert deployment == DAILY_JOB


def test_the_orchestrator_offers_what_is_registered(objects: list[Manifest]) -> None:
    """One list makes both: a pipeline cannot be offered without being registered."""
    [container] = find(objects, "Deployment", "pipelines-orchestrator")["spec"]["template"]["spec"]["containers"]
    [offered] = [v["value"] for v in container["env"] if v["name"] == "ORCHESTRATOR_PIPELINES"]
    assert json.loads(offered) == [{"name": "etl", "deployment": "daily_job/daily-0900"}]


@pytest.mark.parametrize(
    ("set_to", "passed"),
    [
        (
            {"maxAttempts": 5, "startDeadlineSeconds": 600, "runDeadlineSeconds": 7200.5, "missedSchedules": "latest"},
            {
                "max_attempts": 5,
                "start_deadline_seconds": 600,
                "run_deadline_seconds": 7200.5,
                "missed_schedules": "latest",
            },
        ),
        (
            {"startDeadlineSeconds": None, "missedAfterSeconds": 60},
            {"start_deadline_seconds": None, "missed_after_seconds": 60},
        ),
    ],
)
def test_what_becomes_of_a_stopped_run_reaches_the_orchestrator(set_to: Manifest, passed: Manifest) -> None:
    """Each value under its setting's name, null included, and what is not set is the service's own default."""
    pipeline = VALUES["pipelines"][0] | set_to
    objects = render(SOURCE | {"pipelines": [pipeline]})
    [container] = find(objects, "Deployment", "pipelines-orchestrator")["spec"]["template"]["spec"]["containers"]
    [offered] = [v["value"] for v in container["env"] if v["name"] == "ORCHESTRATOR_PIPELINES"]
    [one] = json.loads(offered)
    assert one == {"name": "etl", "deployment": "daily_job/daily-0900"} | passed
    Pipeline.model_validate(one)


def test_the_schema_names_every_setting_of_a_pipeline_with_its_default() -> None:
    """Who reads the reference reads what the service does."""
    described = SCHEMA["properties"]["pipelines"]["items"]["properties"]
    for name, field in Pipeline.model_fields.items():
        if name not in {"name", "deployment"}:
            first, *rest = name.split("_")
            default = (
                "null"
                if field.default is None
                else f"{field.default:g}"
                if isinstance(field.default, float)
                else field.default
            )
            said = described[f"{first}{''.join(part.title() for part in rest)}"]["description"]
            assert f"Default {default}" in said, name


def test_prefect_forgets_by_the_retention_that_is_set() -> None:
    """Days in the values, as Prefect's own settings read them; flow runs vacuumed too."""
    objects = render(SOURCE | {"prefectServer": {"retention": {"flowRunDays": 30, "eventDays": 2}}})
    [container] = find(objects, "Deployment", "pipelines-prefect-server")["spec"]["template"]["spec"]["containers"]
    env = {one["name"]: one.get("value") for one in container["env"]}
    assert env["PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"] == "events,flow_runs"
    vacuum = ServerServicesDBVacuumSettings(retention_period=env["PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"])
    assert vacuum.retention_period == timedelta(days=30)
    events = ServerEventsSettings(retention_period=env["PREFECT_SERVER_EVENTS_RETENTION_PERIOD"])
    assert events.retention_period == timedelta(days=2)


def test_the_orchestrator_ends_cancelled_runs_before_prefect_does(objects: list[Manifest]) -> None:
    """Prefect's own timeout is for what this service does not know."""
    [container] = find(objects, "Deployment", "pipelines-prefect-server")["spec"]["template"]["spec"]["containers"]
    name = "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_CANCELLING_TIMEOUT_SECONDS"
    [timeout] = [one["value"] for one in container["env"] if one["name"] == name]
    assert float(timeout) > Settings.model_fields["cancel_deadline_seconds"].default


def test_leases_of_slots_outlive_the_servers_process(objects: list[Manifest]) -> None:
    """They are files in Prefect's home, which is on a volume of the pod, or in the broker."""
    [container] = find(objects, "Deployment", "pipelines-prefect-server")["spec"]["template"]["spec"]["containers"]
    env = {one["name"]: one.get("value") for one in container["env"]}
    if "PREFECT_REDIS_MESSAGING_URL" in env:
        assert env["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] == "prefect_redis.lease_storage"
        return
    assert env["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] == "prefect.server.concurrency.lease_storage.filesystem"
    assert any(env["PREFECT_HOME"].startswith(mount["mountPath"]) for mount in container["volumeMounts"])


def test_the_job_template_keeps_prefects_variables(objects: list[Manifest]) -> None:
    """What a deployment may override with the stock template it may override here, but for what 0.8.0 never reads."""
    template = registration(objects)["workPool"]["baseJobTemplate"]
    stock = KubernetesWorker.get_default_base_job_template()["variables"]["properties"]
    dead = {"job_watch_timeout_seconds", "pod_watch_timeout_seconds", "stream_output", "cluster_config"}
    assert set(template["variables"]["properties"]) == set(stock) - dead


def test_a_flow_pod_is_as_prefect_needs_it(objects: list[Manifest]) -> None:
    """The container's name, no retry by Kubernetes, an end for finished Jobs, our entry, at least 256 MiB asked for."""
    template = registration(objects)["workPool"]["baseJobTemplate"]
    [container] = flow_pod(objects)["spec"]["containers"]
    default = {name: variable.get("default") for name, variable in template["variables"]["properties"].items()}
    assert container["name"] == "prefect-job"
    assert flow_pod(objects)["spec"]["restartPolicy"] == "Never"
    assert default["backoff_limit"] == 0
    assert default["finished_job_ttl"] > 0
    assert default["command"] == "python -m etl.start"
    assert default["namespace"] == "data"
    assert int(default["memory_request"].removesuffix("Mi")) >= 256


def test_values_for_flow_pods_reach_the_template() -> None:
    """Environment, node selector, tolerations, pull secrets, image."""
    objects = render(SCENARIOS["everything set"])
    spec = flow_pod(objects)["spec"]
    assert {"name": "ETL_MAX_REJECTED_RATIO", "value": "0.1"} in spec["containers"][0]["env"]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "batch"}
    assert spec["tolerations"] == [{"key": "batch", "operator": "Exists"}]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    properties = registration(objects)["workPool"]["baseJobTemplate"]["variables"]["properties"]
    assert properties["image"]["default"] == "registry.example.com/team/pipelines-etl:1.2.3"


def test_probes_survive_load(objects: list[Manifest]) -> None:
    """No probe gives up in less than 10 s or after a single try; a readiness that did lost runs in a burst."""
    for name, pod in pods(objects).items():
        for container in containers(pod):
            for kind in ("readinessProbe", "livenessProbe"):
                if kind in container:
                    assert container[kind]["timeoutSeconds"] >= 10, (name, kind)
                    assert container[kind]["failureThreshold"] >= 6, (name, kind)
    servers = [
        pod
        for name, pod in pods(objects).items()
        # the background services answer nothing that could be asked
        if name.startswith(("Deployment/", "StatefulSet/")) and name != "Deployment/pipelines-prefect-services"
    ]
    assert servers
    assert all("startupProbe" in pod["spec"]["containers"][0] for pod in servers)


def test_the_worker_outlives_an_outage_of_the_server() -> None:
    """Its health follows the server's: five minutes without one lead to no restart and its growing back-off."""
    worker = find(render(SCENARIOS["kind"]), "Deployment", "pipelines-worker")["spec"]["template"]["spec"]
    liveness = worker["containers"][0]["livenessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 300


def test_selectors_are_never_more_than_these(objects: list[Manifest]) -> None:
    """A selector cannot be changed in place: only name, instance and component are in it."""
    wanted = {f"app.kubernetes.io/{key}" for key in ("name", "instance", "component")}
    for o in objects:
        if o["kind"] in {"Deployment", "StatefulSet"}:
            assert set(o["spec"]["selector"]["matchLabels"]) == wanted
            assert o["spec"]["selector"]["matchLabels"].items() <= o["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("release", ["pipelines", "x", "a-release-name-that-is-fifty-three-characters-long-12"])
def test_names_are_short_enough(release: str) -> None:
    """63 characters for every name, label and the pod names made from them, however long the release's name is."""
    for o in render(SCENARIOS["kind"], release=release):
        name = o["metadata"]["name"]
        # What the controllers append in labels of their pods.
        assert len(name) <= 63 - {"Job": 6, "StatefulSet": 11}.get(o["kind"], 0), name
        assert all(len(str(value)) <= 63 for value in o["metadata"].get("labels", {}).values())


def test_a_job_is_named_by_what_it_does() -> None:
    """The same values give the same names; a change gives the Job that it concerns another, and only that one."""

    def jobs(values: Manifest) -> set[str]:
        return {o["metadata"]["name"] for o in render(values) if o["kind"] == "Job"}

    assert jobs(SOURCE) == jobs({**SOURCE, "worker": {"querySeconds": 2}})
    other_source = jobs({"flowRuns": {**SOURCE["flowRuns"], "sourceUrl": "https://other.example.com"}})
    assert {name.rpartition("-")[0] for name in jobs(SOURCE) - other_source} == {"pipelines-register"}
    other_pipelines = jobs({**SOURCE, "pipelines": [{**VALUES["pipelines"][0], "name": "daily"}]})
    assert jobs(SOURCE) == other_pipelines
    assert not jobs(SOURCE) & jobs({**SOURCE, "images": {"tag": "9.9.9"}})


def paths(schema: Manifest, definitions: Manifest, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every object of the schema that lists its properties."""
    schema = definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    found = [at] if "properties" in schema else []
    for name, property_schema in schema.get("properties", {}).items():
        found += paths(property_schema, definitions, (*at, name))
    return found


SCHEMA = json.loads((CHART / "values.schema.json").read_text())


@pytest.mark.parametrize("at", paths(SCHEMA, SCHEMA["$defs"]), ids=lambda at: ".".join(at) or "the top")
def test_an_unknown_key_is_refused(at: tuple[str, ...]) -> None:
    """At every level: a misspelt value never passes as if it had been heard."""
    values: Manifest = copy.deepcopy(SOURCE)
    place = values
    for key in at:
        place = place.setdefault(key, {})
    place["mispelt"] = True
    assert "mispelt" in refusal(values)


def test_every_value_is_in_the_schema_and_the_other_way_round() -> None:
    """values.yaml shows every key that the schema allows."""

    def keys(schema: Manifest, values: Any) -> None:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        if "properties" in schema:
            removed = {name for name, one in schema["properties"].items() if one.get("deprecated")}
            assert set(values) == set(schema["properties"]) - removed - {"global"}
            for name, value in values.items():
                if name != "pod":  # it takes the keys of `pods`, which shows them once for all
                    keys(schema["properties"][name], value)

    keys(SCHEMA, VALUES)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, ["flowRuns.sourceUrl", "source.enabled=true"]),
        ({**SOURCE, "postgresql": {"enabled": False}}, ["database.existingSecret", "postgresql.enabled=true"]),
        ({**SOURCE, "database": {"existingSecret": "x"}}, ["only one can be used", "postgresql.enabled=false"]),
        (
            {**SOURCE, "postgresql": {"enabled": False, "existingSecret": "x"}, "database": {"existingSecret": "y"}},
            ["postgresql.existingSecret", "database.existingSecret"],
        ),
        ({**SOURCE, "pipelines": VALUES["pipelines"] * 2}, ["pipelines[].", "stands twice"]),
        (
            {**SOURCE, "pipelines": [{**VALUES["pipelines"][0], "flow": "other"}]},
            ["pipelines[].flow", "does not match the entrypoint"],
        ),
    ],
)
def test_half_a_configuration_is_refused(values: Manifest, says: list[str]) -> None:
    """The message names the value, the reason and the fix."""
    message = refusal(values)
    assert all(words in message for words in says), message


def test_an_external_database_leaves_none_of_ours() -> None:
    """No StatefulSet, no generated password, no wait for a server that is not ours; the Secret is the given one."""
    objects = render(SCENARIOS["external database"])
    assert not [o for o in objects if o["kind"] == "StatefulSet"]
    assert [o["metadata"]["name"] for o in objects if o["kind"] == "Secret"] == ["pipelines-prefect-auth"]
    assert "wait-for-postgresql" not in str(objects)
    [server] = find(objects, "Deployment", "pipelines-prefect-server")["spec"]["template"]["spec"]["containers"]
    [url] = [v for v in server["env"] if v["name"] == "PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    assert url["valueFrom"]["secretKeyRef"] == {"name": "our-database", "key": "prefect-url"}


def test_two_releases_share_no_name() -> None:
    """Side by side in one namespace: no object of one stands in the way of the other's."""

    def names(release: str) -> set[tuple[str, str]]:
        return {(o["kind"], o["metadata"]["name"]) for o in render(SCENARIOS["kind"], release=release)}

    assert not names("pipelines") & names("other")


def test_prefect_keeps_its_connections(objects: list[Manifest]) -> None:
    """None is opened for a moment: what is beyond the pool would ask the catalog and prepare its statements anew."""
    [container] = find(objects, "Deployment", "pipelines-prefect-server")["spec"]["template"]["spec"]["containers"]
    env = {one["name"]: one.get("value") for one in container["env"]}
    assert env["PREFECT_SERVER_DATABASE_SQLALCHEMY_MAX_OVERFLOW"] == "0"
    assert int(env["PREFECT_SERVER_DATABASE_SQLALCHEMY_POOL_SIZE"]) >= 15  # as many as Prefect opens at its defaults
