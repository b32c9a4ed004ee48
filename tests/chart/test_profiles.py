"""The profiles: what belongs together is set together, and half of it is refused."""

from typing import Any

import pytest
import yaml

from .conftest import CHART, SCENARIOS, SOURCE, Manifest, containers, find, pods, profile, refusal, render

SERVERS = ("Deployment/pipelines-prefect-server", "Deployment/pipelines-prefect-services")
SHARED = {
    "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
    "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
    "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
    "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE": "prefect_redis.cleanup_queue",
}
URLS = {"PREFECT_REDIS_MESSAGING_URL", "PREFECT_SERVER_DOCKET_URL", "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL"}


def environment(container: Manifest) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


@pytest.mark.parametrize(
    ("scenario", "secret"), [("profile ha", "pipelines-valkey"), ("a broker of their own", "our-redis")]
)
def test_server_processes_share_everything_or_nothing(scenario: str, secret: str) -> None:
    """Messages, ordering, leases, queued work and cleanup go by the broker, in both processes alike."""
    found = pods(render(SCENARIOS[scenario]))
    for name in SERVERS:
        [container] = found[name]["spec"]["containers"]
        told = environment(container)
        assert {key: told[key] for key in SHARED} == SHARED
        for url in URLS:
            assert told[url] == {"secretKeyRef": {"name": secret, "key": "url"}}


def test_one_server_needs_no_broker() -> None:
    """`small`: the services in the API's process, nothing of Redis; leases in files, one server at a time."""
    objects = render(SCENARIOS["profile small"])
    [container] = pods(objects)[SERVERS[0]]["spec"]["containers"]
    told = environment(container)
    assert not [name for name in told if "REDIS" in name or "DOCKET" in name]
    assert told["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] == "prefect.server.concurrency.lease_storage.filesystem"
    assert "--no-services" not in container["command"]
    assert SERVERS[1] not in pods(objects)
    assert find(objects, "Deployment", "pipelines-prefect-server")["spec"]["strategy"] == {"type": "Recreate"}


def test_ha_has_two_of_what_answers() -> None:
    """Two APIs of each kind, spread over nodes, guarded in a drain; the services once, apart; no database."""
    objects = render(SCENARIOS["profile ha"])
    for name in ("pipelines-orchestrator", "pipelines-prefect-server"):
        deployment = find(objects, "Deployment", name)
        assert deployment["spec"]["replicas"] == 2
        spreads = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert {one["topologyKey"] for one in spreads} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
        budget = find(objects, "PodDisruptionBudget", name)
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["selector"] == deployment["spec"]["selector"]
    server = find(objects, "Deployment", "pipelines-prefect-server")["spec"]
    assert server["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert "--no-services" in server["template"]["spec"]["containers"][0]["command"]
    assert find(objects, "Deployment", "pipelines-prefect-services")["spec"]["replicas"] == 1
    assert [o["metadata"]["name"] for o in objects if o["kind"] == "StatefulSet"] == ["pipelines-valkey"]


def test_a_single_pod_has_no_budget(objects: list[Manifest]) -> None:
    """A budget for one pod would only keep nodes from being emptied."""
    replicas = {o["metadata"]["name"]: o["spec"]["replicas"] for o in objects if o["kind"] == "Deployment"}
    budgets = {o["metadata"]["name"] for o in objects if o["kind"] == "PodDisruptionBudget"}
    assert budgets == {name for name, count in replicas.items() if count > 1}


def test_small_is_the_default() -> None:
    """The profile says in a file what the chart does without one."""
    small, default = (
        [o for o in render(SCENARIOS[name]) if o["kind"] != "Secret"]
        for name in ("profile small", "source of their own")
    )
    assert small == default


def test_a_profile_names_values_that_exist() -> None:
    """And none of them sets a credential."""
    for path in (CHART / "profiles").iterdir():
        assert "password" not in path.read_text(), path.name
        assert set(yaml.safe_load(path.read_text())) <= set(yaml.safe_load((CHART / "values.yaml").read_text()))


def test_prefects_schema_is_migrated_apart_and_awaited(objects: list[Manifest]) -> None:
    """A Job of its own migrates; every server process waits for the revision and migrates nothing itself."""
    found = pods(objects)
    [job] = [name for name in found if name.startswith("Job/pipelines-prefect-db-")]
    assert found[job]["spec"]["containers"][0]["command"][:4] == ["python", "-m", "prefect_schema", "migrate"]
    for name in SERVERS:
        if name not in found:
            continue
        [gate] = found[name]["spec"]["initContainers"]
        assert gate["command"][:4] == ["python", "-m", "prefect_schema", "check"]
        [server] = found[name]["spec"]["containers"]
        assert environment(server)["PREFECT_SERVER_DATABASE_MIGRATE_ON_START"] == "false"
        assert gate["image"] == server["image"] == found[job]["spec"]["containers"][0]["image"]


HA: Manifest = {"replicas": 2, "separateServices": True}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"prefectServer": {"replicas": 2}}, ["prefectServer.replicas", "messages, leases", "valkey.enabled=true"]),
        (
            {"prefectServer": {"replicas": 2}, "valkey": {"enabled": True}},
            ["prefectServer.replicas", "background services", "prefectServer.separateServices=true"],
        ),
        (
            {"prefectServer": {"separateServices": True}},
            ["prefectServer.separateServices", "share nothing", "broker.existingSecret"],
        ),
        (
            {"prefectServer": HA, "valkey": {"enabled": True}, "broker": {"existingSecret": "x"}},
            ["broker.existingSecret", "only one can be used", "valkey.enabled=false"],
        ),
        (
            {"broker": {"egress": [{"ports": [{"port": 6379}]}]}},
            ["broker.egress", "names none", "broker.existingSecret"],
        ),
    ],
    ids=["no broker", "services twice", "services alone", "two brokers", "a way to nothing"],
)
def test_half_of_high_availability_is_refused(values: Manifest, says: list[str]) -> None:
    """The message names the value, the reason and the fix."""
    message = refusal({**SOURCE, **values})
    assert all(words in message for words in says), message


def test_ha_asks_for_its_database() -> None:
    assert "database.existingSecret" in refusal(profile("ha", SOURCE))


def test_the_valkey_takes_its_password_from_its_secret() -> None:
    """Not from an argument, and clients and server from the same Secret."""
    objects = render(SCENARIOS["profile ha"])
    secret = find(objects, "Secret", "pipelines-valkey")["stringData"]
    assert secret["url"] == f"redis://:{secret['password']}@pipelines-valkey:6379/0"
    [valkey] = containers(pods(objects)["StatefulSet/pipelines-valkey"])
    assert secret["password"] not in str(valkey)
    assert environment(valkey)["VALKEY_PASSWORD"] == {"secretKeyRef": {"name": "pipelines-valkey", "key": "password"}}
