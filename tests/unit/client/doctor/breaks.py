"""What breaks each check, and nothing else: a row a check."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from socket import create_server
from typing import Any

import pytest
from pipelines_client.doctor.sights.machine import Ports

from .healthy import labels, metrics, moment, page, pipeline, ready, revision, run, runs, stats, thing
from .wires import Object, Wires

SERVICE = {"selector": labels("orchestrator"), "ports": [{"port": 8080}]}
SELECTED = {"matchLabels": labels("orchestrator")}
OFF = [one | {"active": False} for one in pipeline()["schedules"]]
Moved = Callable[["Place"], Any]


@dataclass
class Place:
    """Where a check looks: both wires, a checkout and ports of this machine."""

    wires: Wires
    checkout: Path
    ports: Ports
    kubeconfig: Path
    patch: pytest.MonkeyPatch


@dataclass(frozen=True, kw_only=True)
class Break:
    """How a check is broken, what is told then, and which others see the same thing from their side."""

    by: Moved
    says: str
    warning: bool = False
    also: frozenset[str] = field(default_factory=frozenset)


def set_pipeline(**more: Any) -> Moved:
    """Another word of the orchestrator on its pipeline."""
    return answer("/api/pipelines", lambda: (200, {"pipelines": [pipeline() | more]}))


def answer(path: str, told: Callable[[], tuple[int, Any]]) -> Moved:
    """Another answer of the orchestrator."""

    def move(place: Place) -> None:
        place.wires.answers[path] = told()

    return move


def status(kind: str, name: str, **more: Any) -> Moved:
    """Another status of an object of the cluster."""

    def move(place: Place) -> None:
        place.wires.of(kind, name)["status"].update(more)

    return move


def add(kind: str, made: Callable[[], Object]) -> Moved:
    """A further object."""

    def move(place: Place) -> None:
        place.wires.objects[kind].append(made())

    return move


def remove(kind: str) -> Moved:
    """None of a kind."""

    def move(place: Place) -> None:
        place.wires.objects[kind] = []

    return move


def waiting(reason: str, message: str) -> Moved:
    """The worker's container waits."""
    state = {"waiting": {"reason": reason, "message": message}}
    return status("pods", "pipelines-worker-0", containerStatuses=[{"name": "worker", "image": "x:1", "state": state}])


def unplaced(message: str) -> Moved:
    """The worker's pod has no node."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return status("pods", "pipelines-worker-0", phase="Pending", conditions=[condition])


def refused(message: str) -> Moved:
    """A ReplicaSet's pod was not let in."""
    about = {"kind": "ReplicaSet", "name": "pipelines-worker-5d9c"}
    told = {"involvedObject": about, "type": "Warning", "reason": "FailedCreate", "message": message}
    return add("events", lambda: thing("e", **told, lastTimestamp=moment(5)))


def failed(name: str) -> Moved:
    """A Job that has given up."""
    condition = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "too often"}
    return status("jobs", name, succeeded=0, conditions=[condition])


def held(reason: str, *, count: int = 2) -> list[Object]:
    """Runs that do not go on."""
    told = {"id": reason, "title": "A title", "detail": "the evidence", "fix": f"fix {reason}", "since": moment(7300)}
    return [{"runs": count, "reason": told}]


def _old_package(place: Place) -> None:
    made = next(place.checkout.glob(".venv/lib/python3.*/site-packages/*.dist-info/METADATA"))
    made.write_text("Metadata-Version: 2.1\nName: some-library\nVersion: 1.9\n")


@contextmanager
def _taken(place: Place) -> Iterator[None]:
    with create_server(("127.0.0.1", place.ports.source)):
        yield


def _old_database(place: Place) -> None:
    (place.checkout / ".local" / "postgres" / "PG_VERSION").write_text("17\n")


def _no_room(place: Place) -> None:
    usage = os.statvfs(place.checkout)
    place.patch.setattr("pipelines_client.doctor.machine.LEAST_FREE", usage.f_bavail * usage.f_frsize * 2)


