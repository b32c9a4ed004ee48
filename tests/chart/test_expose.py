"""How the API and Prefect's page are reached from outside, and that nobody gets there without a credential."""

from typing import Any

import pytest

from .conftest import PROXY, SCENARIOS, SOURCE, Manifest, containers, merged, pods, refusal, render

INGRESS = SCENARIOS["by an ingress"]
GATEWAY = SCENARIOS["by a gateway"]


def server(objects: list[Manifest]) -> dict[str, Any]:
    [container] = pods(objects)["Deployment/pipelines-prefect-server"]["spec"]["containers"]
    probes = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    return {one["name"]: one.get("value") for one in container["env"]} | {"probes": probes}


def test_an_ingress_sends_each_path_to_its_part() -> None:
    """Prefect under its path, the API everywhere else, by https."""
    [ingress] = [o for o in render(INGRESS) if o["kind"] == "Ingress"]
    [rule] = ingress["spec"]["rules"]
    assert rule["host"] == "pipelines.example.com"
    assert [
        (path["path"], path["backend"]["service"]["name"], path["backend"]["service"]["port"]["number"])
        for path in rule["http"]["paths"]
    ] == [("/prefect", "pipelines-prefect-server", 4200), ("/", "pipelines-orchestrator", 8080)]
    assert ingress["spec"]["tls"] == [{"hosts": ["pipelines.example.com"]}]
    assert "ingressClassName" not in ingress["spec"]


def test_two_hosts_are_two_rules() -> None:
    """With a certificate and a class of their own."""
    values = merged(
        INGRESS,
        {
            "expose": {
                "prefect": {"host": "prefect.example.com", "path": ""},
                "tls": {"existingSecret": "certificate"},
                "ingressClassName": "nginx",
                "annotations": {"example.com/a": "b"},
            }
        },
    )
    [ingress] = [o for o in render(values) if o["kind"] == "Ingress"]
    assert {rule["host"] for rule in ingress["spec"]["rules"]} == {"pipelines.example.com", "prefect.example.com"}
    assert ingress["spec"]["tls"][0]["secretName"] == "certificate"
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert ingress["metadata"]["annotations"] == {"example.com/a": "b"}
    assert server(render(values))["PREFECT_UI_API_URL"] == "https://prefect.example.com/api"


def test_routes_hang_on_the_gateway_of_the_values() -> None:
    """One route a part, each under its host."""
    routes = {o["metadata"]["name"]: o["spec"] for o in render(GATEWAY) if o["kind"] == "HTTPRoute"}
    assert {
        name: (route["hostnames"], route["rules"][0]["backendRefs"][0]["port"]) for name, route in routes.items()
    } == {
        "pipelines-orchestrator": (["pipelines.example.com"], 8080),
        "pipelines-prefect-server": (["prefect.example.com"], 4200),
    }
    assert all(route["parentRefs"] == GATEWAY["expose"]["gateways"] for route in routes.values())


AT_EACH_DOOR = pytest.mark.parametrize(
    ("values", "url", "base"),
    [
        (SOURCE, "http://localhost:4200/api", ""),
        (INGRESS, "https://pipelines.example.com/prefect/api", "/prefect"),
        (GATEWAY, "https://prefect.example.com/api", ""),
        (merged(GATEWAY, {"expose": {"tls": {"enabled": False}}}), "http://prefect.example.com/api", ""),
        (merged(INGRESS, {"expose": {"prefect": {"path": ""}}}), "http://localhost:4200/api", ""),
        ({**SOURCE, "prefectServer": {"uiApiUrl": "https://proxy/prefect/api"}}, "https://proxy/prefect/api", ""),
    ],
    ids=["port-forward", "a path", "a host", "plain", "the API alone", "a proxy of their own"],
)


