"""The orchestrator's API: that it is reached, is itself, takes the credential, and has what it needs."""

import os
from datetime import UTC
from email.utils import parsedate_to_datetime
from importlib.metadata import version

from pipelines_client.doctor.checks import Category, Check, Finding, NotApplicable, Side
from pipelines_client.doctor.sights import Sights
from pipelines_client.doctor.sights.service import REFUSALS

TITLE = "Pipelines orchestrator"
KEY = "PIPELINES_API_KEY"
DATABASE_SKEW_SECONDS = 2.0
SKEW_SECONDS = 5.0  # the header has whole seconds


def _reachable(sights: Sights) -> Finding | None:
    _ = sights.service.answered("/healthz")
    return None


def _itself(sights: Sights) -> Finding | None:
    alive, ready = sights.service.answered("/healthz"), sights.service.answered("/readyz")
    told = ready.json
    if alive.json == {"status": "alive"} and isinstance(told, dict) and "dependencies" in told:
        return None
    return Finding(
        what=f"what answers at {alive.url} ({alive.status}) is not the orchestrator", names={"url": alive.url}
    )


def _admitted(sights: Sights) -> Finding | None:
    looked = sights.service.answered("/api/pipelines")
    if looked.status not in REFUSALS:
        return None
    place = sights.service.found[1]
    if os.environ.get(KEY) and not place.trusted:
        what = f"it asks for one, and none is sent to {place.url}, which was not named"
        return Finding(what=what, command=f"export PIPELINES_URL={place.url}")
    how = f"the credential in {KEY} is refused" if os.environ.get(KEY) else f"it asks for one, and {KEY} is not set"
    return Finding(what=f"{how} ({looked.status})")


def _versions(sights: Sights) -> Finding | None:
    told = (sights.service.look("/openapi.json").json or {}).get("info") or {}
    if told.get("title") != TITLE:
        return Finding(what=f"its document is that of {told.get('title') or 'something else'}", warning=True)
    ours, theirs = version("pipelines-client"), str(told["version"])
    if ours.split(".")[:2] == theirs.split(".")[:2]:
        return None
    return Finding(what=f"this client is {ours}, the service {theirs}", warning=True)


def _clock(sights: Sights) -> Finding | None:
    looked = sights.service.answered("/healthz")
    header = looked.headers.get("date")
    if header is None:
        raise NotApplicable
    skew = (parsedate_to_datetime(header) - looked.at.astimezone(UTC)).total_seconds()
    if abs(skew) <= SKEW_SECONDS + looked.seconds:
        return None
    return Finding(
        what=f"its clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's", warning=True
    )


def _database_clock(sights: Sights) -> Finding | None:
    told = sights.service.answered("/readyz").json.get("database_clock_ahead_seconds")
    if told is None:
        raise NotApplicable  # an older service
    if abs(told) <= DATABASE_SKEW_SECONDS:
        return None
    what = f"the database's clock is {abs(told):.1f} s {'ahead of' if told > 0 else 'behind'} the service's"
    return Finding(what=what, warning=True)


def _database(sights: Sights) -> Finding | None:
    return _dependency(sights, "database")


def _schema(sights: Sights) -> Finding | None:
    return _dependency(sights, "schema")


def _dependency(sights: Sights, which: str) -> Finding | None:
    told = sights.service.dependencies[which]
    return None if told["ok"] else Finding(what=str(told.get("detail") or f"{which} is not ok"))


def _pipelines(sights: Sights) -> Finding | None:
    if sights.service.pipelines:
        return None
    return Finding(what="there is no pipeline that this credential may read", warning=True)


CATEGORY = Category(
    name="service",
    about="the orchestrator's API",
    side=Side.SERVICE,
    checks=(
        Check(
            id="PL330",
            description="the API is reached",
            meaning="Nothing answers where the API was looked for, or no way into the cluster leads there.",
            command="{kubectl} port-forward service/{prefix}-orchestrator 8080",
            here="make dev",
            look=_reachable,
            seconds=8.0,
        ),
        Check(
            id="PL331",
            description="what answers is the orchestrator",
            meaning="Something else answers at that address: another service, or a proxy's own page.",
            command="curl --silent --show-error --include {url}",
            look=_itself,
            needs=("PL330",),
        ),
        Check(
            id="PL332",
            description="the API takes your credential",
            meaning="It asks for a key or a token, and yours is missing, wrong or not allowed anything.",
            command="export PIPELINES_API_KEY=YOUR-KEY",
            look=_admitted,
            needs=("PL331",),
        ),
        Check(
            id="PL333",
            description="client and service are of one release",
            meaning="An older client may not understand a newer service, or the other way round.",
            command="make client",
            look=_versions,
            needs=("PL332",),
        ),
        Check(
            id="PL334",
            description="the service's clock is this machine's",
            meaning="Times compared with this machine's are off, and tokens may count as not valid yet, or any more.",
            command="date --utc",
            look=_clock,
            needs=("PL331",),
        ),
        Check(
            id="OrchestratorDatabaseDown",
            description="the service reaches its database",
            meaning="Starts are answered 503, and nothing is handed over or followed.",
            command="{kubectl} get pods --selector app.kubernetes.io/component=postgresql",
            here="tail -n 20 .local/logs/orchestrator.log",
            look=_database,
            needs=("PL331",),
        ),
        Check(
            id="PL335",
            description="its database has its schema",
            meaning="The database was not migrated to this version, or by a newer one.",
            command="{kubectl} logs deployment/{prefix}-orchestrator --container schema --tail=20",
            here="tail -n 20 .local/logs/orchestrator-migrate.log",
            look=_schema,
            needs=("OrchestratorDatabaseDown",),
        ),
        Check(
            id="PL337",
            description="the database's clock is the service's",
            meaning="Deadlines of runs, which compare the two, are early or late by the difference.",
            command="{kubectl} get pods --output wide",
            here="date --utc",
            look=_database_clock,
            needs=("OrchestratorDatabaseDown",),
        ),
        Check(
            id="PL336",
            description="it tells its pipelines",
            meaning="The list of pipelines cannot be read, or has none that you may read.",
            command="pipelines list",
            look=_pipelines,
            needs=("PL332", "PL335"),
        ),
    ),
)