def _no_kubeconfig(place: Place) -> None:
    place.kubeconfig.unlink()


def _no_cluster(place: Place) -> None:
    place.kubeconfig.write_text(place.kubeconfig.read_text().replace(place.wires.kubernetes, "http://127.0.0.1:9"))


def _older(place: Place) -> None:
    place.wires.version = {"major": "1", "minor": "28", "gitVersion": "v1.28.15"}


def _may_not(place: Place) -> None:
    place.wires.rights = {"networkpolicies"}


def _unlabelled(place: Place) -> None:
    place.wires.of("namespaces", "pipelines")["metadata"]["labels"] = {}


def _key_away(place: Place) -> None:
    place.wires.of("secrets", "pipelines-postgresql")["data"] = {"another": "eA=="}


def _no_way(place: Place) -> None:
    place.wires.of("networkpolicies", "pipelines-flow-run")["spec"]["egress"].pop()


def _other_pool(place: Place) -> None:
    template = place.wires.of("deployments", "pipelines-worker")["spec"]["template"]
    template["spec"]["containers"][0]["command"][-1] = "--pool=another"


def _other_schedule(place: Place) -> None:
    kept = place.wires.of("configmaps", "pipelines-register-1")["data"]
    told = json.loads(kept["registration.json"])
    told["deployments"][0]["schedules"][0]["cron"] = "0 6 * * *"
    kept["registration.json"] = json.dumps(told)


def _nothing_listens(place: Place) -> None:
    place.wires.api = "http://127.0.0.1:9"


def _clock_ahead(place: Place) -> None:
    place.wires.date = formatdate(time.time() + 120, usegmt=True)


def _full(place: Place) -> None:
    place.wires.objects["stats"] = [stats(available=0.03)]


def _killed(place: Place) -> None:
    [one] = place.wires.of("pods", "pipelines-worker-0")["status"]["containerStatuses"]
    one["lastState"] = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}


def _stuck_gate(place: Place) -> None:
    [one] = place.wires.of("pods", "pipelines-orchestrator-0")["status"]["initContainerStatuses"]
    one["state"] = {"terminated": {"exitCode": 1, "message": "the database is at 0009, this version knows 0008"}}


