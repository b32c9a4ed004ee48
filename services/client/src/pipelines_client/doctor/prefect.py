"""Prefect, as the orchestrator meets it."""

from pipelines_client.doctor.checks import Category, Check, Finding, Side
from pipelines_client.doctor.sights import Sights
from pipelines_client.doctor.sights.service import ago, since

MOST_SECONDS = 300.0


def _reachable(sights: Sights) -> Finding | None:
    told = sights.service.dependencies["prefect"]
    return None if told["ok"] else Finding(what=str(told.get("detail") or "it does not answer the orchestrator"))


def _circuit(sights: Sights) -> Finding | None:
    states = {one.breaker for one in sights.service.pipelines} - {"closed", None}
    if not states:
        return None
    return Finding(what=f"the circuit to Prefect is {', '.join(map(str, states))}", warning="open" not in states)


def _followed(sights: Sights) -> Finding | None:
    unseen = [
        f"{one.name} was last heard of {ago(one.seen_at)} ago" if one.seen_at else f"{one.name} was never heard of"
        for one in sights.service.pipelines
        if one.seen_at is None or since(one.seen_at.timestamp()) > MOST_SECONDS
    ]
    return Finding(what="; ".join(unseen)) if unseen else None


_SERVER = "{kubectl} get pods --selector app.kubernetes.io/component=prefect-server --output wide"
_SERVER_HERE = "curl --silent --show-error http://127.0.0.1:4200/api/health"

CATEGORY = Category(
    name="prefect",
    about="Prefect, as the orchestrator meets it",
    side=Side.SERVICE,
    checks=(
        Check(
            id="PL017",
            description="the Prefect server answers",
            meaning="It does not answer: accepted runs wait to be handed over, states are not followed.",
            command=_SERVER,
            here=_SERVER_HERE,
            look=_reachable,
            needs=("PL331",),
        ),
        Check(
            id="PrefectCircuitOpen",
            description="the circuit to Prefect is closed",
            meaning="Calls to Prefect have failed so often that the orchestrator asks only now and then.",
            command=_SERVER,
            here=_SERVER_HERE,
            look=_circuit,
            needs=("PL336", "PL017"),
        ),
        Check(
            id="PrefectNotFollowed",
            description="Prefect was heard of in the last minutes",
            meaning="Nobody follows what becomes of runs: states stand still, and missed runs are not seen.",
            command="{kubectl} logs --selector app.kubernetes.io/component=orchestrator --tail=50",
            here="tail -n 50 .local/logs/orchestrator.log",
            look=_followed,
            needs=("PrefectCircuitOpen",),
        ),
    ),
)
