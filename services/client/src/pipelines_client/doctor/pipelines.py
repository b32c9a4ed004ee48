"""The pipelines: registered with Prefect, not paused, with a next run, and with a success not long ago."""

from pipelines_client.doctor.checks import Category, Check, Finding, Side
from pipelines_client.doctor.sights import Sights
from pipelines_client.doctor.sights.service import since, span

SUCCESS = "orchestrator_last_success_timestamp_seconds"
DAILY_SECONDS = 26 * 3600.0


def _registered(sights: Sights) -> Finding | None:
    pipelines = sights.service.pipelines
    missing = [f"{one.name} ({one.deployment})" for one in pipelines if one.registered is False]
    unknown = [f"{one.name} ({one.deployment})" for one in pipelines if one.registered is None]
    if missing:
        return Finding(what=f"Prefect has no deployment of {', '.join(missing)}")
    return Finding(what=f"not known yet of {', '.join(unknown)}", warning=True) if unknown else None


def _paused(sights: Sights) -> Finding | None:
    paused = [one for one in sights.service.pipelines if one.paused and one.registered]
    if not paused:
        return None
    fixes = [hold.reason.fix for one in paused for hold in one.held if hold.reason.id == "PL004"]
    what = f"paused: {', '.join(one.name for one in paused)}"
    return Finding(what=what, warning=True, command=fixes[0] if fixes else None)


def _planned(sights: Sights) -> Finding | None:
    unplanned = []
    for one in sights.service.pipelines:
        scheduled = one.registered and not one.paused and any(schedule.active for schedule in one.schedules)
        if scheduled and one.next_run is None:
            unplanned.append(f"{one.name} has a schedule, and no next run")
        elif one.registered and one.schedules and not any(schedule.active for schedule in one.schedules):
            unplanned.append(f"every schedule of {one.name} is off")
    return Finding(what="; ".join(unplanned), warning=True) if unplanned else None


def _successful(sights: Sights) -> Finding | None:
    last = sights.service.gauge(SUCCESS)
    old = []
    for one in sights.service.pipelines:
        scheduled = not one.paused and any(schedule.active for schedule in one.schedules)
        if scheduled and one.name in last and since(last[one.name]) > DAILY_SECONDS:
            old.append(f"{one.name} last completed {span(since(last[one.name]))} ago")
        elif scheduled and one.name not in last and one.last_run is not None and one.last_run.ended_at is not None:
            old.append(f"{one.name} has runs, and none ever completed")
    return Finding(what="; ".join(old), warning=True) if old else None


CATEGORY = Category(
    name="pipelines",
    about="the pipelines and their schedules",
    side=Side.SERVICE,
    checks=(
        Check(
            id="PL340",
            description="every pipeline is registered with Prefect",
            meaning="Prefect does not have a pipeline's deployment: its schedule makes no runs, and starts fail.",
            command="{kubectl} get jobs --selector app.kubernetes.io/component=registration",
            here="tail -n 20 .local/logs/etl-deploy.log",
            look=_registered,
            needs=("PL336",),
        ),
        Check(
            id="PL004",
            description="no pipeline is paused",
            meaning="Somebody paused the deployment: its schedule makes no runs. Runs started by hand go on.",
            command="pipelines list",
            look=_paused,
            needs=("PL336",),
        ),
        Check(
            id="PL341",
            description="every schedule has a next run",
            meaning="A schedule is off, or Prefect's scheduler has not planned its next run.",
            command="pipelines list",
            look=_planned,
            needs=("PL340",),
        ),
        Check(
            id="PipelineWithoutSuccess",
            description="every scheduled pipeline completed in the last 26 hours",
            meaning="No run completed, and not as Degraded, since yesterday; all right for one that runs less often.",
            command="pipelines calendar",
            look=_successful,
            needs=("PL336",),
        ),
    ),
)