BREAKS: dict[str, Break] = {
    "PL301": Break(by=_old_package, says="some-library is 1.9, not 2.0"),
    "PL302": Break(by=_taken, says="something else listens on", warning=True),
    "PL303": Break(by=_old_database, says="was made by PostgreSQL 17"),
    "PL304": Break(by=_no_room, says="GiB are free", warning=True),
    "PL310": Break(by=_no_kubeconfig, says="no cluster is known here"),
    "PL311": Break(by=_no_cluster, says="does not answer"),
    "PL312": Break(by=_older, says="v1.28.15"),
    "PL313": Break(by=_may_not, says="you may not create networkpolicies in namespace pipelines"),
    "PL314": Break(by=_unlabelled, says="enforces no level", warning=True),
    "PL315": Break(by=remove("storageclasses"), says="no StorageClass is the default", warning=True),
    "PL316": Break(by=status("nodes", "node-1", conditions=[{"type": "Ready", "status": "Unknown"}]), says="not Ready"),
    "PL320": Break(by=remove("services"), says="has no Service with the labels"),
    "PL321": Break(by=add("secrets", lambda: revision(3, "pending-upgrade")), says="revision 3 of release pipelines"),
    "OrchestratorDown": Break(
        by=status("deployments", "pipelines-orchestrator", availableReplicas=0), says="0 of 1 pods"
    ),
    "PL001": Break(by=status("deployments", "pipelines-worker", availableReplicas=0), says="0 of 1 pods"),
    "PL322": Break(by=status("statefulsets", "pipelines-postgresql", availableReplicas=0), says="postgresql: 0 of 1"),
    "PL323": Break(by=_stuck_gate, says="this version knows 0008"),
    "PL324": Break(by=failed("pipelines-register-1"), says="Job pipelines-register-1 has failed: BackoffLimitExceeded"),
    "PL010": Break(by=unplaced("0/1 nodes are available: 1 Insufficient cpu."), says="Insufficient cpu"),
    "PL011": Break(by=waiting("ErrImageNeverPull", "not present with pull policy of Never"), says="ErrImageNeverPull"),
    "PL012": Break(by=refused("pods is forbidden: exceeded quota: all, requested: pods=1"), says="exceeded quota: all"),
    "PL013": Break(
        by=refused('pods is forbidden: violates PodSecurity "restricted:latest"'), says="violates PodSecurity"
    ),
    "PL014": Break(by=waiting("CrashLoopBackOff", "back-off 5m0s"), says="CrashLoopBackOff"),
    "PL015": Break(
        by=status("persistentvolumeclaims", "data-pipelines-postgresql-0", phase="Pending"), says="is Pending"
    ),
    "PL105": Break(by=_killed, says="OOMKilled", warning=True),
    "PL325": Break(by=_key_away, says="Secret pipelines-postgresql has no key orchestrator-url"),
    "PL326": Break(by=_no_way, says="runs fetch from flights.example.com:443, and no rule of pipelines-flow-run"),
    "PL005": Break(by=_other_pool, says="polls pool another, and runs go to pipelines"),
    "PL327": Break(by=_other_schedule, says="the values say 0 6 * * * Europe/Madrid, Prefect has 0 9", warning=True),
    "PL328": Break(by=_full, says="data-pipelines-postgresql-0: 246 MiB of 8192 MiB are left"),
    "PL330": Break(by=_nothing_listens, says="ConnectError"),
    "PL331": Break(by=answer("/healthz", lambda: (200, "<html>a page</html>")), says="is not the orchestrator"),
    "PL332": Break(by=answer("/api/pipelines", lambda: (401, {})), says="PIPELINES_API_KEY is not set (401)"),
    "PL333": Break(
        by=answer("/openapi.json", lambda: (200, {"info": {"title": "Pipelines orchestrator", "version": "9.1.0"}})),
        says="the service 9.1.0",
        warning=True,
    ),
    "PL334": Break(by=_clock_ahead, says="s ahead of this machine's", warning=True),
    "OrchestratorDatabaseDown": Break(by=answer("/readyz", lambda: ready(database="refused")), says="refused"),
    "PL335": Break(by=answer("/readyz", lambda: ready(schema="at 0008")), says="at 0008"),
    "PL337": Break(
        by=answer("/readyz", lambda: (200, ready()[1] | {"database_clock_ahead_seconds": -7.25})),
        says="the database's clock is 7.2 s behind the service's",
        warning=True,
    ),
    "PL336": Break(by=answer("/api/pipelines", lambda: (503, {"detail": "try again"})), says="503: try again"),
    "PL017": Break(by=answer("/readyz", lambda: ready(prefect="ConnectError")), says="ConnectError"),
    "PrefectCircuitOpen": Break(by=set_pipeline(breaker="open"), says="the circuit to Prefect is open"),
    "PrefectNotFollowed": Break(by=set_pipeline(seen_at=moment(4000)), says="etl was last heard of 1 h"),
    "PipelineDispatchBacklog": Break(
        by=answer(runs("Scheduled"), lambda: page(run(state="Scheduled", flow_run_id=None, accepted_at=moment(600)))),
        says="1 of etl, the oldest for 10 min",
    ),
    "PipelineRunHeld": Break(by=set_pipeline(held=held("PL010")), says="2 runs of etl for 2 h"),
    "PipelineRunTooOld": Break(
        by=answer("/metrics", lambda: (200, metrics(oldest=30000))), says="accepted 8 h 20 min ago", warning=True
    ),
    "PipelineRunFailed": Break(
        by=set_pipeline(last_run=pipeline()["last_run"] | {"state": "Failed", "state_name": "Failed"}),
        says="etl of 2013-01-15 Failed",
        warning=True,
    ),
    "PipelineRunDegraded": Break(
        by=answer(runs("Completed"), lambda: page(run(state_name="Degraded"), run(logical_date="2013-01-14"))),
        says="degraded days of etl: 1 from 2013-01-15 to 2013-01-15",
        warning=True,
    ),
    "PipelineSourceCircuitOpen": Break(by=set_pipeline(source_breaker="open"), says="source is open", warning=True),
    "PL340": Break(by=set_pipeline(registered=False, next_run=None), says="Prefect has no deployment of etl"),
    "PL004": Break(by=set_pipeline(paused=True, next_run=None), says="paused: etl", warning=True),
    "PL341": Break(by=set_pipeline(next_run=None), says="etl has a schedule, and no next run", warning=True),
    "PipelineWithoutSuccess": Break(
        by=answer("/metrics", lambda: (200, metrics(success=200000))), says="2 d 7 h ago", warning=True
    ),
}


