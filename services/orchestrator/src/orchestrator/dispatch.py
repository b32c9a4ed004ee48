"""Handing accepted runs to Prefect: each once, in the order of acceptance, for as long as it takes."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import marks
from orchestrator.errors import EngineConfused, EngineRefused, EngineUnavailable, LedgerUnavailable, OrchestratorError
from orchestrator.ledger import backfilling, handover
from orchestrator.ledger.events import Seen
from orchestrator.ledger.handover import Claim
from orchestrator.prefect_api import PrefectApi
from orchestrator.resilience import backoff
from orchestrator.runs import FlowRun
from orchestrator.tracing import Tracing

IDLE_SECONDS = 3.0  # how soon a run is found whose acceptance nobody here was woken by
PACE_SECONDS = 0.1  # while Prefect takes nothing, every accept would wake in vain

log = structlog.get_logger(__name__)


class Dispatcher:
    """One replica's share of handing over; any number may work on one ledger."""

    def __init__(
        self,
        *,
        db: AsyncEngine,
        prefect: PrefectApi,
        deployments: Mapping[str, str],
        handed_over: asyncio.Event,
        tracing: Tracing,
        on_seen: Callable[[Seen], None],
    ) -> None:
        """`deployments`: each pipeline's `flow/deployment`. `handed_over` is set after each success.

        `on_seen` is told of runs that end here, because Prefect refuses them.
        """
        self._db = db
        self._prefect = prefect
        self._deployments = deployments
        self._handed_over = handed_over
        self._tracing = tracing
        self._on_seen = on_seen
        self._accepted = asyncio.Event()
        self._in_vain = False

    def wake(self) -> None:
        """A run was just accepted here, or one of a backfill has ended and makes room for the next."""
        self._accepted.set()

    async def work(self) -> None:
        """Hand over whatever is due, then wait for more; returns only by cancellation."""
        while True:
            woken = self._accepted.is_set()
            self._accepted.clear()
            self._in_vain = True
            try:
                await backfilling.admit(self._db)
                while await self.hand_over_one():
                    pass
                pause = await self._until_due()
            except LedgerUnavailable as exc:
                log.warning("dispatch waits for the database", reason=str(exc))
                pause = IDLE_SECONDS
            if woken and self._in_vain:
                await asyncio.sleep(PACE_SECONDS)
            try:
                async with asyncio.timeout(pause):
                    await self._accepted.wait()
            except TimeoutError:
                continue

    async def hand_over_one(self) -> bool:
        """Try the oldest run that is due; False when none is. Raises LedgerUnavailable."""
        handed_over = False
        refused: Seen | None = None
        async with handover.claim(self._db, self._deployments) as claim:
            if claim is None:
                return False
            said = log.bind(run_id=str(claim.run_id), pipeline=claim.pipeline, correlation_id=claim.correlation_id)
            try:
                flow_run = await self._create(claim)
            except (EngineUnavailable, EngineConfused) as exc:
                wait = max(backoff(claim.attempts), exc.retry_after or 0)
                alone = await self._serves_others(claim.pipeline)
                await claim.postponed(str(exc), wait=wait, steps_aside=alone)
                said.warning("run postponed", reason=str(exc), attempts=claim.attempts + 1, wait_seconds=round(wait, 2))
            except EngineRefused as exc:
                refused = await claim.refused(str(exc))
                said.error("run refused by Prefect", reason=str(exc))
            else:
                await claim.handed_over(flow_run)
                said.info("run handed over", flow_run_id=str(flow_run.flow_run_id))
                handed_over = True
        if handed_over:  # committed: the sync can see it now
            self._in_vain = False
            self._handed_over.set()
        if refused is not None:
            self._on_seen(refused)
        return True

    async def _create(self, claim: Claim) -> FlowRun:
        deployment_id = claim.deployment_id
        if deployment_id is None or claim.deployment != self._deployments[claim.pipeline]:
            deployment_id = None
        try:
            if deployment_id is not None:
                return await self._create_in(deployment_id, claim)
        except EngineRefused as exc:
            if exc.status != 404:
                raise
        # the deployment we knew is gone: it may have been registered anew, under another id
        facts = await self._prefect.deployment(self._deployments[claim.pipeline])
        if facts is None:
            raise EngineRefused(
                f"Prefect has no deployment {self._deployments[claim.pipeline]}; run the registration "
                "(python -m etl.deploy) and start the run again",
                status=404,
            )
        return await self._create_in(facts.deployment_id, claim)

    async def _create_in(self, deployment_id: UUID, claim: Claim) -> FlowRun:
        turn = claim.turn
        ids = {"run_id": str(claim.run_id), "correlation_id": claim.correlation_id, "pipeline": claim.pipeline}
        with self._tracing.span("hand over", parent=claim.traceparent, kind="producer", **ids) as span:
            return await self._prefect.create_flow_run(
                deployment_id,
                key=str(claim.run_id),
                parameters=claim.parameters,
                tags=marks.tags(claim.run_id, claim.correlation_id, turn.backfill_id if turn else None),
                labels=marks.labels(claim.run_id, claim.correlation_id, span.traceparent)
                | (marks.in_turn(turn.backfill_id, runs_per_pod=turn.runs_per_pod, first=turn.first) if turn else {}),
                job_variables=marks.job_variables(claim.run_id, claim.correlation_id),
            )

    async def _serves_others(self, pipeline: str) -> bool:
        """Whether Prefect answers us sensibly at all, so that what failed is this one run's own trouble."""
        try:
            await self._prefect.deployment(self._deployments[pipeline])
        except OrchestratorError:
            return False
        return True

    async def _until_due(self) -> float:
        due = await handover.next_due(self._db, self._deployments)
        if due is None:
            return IDLE_SECONDS
        return min(IDLE_SECONDS, max(0.02, (due - datetime.now(UTC)).total_seconds()))