@AT_EACH_DOOR
def test_the_platforms_page_links_to_prefects(values: Manifest, url: str, base: str) -> None:
    """Where that is exposed, or said; nowhere else: by a port-forward nobody knows whether it is open."""
    [container] = pods(render(values))["Deployment/pipelines-orchestrator"]["spec"]["containers"]
    told = {one["name"]: one.get("value") for one in container["env"]}
    exposed = values.get("expose", {}).get("by", "none") != "none" and "localhost" not in url
    assert told.get("ORCHESTRATOR_PREFECT_UI_URL") == (url.removesuffix("/api") if exposed else None)
    assert base in url
    said = merged(values, {"orchestrator": {"prefectUiUrl": "http://localhost:4200"}})
    [container] = pods(render(said))["Deployment/pipelines-orchestrator"]["spec"]["containers"]
    assert {"name": "ORCHESTRATOR_PREFECT_UI_URL", "value": "http://localhost:4200"} in container["env"]


@AT_EACH_DOOR
def test_the_page_finds_its_api(values: Manifest, url: str, base: str) -> None:
    """The browser's URL follows from what is exposed; server, probes and clients agree on the path."""
    objects = render(values)
    told = server(objects)
    assert told["PREFECT_UI_API_URL"] == url
    assert told.get("PREFECT_SERVER_API_BASE_PATH", "/api") == f"{base}/api"
    assert told.get("PREFECT_SERVER_UI_SERVE_BASE", "") == base
    assert told["probes"] == {f"{base}/api/ready", f"{base}/api/health"}
    clients = {
        variable["value"]
        for name, pod in pods(objects).items()
        if "prefect-server" not in name
        for container in containers(pod)
        for variable in container.get("env", [])
        if variable["name"] in {"PREFECT_API_URL", "ORCHESTRATOR_PREFECT_API_URL"}
    }
    assert clients == {f"http://pipelines-prefect-server:4200{base}/api"}


@pytest.mark.parametrize("values", [INGRESS, GATEWAY], ids=["ingress", "gateway"])
def test_the_proxy_gets_through_the_policies(values: Manifest) -> None:
    """To what is exposed, by the peers of the values."""
    objects = render(values)
    for part in ("orchestrator", "prefect-server"):
        [policy] = [o for o in objects if o["kind"] == "NetworkPolicy" and o["metadata"]["name"] == f"pipelines-{part}"]
        assert PROXY[0] in policy["spec"]["ingress"][0]["from"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"expose": {"by": "none"}}, ["expose.by", "nothing would answer", "ingress or gateway"]),
        ({"expose": {"host": ""}}, ["expose.host", "no host name", "pipelines.example.com"]),
        (
            {"orchestrator": {"auth": {"mode": "none", "apiKeys": {"existingSecret": ""}}}},
            ["expose.by", "orchestrator.auth.mode is none", "apiKey or kubernetes"],
        ),
        ({"orchestrator": {"allowFrom": []}}, ["orchestrator.allowFrom", "NetworkPolicies", "namespaceSelector"]),
        ({"prefectServer": {"allowFrom": []}}, ["prefectServer.allowFrom", "NetworkPolicies", "expose.prefect empty"]),
        ({"expose": {"by": "gateway"}}, ["expose.gateways", "no Gateway is named"]),
        ({"expose": {"gateways": [{"name": "x"}]}}, ["expose.gateways", "expose.by is ingress", "expose.by=gateway"]),
        (
            {"expose": {"prefect": {"host": "pipelines.example.com", "path": ""}}},
            ["expose.prefect.host", "both would be at its root", "/prefect"],
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_half_an_exposure_is_refused(change: Manifest, says: list[str]) -> None:
    """The message names the value, the reason and the fix."""
    message = refusal(merged(INGRESS, change))
    assert all(words in message for words in says), message


def test_a_class_belongs_to_an_ingress() -> None:
    assert "expose.by=ingress" in refusal(merged(GATEWAY, {"expose": {"ingressClassName": "nginx"}}))
