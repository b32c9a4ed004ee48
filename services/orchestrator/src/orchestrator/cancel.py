"""Carrying out wishes to cancel: Prefect is told, and what nothing will end by itself is ended."""

import asyncio
from collections.abc import Callable
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.errors import EngineConfused, EngineRefused, EngineUnavailable, LedgerUnavailable
from orchestrator.ledger import cancellation, following
from orchestrator.ledger.cancellation import Wish
from orchestrator.ledger.connection import transaction
from orchestrator.ledger.events import Seen
from orchestrator.prefect_api import PrefectApi
from orchestrator.resilience import backoff
from orchestrator.runs import FlowRun, State

IDLE_SECONDS = 1.0  # how soon a wish is found that nobody here was woken by
HELD_SECONDS = 0.2  # how soon a run that a dispatcher holds is looked at again
NOT_FOUND = 404
ALIVE = frozenset({State.RUNNING, State.PAUSED})  # a process of the run's own hears of its cancellation and ends it

log = structlog.get_logger(__name__)


class Canceller:
    """One replica's share of cancelling; any number may work on one ledger."""

    def __init__(
        self, *, db: AsyncEngine, prefect: PrefectApi, grace_seconds: float, on_seen: Callable[[Seen], None]
    ) -> None:
        """A run that nothing had begun to execute is ended after `grace_seconds`. `on_seen` is told of every change."""
        self._db = db
        self._prefect = prefect
        self._grace_seconds = grace_seconds
        self._on_seen = on_seen
        self._asked = asyncio.Event()

    def wake(self) -> None:
        """A wish was just committed here."""
        self._asked.set()

    async def work(self) -> None:
        """Carry out whatever is due, then wait for more; returns only by cancellation."""
        while True:
            self._asked.clear()
            try:
                while await self.carry_out_one():
                    pass
            except LedgerUnavailable as exc:
                log.warning("cancelling waits for the database", reason=str(exc))
            try:
                async with asyncio.timeout(IDLE_SECONDS):
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
            await wish.sent(look_in=self._grace_seconds)
        else:
            await wish.postponed(f"Prefect did not cancel: {answer}", wait=backoff(wish.attempts))

    async def _finish(self, wish: Wish, flow_run_id: UUID) -> None:
        """The grace is over: a process of the run's own may take its time, but without one nobody would end it soon."""
        flow_run = await self._look(flow_run_id)
        if flow_run is not None and flow_run.state is State.CANCELLING:
            if await self._prefect.state_before_cancelling(flow_run_id) not in ALIVE:
                reason = f"cancelled before it started; nothing answered within {self._grace_seconds:g} s"
                await self._prefect.end_as_cancelled(flow_run_id, reason=reason)
                await self._look(flow_run_id)
        elif flow_run is not None and not flow_run.state.ended:
            await self._send(wish, flow_run_id)  # somebody put it back to work
            return
        await wish.settled()

    async def _look(self, flow_run_id: UUID) -> FlowRun | None:
        """Where the run is, written down at once. One that Prefect no longer has is the sync's to record."""
        flow_run = await self._prefect.flow_run(flow_run_id)
        if flow_run is not None:
            self._tell(await following.record(self._db, [flow_run], {}))
        return flow_run

    def _tell(self, seen: list[Seen]) -> None:
        for change in seen:
            self._on_seen(change)
