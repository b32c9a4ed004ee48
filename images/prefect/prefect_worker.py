"""The worker's command: `python -m prefect_worker --pool=…` is `prefect worker start` with a worker that is woken.

Prefect's worker asks for runs every so often, and a run waits for the next time. Here Prefect's events have it ask at
once when a run is scheduled, and when one has ended, which may make room under a limit. They only wake it: it goes on
asking as before, so that an event that is missed costs the wait that there was.

Some runs are meant for a pod that is there: one that has just executed another run of the same backfill. They carry a
label that says for how long; only when no pod has taken such a run by then is it the worker's.
"""

import asyncio
import logging
import random
import sys
import time
import warnings
from typing import Any
from uuid import UUID

from prefect.cli import app
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter
from prefect.workers.base import BaseWorker
from prefect_kubernetes.worker import KubernetesWorker

_FLOW_RUN = "prefect.flow-run."
# What a run goes through between its start and its end, by the names of Prefect's own states; an end may have any name.
_ON_ITS_WAY = frozenset(
    {"Pending", "Submitting", "InfrastructurePending", "Running", "Late", "Cancelling", "heartbeat"}
)
# The label of a run that is left to pods for so many seconds.
LEFT_TO_PODS_LABEL = "pipelines.left-to-pods-seconds"
# A label is anybody's to write: no run is left for longer.
MOST_LEFT_SECONDS = 60.0
_POOL_SECONDS = 1.0
# Between two times that it is woken, so that a burst of events is not a burst of requests.
_REST_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 30.0

_log = logging.getLogger(__name__)


class Woken(BaseWorker[Any, Any, Any]):
    """A worker of any kind that asks for runs as soon as one is scheduled in its pool."""

    type = "woken"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As Prefect's."""
        super().__init__(*arguments, **options)
        self._woken = asyncio.Event()
        # When each run that is left to pods was first seen: by this clock, since it is another host that made it.
        self._left_since: dict[UUID, float] = {}
        self._again: asyncio.TimerHandle | None = None

    async def start(self, *arguments: Any, **options: Any) -> None:
        """As Prefect's; listens meanwhile."""
        beside = [asyncio.create_task(self._listen()), asyncio.create_task(self._ask())]
        try:
            await super().start(*arguments, **options)
        finally:
            for task in beside:
                task.cancel()

    async def _ask(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                await self.get_and_submit_flow_runs()
            except Exception as exc:  # noqa: BLE001 - the worker's own asking is what says so, and gives up
                _log.debug("could not ask: %s: %s", type(exc).__name__, exc)
            await asyncio.sleep(_REST_SECONDS)

    async def _get_scheduled_flow_runs(self) -> list[WorkerFlowRunResponse]:
        """Those that are not left to pods; what is, is asked for again when its time is over."""
        found = await super()._get_scheduled_flow_runs()
        now = time.monotonic()
        self._left_since = {one.flow_run.id: self._left_since.get(one.flow_run.id, now) for one in found}
        left = [self._left_since[one.flow_run.id] + _left_seconds(one) - now for one in found]
        later = [seconds for seconds in left if seconds > 0]
        if self._again is not None:
            self._again.cancel()
        self._again = asyncio.get_running_loop().call_later(min(later), self._woken.set) if later else None
        return [one for one, seconds in zip(found, left, strict=True) if seconds <= 0]

    async def _listen(self) -> None:
        """Connect again and again, for as long as the worker runs."""
        failures = 0
        while True:
            pool = self.work_pool_id
            if pool is None:  # the worker has not found its pool yet
                await asyncio.sleep(_POOL_SECONDS)
                continue
            wanted = EventFilter(
                event=EventNameFilter(prefix=[_FLOW_RUN]),
                any_resource=EventAnyResourceFilter(id=[f"prefect.work-pool.{pool}"]),
            )
            try:
                async with get_events_subscriber(filter=wanted, reconnection_attempts=0) as events:
                    failures = 0
                    self._woken.set()  # what was scheduled before somebody listened
                    async for event in events:
                        if event.event.removeprefix(_FLOW_RUN) not in _ON_ITS_WAY:
                            self._woken.set()
            except Exception as exc:  # noqa: BLE001 - whatever keeps the events away, the worker asks on its own
                _log.debug("no events, runs are asked for now and then: %s: %s", type(exc).__name__, exc)
            failures += 1
            pause = min(_LONGEST_PAUSE_SECONDS, 2.0 ** min(failures, 10))
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - not a secret: a fleet shall not return at once

    @property
    def work_pool_id(self) -> str | None:
        """The pool's id, once the worker has read it."""
        return str(self._work_pool.id) if self._work_pool else None


def _left_seconds(found: WorkerFlowRunResponse) -> float:
    seconds = found.flow_run.labels.get(LEFT_TO_PODS_LABEL, 0)
    return min(float(seconds), MOST_LEFT_SECONDS) if isinstance(seconds, int | float) else 0.0


def main() -> None:
    """Run Prefect's command, which finds the worker by its type."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*The existing type will be overridden", category=UserWarning)

        class WokenKubernetesWorker(Woken, KubernetesWorker):
            """The Kubernetes worker, woken."""

            type = KubernetesWorker.type

    sys.argv = ["prefect", "worker", "start", "--type=kubernetes", *sys.argv[1:]]
    app()


if __name__ == "__main__":
    main()