def _rule(**rule: Any) -> Moved:
    """Another way out for runs, in place of the one to their source."""

    def move(place: Place) -> None:
        place.wires.of("networkpolicies", "pipelines-flow-run")["spec"]["egress"][-1] = rule

    return move


def _source(url: str) -> Moved:
    """Another source of the flows."""

    def move(place: Place) -> None:
        kept = place.wires.of("configmaps", "pipelines-register-1")["data"]
        kept["registration.json"] = kept["registration.json"].replace("https://flights.example.com", url)

    return move


def _both(*moves: Moved) -> Moved:
    def move(place: Place) -> None:
        for one in moves:
            one(place)

    return move


def _scaled_to_nothing(place: Place) -> None:
    worker = place.wires.of("deployments", "pipelines-worker")
    worker["spec"]["replicas"], worker["status"] = 0, {}


def _other_queue(place: Place) -> None:
    template = place.wires.of("deployments", "pipelines-worker")["spec"]["template"]
    template["spec"]["containers"][0]["command"] += ["--work-queue", "week-9"]


def _with_key(place: Place) -> None:
    place.patch.setenv("PIPELINES_API_KEY", "not-a-good-one")
    place.wires.answers["/api/pipelines"] = (403, {})


def _half_made(place: Place) -> None:
    (place.checkout / ".local" / "postgres" / "PG_VERSION").rename(place.checkout / ".local" / "postgres" / "base")


def _not_installed(place: Place) -> None:
    for made in place.checkout.glob(".venv/lib/python3.*/site-packages/some_library*/METADATA"):
        made.unlink()
        made.parent.rmdir()


def _init_waits(place: Place) -> None:
    [one] = place.wires.of("pods", "pipelines-orchestrator-0")["status"]["initContainerStatuses"]
    one["state"] = {"running": {"startedAt": moment(200)}}


def _stale_quota(place: Place) -> None:
    refused("exceeded quota: all, requested: pods=1")(place)
    place.wires.objects["events"][0]["lastTimestamp"] = moment(3000)
    status("resourcequotas", "all", used={"requests.cpu": "4000m"})(place)


