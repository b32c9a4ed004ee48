"""A platform on which every check passes: a release in its namespace, and an orchestrator with one pipeline."""

import json
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

from .wires import NAMESPACE, RELEASE, Object, Wires

PREFIX = "app.kubernetes.io"
RUN = "0b5f0ac8-9a0e-4b8e-9a3b-6f0f6f1f6a11"
PARTS = ("orchestrator", "prefect-server", "worker")
SECRET = {"secretKeyRef": {"name": "pipelines-postgresql", "key": "orchestrator-url"}}
SOURCE = "https://flights.example.com"


def moment(ago: float = 0.0) -> str:
    """So many seconds ago, as Kubernetes writes it."""
    return (datetime.now(UTC) - timedelta(seconds=ago)).isoformat(timespec="seconds").replace("+00:00", "Z")


def labels(component: str) -> dict[str, str]:
    """Those of a part's objects."""
    return {f"{PREFIX}/name": "pipelines", f"{PREFIX}/instance": RELEASE, f"{PREFIX}/component": component}


def thing(name: str, component: str | None = None, **more: Any) -> Object:
    """An object of the release."""
    metadata = {"name": name, "namespace": NAMESPACE, "creationTimestamp": moment(3600)}
    return {"metadata": metadata | ({"labels": labels(component)} if component else {}), **more}


def pod_of(name: str, component: str, *, template: Object | None = None) -> Object:
    """A pod that runs."""
    spec = {"nodeName": "node-1", "containers": [{"name": component, "image": f"pipelines-{component}:1"}]}
    status = {
        "phase": "Running",
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
        "initContainerStatuses": [
            {"name": "schema", "image": "i", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}
        ],
        "containerStatuses": [
            {
                "name": component,
                "image": f"pipelines-{component}:1",
                "restartCount": 0,
                "ready": True,
                "state": {"running": {}},
            }
        ],
    }
    return thing(name, component, spec=spec | (template or {}), status=status)


def workload(name: str, component: str) -> Object:
    """A Deployment or StatefulSet that is there whole."""
    container = {
        "name": component,
        "image": f"pipelines-{component}:1",
        "command": ["python", "-m", "prefect_worker", "--pool=pipelines"] if component == "worker" else [],
        "env": [{"name": "DATABASE_URL", "valueFrom": SECRET}],
    }
    template = {"spec": {"containers": [container], "volumes": [{"name": "tmp", "emptyDir": {}}]}}
    return thing(name, component, spec={"replicas": 1, "template": template}, status={"availableReplicas": 1})


