"""The next run for a pod whose run is over, where a backfill has a pod execute several, one after another.

A pod costs seconds until its flow begins, a run in a process that is there costs none of them. The orchestrator marks
the runs of such a backfill with labels, and makes the next one when one has ended; the pod waits for that for a moment,
in which the worker leaves the run to the pods. It is taken as a worker takes a run: from the work queue, which knows
limits and pauses, and by moving it to Pending, which Prefect lets one process do. Since no Job bears its name, the run
is told whose pod it is in.

Only runs that nothing has begun are taken: one whose process was lost is executed anew in a pod of its own.
"""

import time
from typing import Any
from uuid import UUID

from etl.attempt import Attempt, go_on
from etl.prefect_api import ApiRefused, PrefectApi

BACKFILL_LABEL = "pipelines.backfill-id"
RUNS_PER_POD_LABEL = "pipelines.runs-per-pod"
POD_OF_LABEL = "pipelines.pod-of"

# From a run's end until the orchestrator has made the next one.
WAIT_SECONDS = 5.0
_ASK_EVERY_SECONDS = 0.1
_ANSWER_WITHIN_SECONDS = 5.0

_NOT_BEGUN = frozenset({"Scheduled", "Late"})


class Succession:
    """The runs of one pod, of which `first` is the one that the pod was made for."""

    def __init__(self, first: Attempt) -> None:
        self._first = self._last = first
        labels = first.run.told.get("labels") or {}
        self._backfill = labels.get(BACKFILL_LABEL)
        self._left = _number(labels.get(RUNS_PER_POD_LABEL)) - 1
        self._infrastructure: str | None = None

    @property
    def goes_on(self) -> bool:
        """Whether the pod may execute another run."""
        return self._backfill is not None and self._left > 0

    def next(self) -> Attempt | None:
        """Wait for the next run, take it and claim it; None: there is none for this pod.

        The environment names the run from then on.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        try:
            while time.monotonic() < deadline:
                for run in self._waiting():
                    attempt = self._taken(run)
                    if attempt is not None:
                        self._left -= 1
                        self._last = attempt
                        return attempt
                time.sleep(_ASK_EVERY_SECONDS)
        except (TimeoutError, ApiRefused):
            return None  # the worker takes what is left
        return None

    def _waiting(self) -> list[dict[str, Any]]:
        told = self._first.run.told
        pool, queue = told.get("work_pool_name"), told.get("work_queue_name")
        if pool is None or queue is None:
            return []
        found = self._api.due(pool, queue, flow_run_id=self._first.flow_run_id, within_seconds=_ANSWER_WITHIN_SECONDS)
        return [
            run
            for run in found
            if run.get("deployment_id") == told.get("deployment_id")
            and (run.get("labels") or {}).get(BACKFILL_LABEL) == self._backfill
            and run.get("run_count") == 0
            and run.get("state_name") in _NOT_BEGUN
        ]

    def _taken(self, run: dict[str, Any]) -> Attempt | None:
        flow_run_id = UUID(run["id"])
        if not self._api.take(flow_run_id, within_seconds=_ANSWER_WITHIN_SECONDS):
            return None
        self._place(flow_run_id)
        return go_on(flow_run_id, after=self._last)

    def _place(self, flow_run_id: UUID) -> None:
        """Tell where the run is executed: Prefect's worker could end the Job, and the orchestrator looks after it."""
        if self._infrastructure is None:
            host = self._api.read_flow_run(self._first.flow_run_id, within_seconds=_ANSWER_WITHIN_SECONDS)
            self._infrastructure = host.told.get("infrastructure_pid")
        self._api.place(
            flow_run_id,
            labels={POD_OF_LABEL: str(self._first.flow_run_id)},
            infrastructure_pid=self._infrastructure,
            within_seconds=_ANSWER_WITHIN_SECONDS,
        )

    @property
    def _api(self) -> PrefectApi:
        return self._first.api


def _number(label: Any) -> int:
    return label if isinstance(label, int) else 1
