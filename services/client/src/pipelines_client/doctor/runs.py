"""Runs: those that wait, are held, take too long, failed or kept older rows."""

from typing import TYPE_CHECKING

from pipelines_client.doctor.checks import Category, Check, Finding, Side
from pipelines_client.doctor.sights import Sights
from pipelines_client.doctor.sights.service import ago, since, span

if TYPE_CHECKING:
    from pipelines_client.answers import Held, LastRun

# Reasons that pass by themselves: nobody has to act.
PASSING = frozenset({"PL006", "PL007", "PL008", "PL009", "PL012", "PL017", "PL018", "PL022", "PL024"})
# Runs of a backfill that is paused or waits its turn are meant to wait.
MEANT_TO_WAIT = frozenset({"PL021", "PL022"})
HAND_OVER_SECONDS = 60.0
OLD_SECONDS = 6 * 3600.0
OLDEST = "orchestrator_oldest_unfinished_seconds"
ENDED_BADLY = frozenset({"Failed", "Crashed"})


def _backlog(sights: Sights) -> Finding | None:
    waiting = []
    for one in sights.service.pipelines:
        left = [
            run
            for run in sights.service.runs(one.name, "Scheduled")
            if run.flow_run_id is None
            and since(run.accepted_at.timestamp()) > HAND_OVER_SECONDS
            and (run.reason is None or run.reason.id not in MEANT_TO_WAIT)
        ]
        if left:
            oldest = min(run.accepted_at for run in left)
            waiting.append(f"{len(left)} of {one.name}, the oldest for {ago(oldest)}")
    return Finding(what=f"runs accepted and not handed over: {'; '.join(waiting)}") if waiting else None


def _held(sights: Sights) -> Finding | None:
    held = [(one.name, hold) for one in sights.service.pipelines for hold in one.held if hold.runs]
    acting = [(pipeline, hold) for pipeline, hold in held if hold.reason.id not in PASSING]
    shown = acting or held
    if not shown:
        return None
    what = "; ".join(_told(pipeline, hold) for pipeline, hold in shown)
    return Finding(what=what, warning=not acting, command=shown[0][1].reason.fix)


def _told(pipeline: str, hold: "Held") -> str:
    reason = hold.reason
    runs = "run" if hold.runs == 1 else "runs"
    return f"{hold.runs} {runs} of {pipeline} for {ago(reason.since)}: {reason.id} {reason.title}: {reason.detail}"


def _too_old(sights: Sights) -> Finding | None:
    old = {name: age for name, age in sights.service.gauge(OLDEST).items() if age > OLD_SECONDS}
    if not old:
        return None
    what = "; ".join(f"the oldest of {name} was accepted {span(age)} ago" for name, age in old.items())
    return Finding(what=what, warning=True, names={"pipeline": next(iter(old))})


def _failed(sights: Sights) -> Finding | None:
    bad = [(one.name, one.last_run) for one in sights.service.pipelines if one.last_run is not None]
    failed = [(name, run) for name, run in bad if run.state in ENDED_BADLY]
    if not failed:
        return None
    what = "; ".join(_end(sights, name, run) for name, run in failed)
    return Finding(what=what, warning=True, names={"run": failed[0][1].run_id})


def _end(sights: Sights, pipeline: str, last: "LastRun") -> str:
    run = next((one for one in sights.service.runs(pipeline, last.state) if one.run_id == last.run_id), None)
    reason = f": {run.reason.id} {run.reason.title}: {run.reason.detail}" if run is not None and run.reason else ""
    return f"{pipeline} of {last.logical_date} {last.state}{reason}"


def _degraded(sights: Sights) -> Finding | None:
    told = []
    command = None
    for one in sights.service.pipelines:
        newest: dict[str, str] = {}
        for run in sights.service.runs(one.name, "Completed"):
            newest.setdefault(run.logical_date.isoformat(), run.state_name)
        days = sorted(day for day, name in newest.items() if name == "Degraded")
        if days:
            told.append(f"{one.name}: {len(days)} from {days[0]} to {days[-1]}")
            command = command or f"pipelines backfill {one.name} --from {days[0]} --to {days[-1]} --mode degraded"
    return Finding(what=f"degraded days of {'; '.join(told)}", warning=True, command=command) if told else None


def _source(sights: Sights) -> Finding | None:
    given_up = [
        f"{one.name}: the circuit to its source is {one.source_breaker}"
        for one in sights.service.pipelines
        if one.source_breaker not in {None, "closed"}
    ]
    return Finding(what="; ".join(given_up), warning=True) if given_up else None


CATEGORY = Category(
    name="runs",
    about="runs that wait, are held, failed or kept older rows",
    side=Side.SERVICE,
    checks=(
        Check(
            id="PipelineDispatchBacklog",
            description="accepted runs are handed to Prefect",
            meaning="Accepted runs are safe in the ledger and have not gone to Prefect for a minute.",
            command="{kubectl} logs --selector app.kubernetes.io/component=orchestrator --tail=50",
            here="tail -n 50 .local/logs/orchestrator.log",
            look=_backlog,
            needs=("PrefectCircuitOpen",),
        ),
        Check(
            id="PipelineRunHeld",
            description="no run is held",
            meaning="Runs do not go on until somebody acts; the check says why, by the reason's id, and since when.",
            command="pipelines why {run}",
            look=_held,
            needs=("PL336",),
        ),
        Check(
            id="PipelineRunTooOld",
            description="no run is older than six hours",
            meaning="A run is not over six hours after it was accepted.",
            command="pipelines runs {pipeline}",
            look=_too_old,
            needs=("PL336",),
        ),
        Check(
            id="PipelineRunFailed",
            description="the last run of every pipeline did not fail",
            meaning="A pipeline's last run ended Failed or Crashed.",
            command="pipelines why {run}",
            look=_failed,
            needs=("PL336",),
        ),
        Check(
            id="PipelineRunDegraded",
            description="no day kept older rows",
            meaning="The source was given up, and days keep what earlier runs had loaded.",
            command="pipelines backfill {pipeline} --from {first} --to {last} --mode degraded",
            look=_degraded,
            needs=("PL336",),
        ),
        Check(
            id="PipelineSourceCircuitOpen",
            description="the circuits to the sources are closed",
            meaning="Flows have given their source up: runs keep what is loaded and end Degraded, or fail.",
            command="pipelines calendar",
            look=_source,
            needs=("PL336",),
        ),
    ),
)