NO_RULE = "and no rule of pipelines-flow-run lets them"
# Further ways in which a check does not pass.
VARIANTS: tuple[tuple[str, Break], ...] = (
    ("PL301", Break(by=_not_installed, says="some-library is missing")),
    ("PL303", Break(by=_half_made, says="it was half made")),
    ("PL316", Break(by=status("nodes", "node-1", conditions=[]), says="node node-1: not Ready")),
    (
        "PL316",
        Break(
            by=status(
                "nodes",
                "node-1",
                conditions=[{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True"}],
            ),
            says="node node-1: DiskPressure",
        ),
    ),
    ("PL320", Break(by=add("services", lambda: thing("b-orchestrator", "orchestrator", spec=SERVICE)), says="several")),
    (
        "PL321",
        Break(by=add("secrets", lambda: revision(3, "failed")), says="revision 3 of release pipelines is failed"),
    ),
    ("PL001", Break(by=remove("deployments"), says="there is no Deployment of the worker")),
    ("PL001", Break(by=_scaled_to_nothing, says="Deployment pipelines-worker is scaled to 0")),
    ("PL323", Break(by=failed("pipelines-prefect-migrate-1"), says="Job pipelines-prefect-migrate-1 has failed")),
    ("PL323", Break(by=_init_waits, says="waits for the database's schema for 3 min")),
    (
        "PL324",
        Break(
            by=status("jobs", "pipelines-register-1", succeeded=0, conditions=[]),
            says="Job pipelines-register-1 is not done after 1 h",
        ),
    ),
    ("PL012", Break(by=_stale_quota, says="4000m of 4 requests.cpu are used", warning=True)),
    ("PL015", Break(by=unplaced("pod has unbound immediate PersistentVolumeClaims"), says="unbound immediate")),
    ("PL011", Break(by=waiting("ImagePullBackOff", "Back-off pulling"), says="image x:1 of pod pipelines-worker-0")),
    ("PL325", Break(by=remove("secrets"), says="Secret pipelines-postgresql is not there")),
    ("PL326", Break(by=_rule(to=[{"ipBlock": {"cidr": "10.0.0.0/8"}}], ports=[{"port": 80}]), says=NO_RULE)),
    ("PL326", Break(by=_rule(to=[{"podSelector": {}}]), says=NO_RULE)),
    ("PL326", Break(by=_source("http://10.1.2.3:8000"), says="runs fetch from 10.1.2.3:8000, " + NO_RULE)),
    (
        "PL326",
        Break(
            by=_both(
                _source("http://203.0.113.9:443"),
                _rule(to=[{"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.8/30"]}}]),
            ),
            says=NO_RULE,
        ),
    ),
    ("PL326", Break(by=_source("http://source-of-another:443"), says=NO_RULE)),
    ("PL005", Break(by=_other_queue, says="polls queue week-9, and nobody week-10")),
    ("PL332", Break(by=_with_key, says="the credential in PIPELINES_API_KEY is refused (403)")),
    (
        "PL336",
        Break(by=answer("/api/pipelines", lambda: (200, {"pipelines": []})), says="no pipeline that", warning=True),
    ),
    ("PL336", Break(by=answer("/api/pipelines", lambda: (200, [])), says="is not what this client knows")),
    ("PrefectCircuitOpen", Break(by=set_pipeline(breaker="half-open"), says="half-open", warning=True)),
    ("PrefectNotFollowed", Break(by=set_pipeline(seen_at=None), says="etl was never heard of")),
    ("PipelineRunHeld", Break(by=set_pipeline(held=held("PL007", count=1)), says="1 run of etl", warning=True)),
    ("PL340", Break(by=set_pipeline(registered=None), says="not known yet of etl", warning=True)),
    ("PL341", Break(by=set_pipeline(schedules=OFF), says="every schedule of etl is off", warning=True)),
)
# What looks like a break and is none.
GOOD: tuple[tuple[str, Moved], ...] = (
    ("PL316", status("nodes", "node-1", conditions=[{"type": "Ready", "status": "True"}])),
    ("PL321", remove("secrets")),
    ("PL326", _source("http://203.0.113.9:443")),
    ("PL326", _rule(to=[{"ipBlock": {"cidr": "0.0.0.0/0"}}], ports=[{"port": 400, "endPort": 500}])),
    ("PL326", _rule()),
    ("PL326", remove("networkpolicies")),
    ("PL326", _both(_source("http://api.data.svc:443"), _rule(to=[{"namespaceSelector": {}}]))),
    ("PL326", _both(_source("http://pipelines-orchestrator:8080"), _rule(to=[{"podSelector": SELECTED}]))),
    ("PL013", refused("exceeded quota: all, requested: pods=1")),
    ("PipelineRunHeld", set_pipeline(held=held("PL004", count=0))),
    ("PL341", set_pipeline(next_run=None, schedules=[])),
    ("PipelineWithoutSuccess", _both(set_pipeline(last_run=None), answer("/metrics", lambda: (200, "")))),
)


@contextmanager
def broken(one: Break, place: Place) -> Iterator[None]:
    """The break, while the block lasts."""
    done = one.by(place)
    with done if done is not None else nullcontext():
        yield
