"""What the chart gives to a Prometheus and a Grafana: nothing unless asked, and then what fits the release."""

import json
import re
from collections import defaultdict
from typing import Any

import pytest
import yaml
from orchestrator.catalogue import CATALOGUE

from .conftest import CHART, ROOT, SOURCE, Manifest, find, refusal, render

ALERTS = sorted(path.stem for path in (CHART / "alerts").glob("*.yaml"))
RUNBOOKS = ROOT / "docs" / "runbooks"
SCRAPER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
KEYS = {"mode": "apiKey", "apiKeys": {"existingSecret": "callers"}, "metricsOpen": False}
SCHEDULE = [{"slug": "x", "cron": "0 9 * * *", "timezone": "Europe/Madrid"}]
HEADINGS = ["What it means", "What users feel", "How to look", "How to fix it", "How to know it is over"]


def watched(*, orchestrator: Manifest | None = None, **monitoring: Any) -> Manifest:
    """Values with that much monitoring, and a scraper that is let in."""
    return {**SOURCE, "orchestrator": {"allowFrom": [SCRAPER], **(orchestrator or {})}, "monitoring": monitoring}


def rules(**values: Any) -> list[Manifest]:
    """The rules that are rendered where they are asked for."""
    pipelines = {"pipelines": values.pop("pipelines")} if "pipelines" in values else {}
    made = find(render({**watched(rules={"enabled": True, **values}), **pipelines}), "PrometheusRule", "pipelines")
    [group] = made["spec"]["groups"]
    found: list[Manifest] = group["rules"]
    return found


def pipeline(name: str, **more: Any) -> Manifest:
    entry = {"name": name, "flow": "job", "deployment": name, "entrypoint": "flows.job", "workQueue": "default"}
    return {**entry, **more}


def test_nothing_of_it_is_there_by_default() -> None:
    """A cluster without the operator has no such kinds."""
    for o in render(SOURCE):
        assert o["kind"] not in {"ServiceMonitor", "PrometheusRule"}
        assert "dashboard" not in o["metadata"]["name"]


def test_the_service_monitor_selects_the_orchestrators_service() -> None:
    """And nothing else of the release; the port and the path are those that it serves."""
    objects = render(watched(serviceMonitor={"enabled": True, "interval": "15s", "labels": {"release": "prom"}}))
    monitor = find(objects, "ServiceMonitor", "pipelines")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    [service] = [o for o in objects if o["kind"] == "Service" and wanted <= o["metadata"]["labels"].items()]
    assert service["metadata"]["name"] == "pipelines-orchestrator"
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint == {"port": service["spec"]["ports"][0]["name"], "path": "/metrics", "interval": "15s"}
    assert monitor["metadata"]["labels"]["release"] == "prom"


def test_the_service_monitor_brings_a_credential_where_one_is_asked_for() -> None:
    """By reference to a Secret."""
    credentials = {"existingSecret": "scraper", "key": "api-key"}
    values = watched(orchestrator={"auth": KEYS}, serviceMonitor={"enabled": True, "credentials": credentials})
    [endpoint] = find(render(values), "ServiceMonitor", "pipelines")["spec"]["endpoints"]
    assert endpoint["authorization"] == {"type": "Bearer", "credentials": {"name": "scraper", "key": "api-key"}}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {**SOURCE, "monitoring": {"serviceMonitor": {"enabled": True}}},
            ["monitoring.serviceMonitor.enabled", "orchestrator.allowFrom", "networkPolicy.enabled=false"],
        ),
        (
            watched(orchestrator={"auth": KEYS}, serviceMonitor={"enabled": True}),
            ["monitoring.serviceMonitor.credentials.existingSecret", "orchestrator.auth.metricsOpen=true"],
        ),
        (
            watched(serviceMonitor={"enabled": True, "credentials": {"existingSecret": "scraper"}}),
            ["monitoring.serviceMonitor.credentials.existingSecret", "orchestrator.auth.metricsOpen=false"],
        ),
        (watched(rules={"exclude": ["RunDegraded"]}), ["monitoring.rules.exclude", "RunDegraded"]),
        (
            watched(rules={"hoursWithoutSuccess": {"elt": 30}}),
            ["monitoring.rules.hoursWithoutSuccess", "no pipeline elt"],
        ),
        (watched(rules={"hoursWithoutSuccess": {"etl": 0}}), ["/monitoring/rules/hoursWithoutSuccess/etl"]),
        (watched(rules={"runbookUrl": "docs"}), ["/monitoring/rules/runbookUrl"]),
        (watched(serviceMonitor={"interval": "often"}), ["/monitoring/serviceMonitor/interval"]),
    ],
)
def test_half_made_monitoring_is_refused(values: Manifest, says: list[str]) -> None:
    """The message names the value, the reason and the fix."""
    message = refusal(values)
    assert all(words in message for words in says), message


def test_a_scraper_is_let_in_where_policies_say_so() -> None:
    """The refused values, with either fix."""
    monitored = {"serviceMonitor": {"enabled": True}}
    policies = {o["metadata"]["name"]: o["spec"] for o in render(watched(**monitored)) if o["kind"] == "NetworkPolicy"}
    assert SCRAPER in policies["pipelines-orchestrator"]["ingress"][0]["from"]
    assert render({**SOURCE, "networkPolicy": {"enabled": False}, "monitoring": monitored})


def test_every_alert_is_made_from_its_file() -> None:
    """One a file, named as it is, with a severity, a summary and what to do."""
    made = rules(labels={"release": "prom"})
    assert [rule["alert"] for rule in made] == ALERTS
    for rule in made:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert {"summary", "description", "runbook_url"} <= set(rule["annotations"])
    found = find(render(watched(rules={"enabled": True, "labels": {"release": "prom"}})), "PrometheusRule", "pipelines")
    assert found["metadata"]["labels"]["release"] == "prom"


