"""Carrying out wishes to cancel: Prefect is told, and what nothing will end by itself is ended."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.errors import (
    EngineConfused,
    EngineRefused,
    EngineUnavailable,
    KubernetesRefused,
    KubernetesUnavailable,
    LedgerUnavailable,
)
from orchestrator.kubernetes_api import KubernetesApi
from orchestrator.ledger import cancellation, following
from orchestrator.ledger.cancellation import Wish
from orchestrator.ledger.connection import transaction
from orchestrator.ledger.events import Seen
from orchestrator.prefect_api import PrefectApi
from orchestrator.removal import Removal
from orchestrator.resilience import backoff
from orchestrator.runs import FlowRun, State
from orchestrator.workloads import NOBODYS, Job

IDLE_SECONDS = 5.0  # how soon a wish is found that nobody here was woken by
HELD_SECONDS = 0.2  # how soon a run that a dispatcher holds is looked at again
NOT_FOUND = 404
ALIVE = frozenset({State.RUNNING, State.PAUSED})  # a process of the run's own hears of its cancellation and ends it

log = structlog.get_logger(__name__)


class Canceller:
    """One replica's share of cancelling; any number may work on one ledger."""

    def __init__(
        self,
        *,
        db: AsyncEngine,
        prefect: PrefectApi,
        kubernetes: KubernetesApi | None,
        grace_seconds: float,
        deadline_seconds: float,
        on_seen: Callable[[Seen], None],
        on_acted: Callable[[str, str], None],
    ) -> None:
        """How long a cancelled run has to end by itself is `deadline_seconds` where a process of its own executes it.

        Where none does it is ended at once, as far as Kubernetes shows that, else after `grace_seconds`. `kubernetes`:
        None where runs are not Jobs. `on_seen` is told of every change, `on_acted` of every Job that is removed.
        """
        self._db = db
        self._prefect = prefect
        self._kubernetes = kubernetes
        self._removal = Removal(kubernetes, on_acted) if kubernetes is not None else None
        self._grace_seconds = grace_seconds
        self._deadline_seconds = deadline_seconds
        self._on_seen = on_seen
        self._asked = asyncio.Event()

    def wake(self) -> None:
        """A wish was just committed here."""
        self._asked.set()

    async def work(self) -> None:
        """Carry out whatever is due, then wait for more; returns only by cancellation."""
        while True:
            self._asked.clear()
            pause = IDLE_SECONDS
            try:
                while await self.carry_out_one():
                    pass
                due = await cancellation.next_due(self._db)
                if due is not None:
                    pause = min(pause, max(0.02, (due - datetime.now(UTC)).total_seconds()))
            except LedgerUnavailable as exc:
                log.warning("cancelling waits for the database", reason=str(exc))
            try:
                async with asyncio.timeout(pause):
                    await self._asked.wait()
            except TimeoutError:
                continue

    async def carry_out_one(self) -> bool:
        """Try the wish that has been due the longest; False when none is. Raises LedgerUnavailable."""
        async with cancellation.claim(self._db) as wish:
            if wish is None:
                return False
            said = log.bind(run_id=str(wish.run_id), pipeline=wish.pipeline, correlation_id=wish.correlation_id)
            try:
                if wish.flow_run_id is None:
                    await self._end_here(wish)
                elif wish.sent_at is None:
                    await self._send(wish, wish.flow_run_id)
                else:
                    await self._finish(wish, wish.flow_run_id)
            except (EngineUnavailable, EngineConfused, EngineRefused) as exc:
                if isinstance(exc, EngineRefused) and exc.status == NOT_FOUND:
                    await wish.settled()  # the sync records that Prefect has lost the run
                    return True
                wait = max(backoff(wish.attempts), exc.retry_after or 0)
                await wish.postponed(str(exc), wait=wait)
                said.warning("cancellation postponed", reason=str(exc), wait_seconds=round(wait, 2))
        return True

    async def _end_here(self, wish: Wish) -> None:
        """Prefect does not have the run: it ends in the ledger, once no dispatcher holds it."""
        if not wish.over:
            async with transaction(self._db) as connection:
                seen = await cancellation.end_waiting(connection, [wish.run_id])
                await cancellation.announce(connection, seen)
            if not seen:
                await wish.postponed("a dispatcher is handing the run over", wait=HELD_SECONDS)
                return
            self._tell(seen)
        await wish.settled()

    async def _send(self, wish: Wish, flow_run_id: UUID) -> None:
        answer = await self._prefect.cancel(flow_run_id)
        flow_run = await self._look(flow_run_id)
        # the answer's status says how Prefect took it; where the run is now says what is left to do
        if flow_run is None or flow_run.state.ended:
            await wish.settled()
        elif flow_run.state is State.CANCELLING:
            await self._wait_or_end(wish, flow_run)
        else:
            await wish.postponed(f"Prefect did not cancel: {answer}", wait=backoff(wish.attempts))

    async def _finish(self, wish: Wish, flow_run_id: UUID) -> None:
        """Its time to end by itself may be over."""
        flow_run = await self._look(flow_run_id)
        if flow_run is None or flow_run.state.ended:
            await wish.settled()
        elif flow_run.state is State.CANCELLING:
            await self._wait_or_end(wish, flow_run)
        else:
            await self._send(wish, flow_run_id)  # somebody put it back to work

    async def _wait_or_end(self, wish: Wish, flow_run: FlowRun) -> None:
        """A process of the run's own is given its time, but without one nobody would end the run soon."""
        alive = await self._prefect.state_before_cancelling(flow_run.flow_run_id) in ALIVE
        most = self._deadline_seconds if alive else self._grace_seconds
        jobs, begun = await self._work(flow_run)
        left = most - (datetime.now(UTC) - flow_run.at).total_seconds()
        if left > 0 and (alive or begun is not False):
            await wish.sent(look_in=left)
            return
        reason = f"its process did not end within {most:g} s" if alive else "it had not started"
        await self._prefect.end_as_cancelled(flow_run.flow_run_id, reason=f"cancelled: {reason}")
        await self._look(flow_run.flow_run_id)
        if self._removal is not None:
            with suppress(KubernetesUnavailable, KubernetesRefused):  # the recovery removes what is left
                await self._removal.remove(wish, jobs)
        await wish.settled()

    async def _work(self, flow_run: FlowRun) -> tuple[list[Job], bool | None]:
        """The run's Jobs, and whether a process of it has begun; None where Kubernetes cannot say."""
        if self._kubernetes is None:
            return [], None
        named = {flow_run.flow_run_id}
        pods_of = {flow_run.flow_run_id: flow_run.pod_of} if flow_run.pod_of else NOBODYS
        try:
            jobs = await self._kubernetes.jobs(named, pods_of=pods_of)
            pods = await self._kubernetes.pods(named, pods_of=pods_of)
        except (KubernetesUnavailable, KubernetesRefused):
            return [], None
        return jobs, any(one.flow is not None and one.flow.started_at is not None for one in pods)

    async def _look(self, flow_run_id: UUID) -> FlowRun | None:
        """Where the run is, written down at once. One that Prefect no longer has is the sync's to record."""
        flow_run = await self._prefect.flow_run(flow_run_id)
        if flow_run is not None:
            self._tell(await following.record(self._db, [flow_run], {}))
        return flow_run

    def _tell(self, seen: list[Seen]) -> None:
        for change in seen:
            self._on_seen(change)
