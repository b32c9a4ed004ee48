"""Every reason why a run does not go on, or why it ended: a stable id, what it means, and the command that fixes it.

PL001 and on hold a run, PL101 and on ended one. An id is never given another meaning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One entry of the catalogue.

    `fix` and, where there is no Kubernetes, `fix_here` are commands with names to fill in; `goes_on`: the run continues
    by itself once what is meant has passed, nobody has to act.
    """

    id: str
    title: str
    meaning: str
    fix: str
    fix_here: str | None = None
    goes_on: bool = False

    @property
    def ends(self) -> bool:
        """Whether it says why a run ended, rather than what holds it."""
        return int(self.id.removeprefix("PL")) > 100


_WORKER = "{kubectl} scale deployment --selector app.kubernetes.io/component=worker --replicas=1"
_WATCH_POD = "{kubectl} describe pod {pod}"
_LOGS = "{prefect} flow-run logs {flow_run}"

_HOLDS = (
    Kind(
        id="PL001",
        title="No worker online",
        meaning="No worker polls the work pool, so nothing makes the run's Job.",
        fix=_WORKER,
        fix_here="prefect worker start --pool {pool}",
    ),
    Kind(
        id="PL002",
        title="Work pool paused",
        meaning="Somebody paused the work pool: workers get no run of it.",
        fix="{prefect} work-pool resume {pool}",
    ),
    Kind(
        id="PL003",
        title="Work queue paused",
        meaning="Somebody paused the work queue: workers get no run of it.",
        fix="{prefect} work-queue resume {queue} --pool {pool}",
    ),
    Kind(
        id="PL004",
        title="Deployment paused",
        meaning="Somebody paused the deployment: its schedule makes no runs. Runs started by hand go on.",
        fix="{prefect} api POST /deployments/{deployment_id}/resume_deployment",
    ),
    Kind(
        id="PL005",
        title="Queue without a worker",
        meaning="Workers are online, and all of them poll other queues of the pool.",
        fix="{prefect} deployment inspect {deployment}  # give its queue a worker: prefect worker start --pool {pool}"
        " --work-queue {queue}",
        fix_here="prefect worker start --pool {pool} --work-queue {queue}",
    ),
    Kind(
        id="PL006",
        title="Work pool full",
        meaning="As many runs as the work pool allows are going.",
        fix="{prefect} work-pool set-concurrency-limit {pool} {more}",
        goes_on=True,
    ),
    Kind(
        id="PL007",
        title="Work queue full",
        meaning="As many runs as the work queue allows are going.",
        fix="{prefect} work-queue set-concurrency-limit {queue} {more} --pool {pool}",
        goes_on=True,
    ),
    Kind(
        id="PL008",
        title="Deployment full",
        meaning="As many runs as the deployment allows are going.",
        fix="{prefect} global-concurrency-limit update {limit} --limit {more}",
        goes_on=True,
    ),
    Kind(
        id="PL009",
        title="Concurrency limit full",
        meaning="A global or tag concurrency limit that the run waits for has no free slot.",
        fix="{prefect} global-concurrency-limit update {limit} --limit {more}",
        goes_on=True,
    ),
    Kind(
        id="PL010",
        title="Pod cannot be scheduled",
        meaning="No node has what the run's pod asks for: a resource, a label, or it does not tolerate a taint.",
        fix=_WATCH_POD + "  # then add such a node, or start the run again asking for less",
    ),
    Kind(
        id="PL011",
        title="Image cannot be pulled",
        meaning="The registry does not give the node the run's image.",
        fix=_WATCH_POD + "  # then correct images.etl in the chart's values, or push the image",
    ),
    Kind(
        id="PL012",
        title="Quota exceeded",
        meaning="The namespace's ResourceQuota leaves no room for the run's pod.",
        fix="{kubectl} describe resourcequota",
        goes_on=True,
    ),
    Kind(
        id="PL013",
        title="Refused by admission",
        meaning="The cluster's admission (PodSecurity, a policy, a webhook) does not let the run's pod in.",
        fix="{kubectl} describe job {job}  # then correct the work pool's base job template or the policy",
    ),
    Kind(
        id="PL014",
        title="Container cannot start",
        meaning="The run's container cannot be made or started: a Secret, a ConfigMap or a command is missing.",
        fix=_WATCH_POD,
    ),
    Kind(
        id="PL015",
        title="Volume not ready",
        meaning="A volume of the run's pod is not bound, or cannot be mounted.",
        fix="{kubectl} describe pod {pod} && {kubectl} get persistentvolumeclaims",
    ),
    Kind(
        id="PL016",
        title="Pod runs but is silent",
        meaning="The run's pod runs, and Prefect has heard nothing from it for longer than a few heartbeats.",
        fix="{kubectl} logs {pod} --tail=50",
    ),
    Kind(
        id="PL017",
        title="Prefect unreachable",
        meaning="The Prefect server does not answer: accepted runs wait to be handed over, states are not followed.",
        fix="{kubectl} get pods --selector app.kubernetes.io/component=prefect-server --output wide",
        fix_here="curl --silent --show-error {prefect_api}/health",
        goes_on=True,
    ),
    Kind(
        id="PL018",
        title="Waits for its time",
        meaning="The run is scheduled for later: a retry that waits, or somebody put it off.",
        fix="{prefect} flow-run inspect {flow_run}",
        goes_on=True,
    ),
    Kind(
        id="PL019",
        title="Pod gone",
        meaning="Prefect believes that the run goes on, and the pod it ran in has ended or is not there.",
        fix="{kubectl} get pods --selector prefect.io/flow-run-id={flow_run}",
    ),
    Kind(
        id="PL020",
        title="Taken by a worker, but no Job",
        meaning="A worker took the run and has made no Job of it: it may have died in between.",
        fix="{kubectl} get jobs --selector prefect.io/flow-run-id={flow_run}",
        fix_here="prefect flow-run inspect {flow_run}",
    ),
    Kind(
        id="PL021",
        title="Backfill paused",
        meaning="The run belongs to a backfill that somebody paused.",
        fix="curl --silent --request POST localhost:8080/api/{pipeline}/backfill/{backfill}/resume",
    ),
    Kind(
        id="PL022",
        title="Waits its turn in a backfill",
        meaning="The backfill lets no more runs go at once; it goes on when an earlier date is done.",
        fix="curl --silent localhost:8080/api/{pipeline}/backfill/{backfill}",
        goes_on=True,
    ),
    Kind(
        id="PL023",
        title="Run paused",
        meaning="The flow itself, or somebody in Prefect, paused the run.",
        fix="{prefect} api POST /flow_runs/{flow_run}/resume",
    ),
    Kind(
        id="PL024",
        title="Pod still starting",
        meaning="The run's pod has a node and is being made there; nothing says that this fails.",
        fix=_WATCH_POD,
        goes_on=True,
    ),
    Kind(
        id="PL025",
        title="Hand-over fails",
        meaning="Prefect serves others, and fails at taking this very run.",
        fix="{kubectl} logs service/{server} --tail=50",
        fix_here="curl --silent --show-error {prefect_api}/health",
    ),
    Kind(
        id="PL099",
        title="Late, with no visible cause",
        meaning="The run should have begun, and nothing that can be seen from here holds it.",
        fix="{prefect} flow-run inspect {flow_run}",
    ),
)