def test_rules_speak_of_their_release() -> None:
    """No name is left to be filled in but Prometheus' own; every expression is about this namespace and job."""
    for rule in rules():
        assert set(re.findall(r"\$\w+", json.dumps(rule))) <= {"$labels", "$value"}
        assert rule["expr"].count("{") == rule["expr"].count('{namespace="data", job="pipelines-orchestrator"')


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_may_be_left_out(alert: str) -> None:
    """That one, and no other."""
    assert [rule["alert"] for rule in rules(exclude=[alert])] == [name for name in ALERTS if name != alert]


def test_each_scheduled_pipeline_has_its_hours() -> None:
    """26 where none are named; a pipeline without a schedule is not expected to run."""
    pipelines = [pipeline("daily", schedules=SCHEDULE), pipeline("weekly", schedules=SCHEDULE), pipeline("by-hand")]
    hours: dict[str, set[str]] = defaultdict(set)
    for rule in rules(pipelines=pipelines, hoursWithoutSuccess={"weekly": 170}):
        if rule["alert"] == "PipelineWithoutSuccess":
            [name] = set(re.findall(r'pipeline="([^"]*)"', rule["expr"]))
            hours[name] |= set(re.findall(r"> (\d+) \*|\[(\d+)h\]\)\s+\*", rule["expr"])[0]) - {""}
            assert f"offset {min(hours[name])}h" in rule["expr"]
    assert hours == {"daily": {"26"}, "weekly": {"170"}}


def test_every_alert_has_its_page_and_the_other_way_round() -> None:
    """With the same five questions answered in the same order, and a command to look with."""
    pages = {path.stem: path.read_text() for path in RUNBOOKS.glob("*.md") if path.stem != "README"}
    assert sorted(pages) == ALERTS
    for alert, text in pages.items():
        assert text.startswith(f"# {alert}\n")
        assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == HEADINGS, alert
        assert "```console\n$ kubectl" in text.split("## How to look")[1].split("## How to fix it")[0], alert
        assert f"({alert}.md)" in (RUNBOOKS / "README.md").read_text()


@pytest.mark.parametrize(
    ("url", "starts"),
    [("", "docs/runbooks/"), ("https://wiki.example.com/runbooks/", "https://wiki.example.com/runbooks/")],
)
def test_an_alert_names_its_page(url: str, starts: str) -> None:
    """Where the values say the pages are; else its path here."""
    for rule in rules(runbookUrl=url):
        assert rule["annotations"]["runbook_url"] == f"{starts}{rule['alert']}.md"


def test_a_held_run_is_told_with_the_catalogues_command() -> None:
    """For each reason that somebody has to act on; what goes on by itself is no alert."""
    [held] = [rule for rule in rules() if rule["alert"] == "PipelineRunHeld"]
    holds = [kind for kind in CATALOGUE.values() if not kind.ends]
    [left_out] = re.findall(r'reason!~"([^"]*)"', held["expr"])
    assert left_out.split("|") == [kind.id for kind in holds if kind.goes_on]
    kubectl, server = "kubectl --namespace data", "pipelines-prefect-server"
    names = InCapitals(kubectl=kubectl, prefect=f"{kubectl} exec service/{server} -- prefect", server=server)
    told = dict(re.findall(r'if eq \$labels\.reason "(PL\d+)" }}(.*?) ?{{-', held["annotations"]["fix"]))
    assert told == {kind.id: f"{kind.title}: {kind.fix.format_map(names)}" for kind in holds if not kind.goes_on}


class InCapitals(dict[str, str]):
    """Names to fill in; one that is not given stands in capitals."""

    def __missing__(self, key: str) -> str:
        return key.upper()


def dashboard(release: str = "pipelines", **values: Any) -> tuple[Manifest, Manifest]:
    """The ConfigMap and the dashboard in it."""
    found = find(
        render(watched(dashboard={"enabled": True, **values}), release=release), "ConfigMap", f"{release}-dashboard"
    )
    return found, json.loads(found["data"]["pipelines.json"])


def test_the_dashboard_is_found_by_its_label() -> None:
    """The sidecar's own by default."""
    assert dashboard()[0]["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboard(labels={"dashboards": "team"})[0]["metadata"]["labels"]["dashboards"] == "team"


def test_two_releases_have_two_dashboards() -> None:
    """An id of its own for each, of 40 characters at most as Grafana wants it, and its own release chosen."""
    one, two = dashboard()[1], dashboard("pipelines-b")[1]
    assert one["uid"] != two["uid"]
    assert len(one["uid"]) <= 40
    assert one["title"] == "Pipelines: data/pipelines"
    chosen = {variable["name"]: variable.get("current", {}).get("value") for variable in two["templating"]["list"]}
    assert (chosen["namespace"], chosen["job"]) == ("data", "pipelines-b-orchestrator")


def test_the_dashboards_panels_are_whole() -> None:
    """An id each, a query each, of the chosen data source, and none lies on another."""
    source = json.loads((CHART / "dashboards" / "pipelines.json").read_text())
    board = dashboard()[1]
    assert board["panels"] == source["panels"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
        if panel["type"] != "row":
            assert panel["targets"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_the_alerts_files_are_named_as_their_alerts() -> None:
    """`exclude` goes by the file's name."""
    for name in ALERTS:
        assert yaml.safe_load((CHART / "alerts" / f"{name}.yaml").read_text())["alert"] == name
