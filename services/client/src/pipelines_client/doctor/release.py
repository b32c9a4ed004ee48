"""The release: that it is there whole, and that its parts, its schemas and its registration have come up."""

from datetime import UTC, datetime

from pipelines_client.doctor.checks import Category, Check, Finding, NotApplicable, Side
from pipelines_client.doctor.sights import Sights
from pipelines_client.doctor.sights.cluster import COMPONENT, Object, labels, name
from pipelines_client.doctor.sights.service import ago

WAITS = 60.0  # a schema gate that is not through by then waits for a migration that does not come
REGISTERING = 900.0
WITH_OWN_CHECKS = frozenset({"worker", "orchestrator"})
MIGRATIONS = frozenset({"orchestrator-migration", "prefect-migration"})
GATES = frozenset({"schema", "migrate-warehouse"})


def _found(sights: Sights) -> Finding | None:
    _ = sights.cluster.service
    return None


def _revision(sights: Sights) -> Finding | None:
    revisions = sights.cluster.revisions
    if not revisions:
        raise NotApplicable  # by helm template, or by another tool
    last = revisions[-1]
    if last["status"] == "deployed":
        return None
    what = f"revision {last['version']} of release {last['name']} is {last['status']}"
    good = [one["version"] for one in revisions if one["status"] in {"deployed", "superseded"}]
    return Finding(what=what, names={"revision": good[-1] if good else "REVISION"})


def _orchestrator(sights: Sights) -> Finding | None:
    return _none_available(sights, "orchestrator")


def _worker(sights: Sights) -> Finding | None:
    return _none_available(sights, "worker")


def _none_available(sights: Sights, component: str) -> Finding | None:
    deployments = sights.cluster.component("deployments", component)
    if any(_available(one) for one in deployments):
        return None
    if not deployments:
        return Finding(what=f"there is no Deployment of the {component}")
    wanted = deployments[0]["spec"].get("replicas", 1)
    of = f"Deployment {name(deployments[0])}"
    return Finding(what=f"{of}: 0 of {wanted} pods are available" if wanted else f"{of} is scaled to 0")


def _parts(sights: Sights) -> Finding | None:
    others = [one for one in sights.cluster.workloads if labels(one).get(COMPONENT) not in WITH_OWN_CHECKS]
    wanting = {name(one): (_available(one), one["spec"].get("replicas", 1)) for one in others}
    bad = {part: counts for part, counts in wanting.items() if counts[0] < max(1, counts[1])}
    if not bad:
        return None
    what = ", ".join(f"{part}: {have} of {wanted} pods" for part, (have, wanted) in bad.items())
    return Finding(what=what)


def _available(workload: Object) -> int:
    status = workload.get("status") or {}
    return int(status.get("availableReplicas") or 0)


def _schema(sights: Sights) -> Finding | None:
    jobs = [one for one in sights.cluster.listed("jobs") if labels(one).get(COMPONENT) in MIGRATIONS]
    for component in MIGRATIONS:
        of = [one for one in jobs if labels(one).get(COMPONENT) == component]
        failed = _failed(max(of, key=_made)) if of else None
        if failed:
            return Finding(what=failed, names={"pod": f"job/{name(max(of, key=_made))}", "container": "migrate"})
    for pod in sights.cluster.pods:
        for one in pod["status"].get("initContainerStatuses", ()):
            stuck = _stuck(one) if one["name"] in GATES else None
            if stuck:
                what = f"pod {name(pod)}, container {one['name']}: {stuck}"
                return Finding(what=what, names={"pod": name(pod), "container": one["name"]})
    return None


def _stuck(status: Object) -> str | None:
    state = status.get("state") or {}
    ended = state.get("terminated") or (status.get("lastState") or {}).get("terminated")
    if ended and ended.get("exitCode"):
        return f"exit code {ended['exitCode']}" + (f": {ended['message'].strip()}" if ended.get("message") else "")
    began = (state.get("running") or {}).get("startedAt")
    if began and _seconds_since(began) > WAITS:
        return f"waits for the database's schema for {ago(datetime.fromisoformat(began))}"
    return None


def _registration(sights: Sights) -> Finding | None:
    jobs = sights.cluster.component("jobs", "registration")
    if not jobs:
        raise NotApplicable
    job = max(jobs, key=_made)
    names = {"job": name(job)}
    failed = _failed(job)
    if failed:
        return Finding(what=failed, names=names)
    if not (job.get("status") or {}).get("succeeded") and _seconds_since(_made(job)) > REGISTERING:
        what = f"Job {name(job)} is not done after {ago(datetime.fromisoformat(_made(job)))}"
        return Finding(what=what, names=names)
    return None


def _failed(job: Object) -> str | None:
    for one in (job.get("status") or {}).get("conditions") or ():
        if one["type"] == "Failed" and one["status"] == "True":
            return f"Job {name(job)} has failed: {one.get('reason', '')} {one.get('message', '')}".strip()
    return None


def _made(one: Object) -> str:
    return str(one["metadata"]["creationTimestamp"])


def _seconds_since(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


CATEGORY = Category(
    name="release",
    about="what the chart has installed",
    side=Side.CLUSTER,
    checks=(
        Check(
            id="PL320",
            description="the release is found",
            meaning="No namespace that you may look into has the orchestrator's Service, or several have.",
            command="kubectl get services --all-namespaces --selector app.kubernetes.io/name=pipelines",
            look=_found,
            needs=("PL311",),
            seconds=7.0,
        ),
        Check(
            id="PL321",
            description="Helm's last revision is deployed",
            meaning="An install, upgrade or rollback failed or was interrupted; a pending one refuses the next.",
            command="{helm} history {release} && {helm} rollback {release} {revision}",
            look=_revision,
            needs=("PL320",),
        ),
        Check(
            id="OrchestratorDown",
            description="the orchestrator has a pod that is available",
            meaning="Nobody can start a run by the API; the schedule's runs go on.",
            command="{kubectl} get pods --selector app.kubernetes.io/component=orchestrator",
            look=_orchestrator,
            needs=("PL320",),
        ),
        Check(
            id="PL001",
            description="the worker has a pod that is available",
            meaning="No worker polls the work pool, so nothing makes the runs' Jobs.",
            command="{kubectl} scale deployment --selector app.kubernetes.io/component=worker --replicas=1",
            look=_worker,
            needs=("PL320",),
        ),
        Check(
            id="PL322",
            description="every other part has the pods that it should have",
            meaning="The database, the Prefect server or another part is scaled to nothing, or its pods are not ready.",
            command="{kubectl} get pods --selector app.kubernetes.io/instance={release} --output wide",
            look=_parts,
            needs=("PL320",),
        ),
        Check(
            id="PL323",
            description="the databases have the schemas of this version",
            meaning="A migration failed or does not come, or an older version met the schema of a newer one and waits.",
            command="{kubectl} logs {pod} --container {container} --tail=20",
            look=_schema,
            needs=("PL320",),
        ),
        Check(
            id="PL324",
            description="the pipelines' registration is done",
            meaning="The Job that registers work pool and deployments failed: Prefect has the old ones, or none.",
            command="{kubectl} logs job/{job} --all-containers --tail=20",
            look=_registration,
            needs=("PL320",),
        ),
    ),
)