def job(name: str, component: str) -> Object:
    """A Job that is done."""
    return thing(
        name, component, spec={}, status={"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}
    )


def registration() -> Object:
    """What the values register."""
    container = {
        "name": "prefect-job",
        "env": [{"name": "ETL_SOURCE_URL", "value": SOURCE}, {"name": "ETL_WAREHOUSE_URL", "valueFrom": SECRET}],
    }
    manifest = {"spec": {"template": {"spec": {"containers": [container]}}}}
    deployment = {
        "name": "daily-0900",
        "workQueue": "week-10",
        "schedules": [{"slug": "daily-0900", "cron": "0 9 * * *", "timezone": "Europe/Madrid"}],
    }
    pool = {"name": "pipelines", "baseJobTemplate": {"job_configuration": {"job_manifest": manifest}}}
    return {"workPool": pool, "deployments": [deployment]}


def policy() -> Object:
    """What runs may reach."""
    rules = [
        {"to": [{"podSelector": {"matchLabels": labels("prefect-server")}}], "ports": [{"port": 4200}]},
        {"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}], "ports": [{"port": 443}]},
    ]
    selector = {f"{PREFIX}/instance": RELEASE, f"{PREFIX}/component": "flow-run"}
    spec = {"podSelector": {"matchLabels": selector}, "policyTypes": ["Egress"], "egress": rules}
    return thing("pipelines-flow-run", "flow-run", spec=spec)


def revision(number: int, status: str) -> Object:
    """Helm's record of a revision."""
    kept = thing(f"sh.helm.release.v1.{RELEASE}.v{number}", data={"release": "cGxhbnRlZA=="})
    kept["metadata"]["labels"] = {"owner": "helm", "name": RELEASE, "version": str(number), "status": status}
    return kept


def pipeline() -> Object:
    """What the orchestrator tells of its pipeline."""
    schedule = {"slug": "daily-0900", "cron": "0 9 * * *", "interval_seconds": None, "rrule": None}
    return {
        "name": "etl",
        "deployment": "daily_job/daily-0900",
        "registered": True,
        "paused": False,
        "schedules": [schedule | {"timezone": "Europe/Madrid", "active": True}],
        "next_run": moment(-3600),
        "last_run": {
            "run_id": RUN,
            "state": "Completed",
            "state_name": "Completed",
            "logical_date": "2013-01-15",
            "ended_at": moment(3600),
        },
        "held": [],
        "breaker": "closed",
        "source_breaker": "closed",
        "seen_at": moment(),
    }


def run(**more: Any) -> Object:
    """What it tells of a run."""
    return {
        "run_id": RUN,
        "state": "Completed",
        "state_name": "Completed",
        "message": None,
        "pipeline": "etl",
        "logical_date": "2013-01-15",
        "flow_run_id": RUN,
        "origin": "schedule",
        "parameters": {},
        "correlation_id": "c",
        "accepted_at": moment(3700),
        "dispatched_at": moment(3700),
        "started_at": moment(3650),
        "ended_at": moment(3600),
        "duration_ms": 50000,
        "attempt": 1,
        "max_attempts": 3,
        "backfill_id": None,
        "cancel_requested_at": None,
        "dispatch": {"attempts": 1, "last_error": None, "next_attempt_at": None},
        "reason": None,
        **more,
    }


def runs(state: str) -> str:
    """Where it tells those in a state."""
    return f"/api/etl/runs?state={state}&limit=200"


def page(*those: Object) -> tuple[int, Object]:
    """A page of runs."""
    return 200, {"runs": list(those), "next_cursor": None}


def metrics(*, oldest: float = 0.0, success: float = 3600.0) -> str:
    """What it tells Prometheus."""
    last = datetime.now(UTC).timestamp() - success
    return (
        "# HELP orchestrator_oldest_unfinished_seconds Age of the oldest run not over.\n"
        "# TYPE orchestrator_oldest_unfinished_seconds gauge\n"
        f'orchestrator_oldest_unfinished_seconds{{pipeline="etl"}} {oldest}\n'
        f'orchestrator_last_success_timestamp_seconds{{pipeline="etl"}} {last}\n'
        "orchestrator_database_up 1.0\n"
    )


def ready(**bad: str) -> tuple[int, Object]:
    """What it says of its dependencies."""
    told = {name: {"ok": name not in bad, "detail": bad.get(name)} for name in ("database", "schema", "prefect")}
    is_ready = not {"database", "schema"} & set(bad)
    ahead = None if "database" in bad else 0.004
    return (200 if is_ready else 503), {
        "ready": is_ready,
        "dependencies": told,
        "database_clock_ahead_seconds": ahead,
    }


def make_healthy(wires: Wires) -> None:
    """Set both sides, whatever a test before has left."""
    wires.denied, wires.rights, wires.silent = set(), set(), set()
    wires.texts, wires.date, wires.asked = {}, None, []
    wires.version = {"major": "1", "minor": "34+", "gitVersion": "v1.34.1"}
    claim = {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-pipelines-postgresql-0"}}]}
    service = {"selector": labels("orchestrator"), "ports": [{"port": 8080, "targetPort": "http"}]}
    wires.objects = {
        "services": [thing("pipelines-orchestrator", "orchestrator", spec=service)],
        "deployments": [workload(f"pipelines-{part}", part) for part in PARTS],
        "statefulsets": [workload("pipelines-postgresql", "postgresql")],
        "pods": [
            *(pod_of(f"pipelines-{part}-0", part) for part in PARTS),
            pod_of("pipelines-postgresql-0", "postgresql", template=claim),
        ],
        "jobs": [
            job("pipelines-register-1", "registration"),
            job("pipelines-migrate-1", "orchestrator-migration"),
            job("pipelines-prefect-migrate-1", "prefect-migration"),
        ],
        "configmaps": [
            thing("pipelines-register-1", "registration", data={"registration.json": json.dumps(registration())})
        ],
        "networkpolicies": [policy()],
        "secrets": [
            thing("pipelines-postgresql", "postgresql", data={"orchestrator-url": "cGxhbnRlZA=="}),
            revision(1, "superseded"),
            revision(2, "deployed"),
        ],
        "persistentvolumeclaims": [
            thing("data-pipelines-postgresql-0", "postgresql", spec={}, status={"phase": "Bound"})
        ],
        "resourcequotas": [thing("all", status={"hard": {"requests.cpu": "4"}, "used": {"requests.cpu": "950m"}})],
        "events": [],
        "namespaces": [
            {"metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
        ],
        "nodes": [{"metadata": {"name": "node-1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}],
        "storageclasses": [
            {
                "metadata": {
                    "name": "standard",
                    "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
                }
            }
        ],
        "stats": [stats(available=0.8)],
    }
    wires.answers = {
        "/healthz": (200, {"status": "alive"}),
        "/readyz": ready(),
        "/openapi.json": (200, {"info": {"title": "Pipelines orchestrator", "version": version("pipelines-client")}}),
        "/api/pipelines": (200, {"pipelines": [pipeline()]}),
        "/metrics": (200, metrics()),
        runs("Scheduled"): page(),
        runs("Completed"): page(run()),
        runs("Failed"): page(),
        runs("Crashed"): page(),
    }


def stats(*, available: float) -> Object:
    """What a kubelet says of the database's volume, of which that part is left."""
    whole = 8 * 1024**3
    claim = {"name": "data-pipelines-postgresql-0", "namespace": NAMESPACE}
    volume = {"name": "data", "capacityBytes": whole, "availableBytes": int(whole * available), "pvcRef": claim}
    return {"pods": [{"volume": [volume, {"name": "tmp", "capacityBytes": 1, "availableBytes": 0}]}]}
