"""What Prometheus is told.

Counters and histograms grow in whichever replica wrote the thing down, so their sum over the replicas is the whole.
Gauges are read from the ledger when asked, the same by every replica: one of them is the whole.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.errors import LedgerUnavailable
from orchestrator.ledger import reading
from orchestrator.ledger.events import Seen
from orchestrator.runs import State

START_BUCKETS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 900, 3600)
RUN_BUCKETS = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)
CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
DEGRADED = "Degraded"
BREAKER_STATES = ("closed", "half-open", "open")


class Metrics:
    """One application's metrics, in a registry of its own."""

    def __init__(self, pipelines: Iterable[str]) -> None:
        """The counters of these pipelines' runs begin at 0: one that came with its first run would seem not to grow."""
        registry = self._registry = CollectorRegistry()
        self._states = Counter(
            "orchestrator_run_states", "Runs that came into a state.", ["pipeline", "state"], registry=registry
        )
        self._start = Histogram(
            "orchestrator_accept_to_start_seconds",
            "From acceptance (for a scheduled run, from when it was due) to its start.",
            ["pipeline"],
            buckets=START_BUCKETS,
            registry=registry,
        )
        self._run = Histogram(
            "orchestrator_run_duration_seconds",
            "From a run's start to its end.",
            ["pipeline", "state"],
            buckets=RUN_BUCKETS,
            registry=registry,
        )
        self._calls = Histogram(
            "orchestrator_prefect_call_seconds",
            "Calls to Prefect, waits and retries included.",
            ["operation", "outcome"],
            buckets=CALL_BUCKETS,
            registry=registry,
        )
        self._cluster_calls = Histogram(
            "orchestrator_kubernetes_call_seconds",
            "Calls to Kubernetes, waits and retries included.",
            ["operation", "outcome"],
            buckets=CALL_BUCKETS,
            registry=registry,
        )
        self._sync_failures = Counter("orchestrator_sync_failures", "Looks at Prefect that failed.", registry=registry)
        self._actions = Counter(
            "orchestrator_recovery_actions",
            "What was done about runs that stopped on their way: rerun, put_back, crash, give_up (start deadline), "
            "time_out (run deadline), skip (missed schedule), remove_job, free_slots.",
            ["pipeline", "action"],
            registry=registry,
        )
        self._unfinished = Gauge(
            "orchestrator_runs_unfinished", "Runs that are not over.", ["pipeline", "state"], registry=registry
        )
        self._oldest = Gauge(
            "orchestrator_oldest_unfinished_seconds", "Age of the oldest run not over.", ["pipeline"], registry=registry
        )
        self._waiting = Gauge(
            "orchestrator_dispatch_backlog",
            "Runs accepted but not yet handed to Prefect.",
            ["pipeline"],
            registry=registry,
        )
        self._held = Gauge(
            "orchestrator_runs_held",
            "Runs that are not over and do not go on, by the reason's id.",
            ["pipeline", "reason"],
            registry=registry,
        )
        self._succeeded = Gauge(
            "orchestrator_last_success_timestamp_seconds",
            "When a run was last completed, and not as Degraded; absent where none ever was.",
            ["pipeline"],
            registry=registry,
        )
        self._looked = Gauge(
            "orchestrator_prefect_seen_timestamp_seconds",
            "When Prefect last told of a pipeline; absent until it first has.",
            ["pipeline"],
            registry=registry,
        )
        self._breaker = Gauge(
            "orchestrator_prefect_breaker", "1 for the state the circuit is in.", ["state"], registry=registry
        )
        self._degraded = Counter(
            "orchestrator_runs_degraded",
            "Runs that ended Completed, but Degraded: the day keeps what an earlier run loaded.",
            ["pipeline"],
            registry=registry,
        )
        self._source = Gauge(
            "orchestrator_source_breaker",
            "1 for the state of the circuit between the flow and its source; absent until it has first changed.",
            ["pipeline", "state"],
            registry=registry,
        )
        self._database = Gauge(
            "orchestrator_database_up", "Whether the ledger answered this scrape.", registry=registry
        )
        for pipeline in pipelines:
            self._degraded.labels(pipeline)
            for state in State:
                self._states.labels(pipeline, state)

    def accepted(self, pipeline: str) -> None:
        """A run was accepted by the API."""
        self._states.labels(pipeline, State.SCHEDULED).inc()

    def seen(self, change: Seen) -> None:
        """A change of a run was recorded."""
        if change.before is None and change.state is not State.SCHEDULED:
            self._states.labels(change.pipeline, State.SCHEDULED).inc()
        if change.before is not change.state:
            self._states.labels(change.pipeline, change.state).inc()
            if change.state is State.COMPLETED and change.state_name == DEGRADED:
                self._degraded.labels(change.pipeline).inc()
        if change.first_start and change.started_at is not None:
            waited = (change.started_at - change.accepted_at).total_seconds()
            self._start.labels(change.pipeline).observe(max(0.0, waited))
        if change.ended_at is not None and change.started_at is not None and change.before is not change.state:
            took = (change.ended_at - change.started_at).total_seconds()
            self._run.labels(change.pipeline, change.state).observe(max(0.0, took))

    def prefect_call(self, operation: str, outcome: str, seconds: float) -> None:
        """A call to Prefect ended."""
        self._calls.labels(operation, outcome).observe(seconds)

    def kubernetes_call(self, operation: str, outcome: str, seconds: float) -> None:
        """A call to Kubernetes ended."""
        self._cluster_calls.labels(operation, outcome).observe(seconds)

    def sync_failed(self) -> None:
        """A look at Prefect failed."""
        self._sync_failures.inc()

    def acted(self, pipeline: str, action: str) -> None:
        """Something was done about a run that stopped on its way."""
        self._actions.labels(pipeline, action).inc()

    async def text(self, db: AsyncEngine, *, pipelines: list[str], breaker: str) -> bytes:
        """Everything in Prometheus' text format; without the ledger's gauges while the ledger is away."""
        try:
            counted = await reading.backlog(db)
            holds, successes = await reading.holds(db), await reading.last_successes(db, pipelines)
            remembered = await reading.remembered(db)
        except LedgerUnavailable:
            counted, holds, successes, remembered = None, [], {}, {}
        # nothing is awaited from here on: two scrapes at once do not see each other's half-filled gauges
        for state in BREAKER_STATES:
            self._breaker.labels(state).set(state == breaker)
        for gauge in (self._unfinished, self._oldest, self._waiting, self._held, self._succeeded, self._source):
            gauge.clear()
        self._looked.clear()
        self._database.set(counted is not None)
        if counted is not None:
            waiting, unfinished, oldest = counted
            for name in pipelines:
                self._waiting.labels(name).set(waiting.get(name, 0))
                self._oldest.labels(name).set(oldest.get(name, 0))
                if name in remembered:
                    self._looked.labels(name).set(remembered[name].seen_at.timestamp())
            for name, known in remembered.items():
                if known.source_breaker is not None:
                    for state in BREAKER_STATES:
                        self._source.labels(name, state).set(state == known.source_breaker)
            for (name, state), count in unfinished.items():
                self._unfinished.labels(name, state).set(count)
        for row in holds:
            self._held.labels(row.pipeline, row.id).set(row.held)
        for name, moment in successes.items():
            self._succeeded.labels(name).set(moment.timestamp())
        return generate_latest(self._registry)