_ENDS = (
    Kind(
        id="PL101",
        title="Source unavailable",
        meaning="The source did not answer, or has been given up for now, and the day was never loaded before.",
        fix=_LOGS + "  # once the source is back: a backfill in mode failed",
    ),
    Kind(
        id="PL102",
        title="Source refused",
        meaning="The source refused the request itself: trying again cannot help.",
        fix=_LOGS,
    ),
    Kind(
        id="PL103",
        title="Bad data",
        meaning="Too many of the day's records break the rules; they are kept in the warehouse's table rejects.",
        fix=_LOGS,
    ),
    Kind(
        id="PL104",
        title="Timed out",
        meaning="A step of the run, or the run, took longer than it may.",
        fix=_LOGS,
    ),
    Kind(
        id="PL105",
        title="Out of memory",
        meaning="The run's container was killed because it needed more memory than its limit, or than the node has.",
        fix="{prefect} deployment inspect {deployment}  # then raise memory_limit in its job variables, or"
        " flowRuns.resources in the chart's values",
    ),
    Kind(
        id="PL106",
        title="Evicted",
        meaning="Kubernetes took the pod off its node: a drain, a preemption, or pressure on the node.",
        fix="{kubectl} get events --field-selector involvedObject.name={pod}",
    ),
    Kind(
        id="PL107",
        title="Code error",
        meaning="The flow's code raised an error that is none of the named ones.",
        fix=_LOGS,
    ),
    Kind(
        id="PL108",
        title="Container crashed",
        meaning="The run's container ended by itself, by a signal or with an exit code, before the flow could say why.",
        fix=_LOGS,
    ),
    Kind(
        id="PL109",
        title="Pod lost",
        meaning="The run's pod is gone, and nothing is known of how it ended.",
        fix="{kubectl} get events --field-selector type=Warning",
        fix_here="prefect flow-run inspect {flow_run}",
    ),
    Kind(
        id="PL110",
        title="Refused by Prefect",
        meaning="Prefect will not take the run: the deployment is missing, or its parameters do not fit.",
        fix="{prefect} deployment inspect {deployment}",
    ),
    Kind(
        id="PL111",
        title="Deleted in Prefect",
        meaning="Prefect has no flow run of that id any more: somebody deleted it before it ended, or paused the"
        " deployment, which deletes what its schedule had made.",
        fix="{prefect} flow-run inspect {flow_run}  # then start the day again",
    ),
    Kind(
        id="PL112",
        title="Job could not be made",
        meaning="The worker could not make the run's Job.",
        fix=_LOGS,
    ),
    Kind(
        id="PL113",
        title="Went silent",
        meaning="No heartbeat of the run reached Prefect for too long, and it was given up.",
        fix=_LOGS,
    ),
    Kind(
        id="PL114",
        title="Not started in time",
        meaning="The run waited for its start for longer than its pipeline allows, and nothing that was seen held it.",
        fix="{prefect} flow-run inspect {flow_run}",
    ),
    Kind(
        id="PL115",
        title="Too few days",
        meaning="The run learns from days that others load, and fewer of them are loaded than it needs.",
        fix=_LOGS + "  # it names the days: load what is missing by a backfill",
    ),
    Kind(
        id="PL116",
        title="Stale days",
        meaning="The run learns from days that others load, and the newest of them is too old.",
        fix=_LOGS + "  # it names the day: see why no later one was loaded",
    ),
    Kind(
        id="PL199",
        title="Failed",
        meaning="The run failed, and its message is all that is known.",
        fix=_LOGS,
    ),
)

CATALOGUE: Mapping[str, Kind] = MappingProxyType({one.id: one for one in (*_HOLDS, *_ENDS)})
