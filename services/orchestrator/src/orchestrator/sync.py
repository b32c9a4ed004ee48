"""Following Prefect: the leader asks what became of runs, adopts runs that others made, and refreshes what is known
of each pipeline.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.diagnosis import Diagnosis
from orchestrator.errors import DeploymentMissing, EngineConfused, EngineRefused, LedgerUnavailable, OrchestratorError
from orchestrator.ledger import cancellation, following, handover, recovering
from orchestrator.ledger.events import Seen
from orchestrator.ledger.leadership import Leadership
from orchestrator.prefect_api import PrefectApi
from orchestrator.runs import Facts, FlowRun, State

AT_ONCE = 50
FACTS_SECONDS = 15.0
SWEEP_SECONDS = 300.0
SWEEP_BACK = timedelta(hours=24)
DISCOVERY_BACK = timedelta(minutes=2)
# In polls: how often is looked for runs that others made, and how often at all while nothing is going on.
DISCOVERY_FACTOR = 5
IDLE_FACTOR = 4

log = structlog.get_logger(__name__)


class Sync:
    """One replica's readiness to follow Prefect; only the one that holds the lock does."""

    def __init__(
        self,
        *,
        db: AsyncEngine,
        prefect: PrefectApi,
        leadership: Leadership,
        diagnosis: Diagnosis,
        deployments: Mapping[str, str],
        poll_seconds: float,
        handed_over: asyncio.Event,
        on_seen: Callable[[Seen], None],
        on_failure: Callable[[], None],
        on_crash: Callable[[], None] = lambda: None,
        max_attempts: Mapping[str, int] = following.NONE_AGAIN,
    ) -> None:
        """`handed_over` ends a wait early; `on_seen` is told of every recorded change, `on_failure` of failed looks.

        `max_attempts`: how often a run of each pipeline is executed in all; `on_crash`: one is due to be rerun.
        """
        self._db = db
        self._prefect = prefect
        self._leadership = leadership
        self._diagnosis = diagnosis
        self._deployments = deployments
        self._poll_seconds = poll_seconds
        self._handed_over = handed_over
        self._on_seen = on_seen
        self._on_failure = on_failure
        self._on_crash = on_crash
        self._max_attempts = max_attempts
        self._led = False
        self._trouble: str | None = None
        self._undiagnosed: str | None = None
        self._facts_at = self._swept_at = self._discovered_at = self._looked_at = float("-inf")
        self._known: dict[UUID, tuple[str, Facts]] = {}
        self._next_start: datetime | None = None
        self._odd: dict[str, str] = {}
        self._hinted = False
        self._announced = set[UUID]()

    @property
    def leads(self) -> bool:
        """Whether this replica was the leader when it last looked."""
        return self._led

    def wake(self, flow_runs: Collection[UUID] = ()) -> None:
        """These flow runs have changed in Prefect, or something has where none is named: look now, idle or not."""
        self._announced.update(flow_runs)
        self._hinted = self._hinted or not flow_runs
        self._handed_over.set()

    async def work(self) -> None:
        """Look, wait, look again; returns only by cancellation."""
        try:
            while True:
                self._handed_over.clear()
                began = datetime.now(UTC)
                try:
                    if not await self._leads():
                        self._announced.clear()
                    elif await self._is_worth_it():
                        await self.look(discover=self._hinted or self._is_time_to_discover())
                        await self._settled()
                    elif self._announced:
                        await self.glance()
                except OrchestratorError as exc:
                    self._failed(exc)
                    with suppress(LedgerUnavailable):
                        await self._diagnosis.blind(exc, self._known, since=began)
                try:
                    async with asyncio.timeout(self._poll_seconds):
                        await self._handed_over.wait()
                except TimeoutError:
                    continue
        finally:
            await self._leadership.release()

    async def glance(self) -> None:
        """Look at what was announced, and write that down. Raises OrchestratorError."""
        announced, self._announced = self._announced, set()
        try:
            await self._write(await self._prefect.flow_runs(sorted(announced)))
        except OrchestratorError:
            self._hinted = True
            raise

    async def look(self, *, discover: bool = True) -> None:
        """Look at every run that is not over, and write down where it is. Raises OrchestratorError.

        `discover`: and at runs that others made.
        """
        # what is announced from here on may not be seen by this look
        self._hinted = False
        self._announced.clear()
        if time.monotonic() - self._facts_at >= FACTS_SECONDS:
            await self._learn()
        sweep = time.monotonic() - self._swept_at >= SWEEP_SECONDS
        told = []
        if self._known and (discover or sweep):
            since = datetime.now(UTC) - (SWEEP_BACK if sweep else DISCOVERY_BACK)
            told = await self._prefect.due(self._known, since=since)
            told += await self._prefect.active(self._known)
            if sweep:
                told += await self._prefect.overdue(self._known)
            self._discovered_at = time.monotonic()
        met = {one.flow_run_id: one for one in told}
        rest = [one for one in await following.to_follow(self._db) if one not in met]
        met |= {one.flow_run_id: one for one in await self._prefect.flow_runs(rest)}
        await self._write(list(met.values()))
        for lost in set(rest) - set(met):
            # a page may have shifted while it was read: only Prefect's answer about this very run counts
            if await self._prefect.flow_run(lost) is None:
                gone = await following.lose(self._db, lost)
                if gone is not None:
                    self._on_seen(gone)
        self._looked_at = time.monotonic()
        if sweep:
            self._swept_at = self._looked_at
        await self._diagnose(met)

    async def _write(self, told: Sequence[FlowRun]) -> None:
        """Some at a time: who asks for something meanwhile does not wait behind thousands."""
        for first in range(0, len(told), AT_ONCE):
            some = told[first : first + AT_ONCE]
            seen = await following.record(self._db, some, self._known, max_attempts=self._max_attempts)
            crashed = [one.flow_run_id for one in some if one.state is State.CRASHED]
            if crashed and await recovering.any_going(self._db, crashed):
                self._on_crash()
            for change in seen:
                self._on_seen(change)

    async def _diagnose(self, met: Mapping[UUID, FlowRun]) -> None:
        """What is said of why runs are where they are must not keep where they are from being known."""
        try:
            await self._diagnosis.look(met, self._known)
        except (EngineConfused, EngineRefused) as exc:
            if self._undiagnosed != str(exc):
                log.warning("what holds runs cannot be found out", reason=str(exc))
            self._stays_undiagnosed(str(exc))
        except OrchestratorError:
            raise  # Prefect or the ledger is away: the whole look says so
        except Exception as exc:
            kind = type(exc).__name__
            if self._undiagnosed != kind:
                log.exception("what holds runs cannot be found out")
            self._stays_undiagnosed(kind)
        else:
            self._undiagnosed = None

    def _stays_undiagnosed(self, why: str) -> None:
        """Count every failure; each is logged once, until it is another or it is over."""
        self._on_failure()
        self._undiagnosed = why

    async def _is_worth_it(self) -> bool:
        """Whether to look at all runs now: at every poll while one is not over; when idle, only now and then."""
        ago = time.monotonic() - self._looked_at
        if self._hinted or ago >= self._poll_seconds * IDLE_FACTOR:
            return True
        if self._next_start is not None and self._next_start <= datetime.now(UTC):
            return True
        return ago >= self._poll_seconds and await following.any_unfinished(self._db)

    def _is_time_to_discover(self) -> bool:
        late = self._next_start is not None and self._next_start <= datetime.now(UTC)
        return late or time.monotonic() - self._discovered_at >= self._poll_seconds * DISCOVERY_FACTOR

    async def _leads(self) -> bool:
        leads = await self._leadership.held()
        if leads != self._led:
            self._led = leads
            log.info("leading: this replica follows Prefect" if leads else "not leading any more")
            self._facts_at = self._swept_at = self._discovered_at = self._looked_at = float("-inf")
        return leads

    async def _learn(self) -> None:
        """Ask Prefect about every pipeline's deployment; an odd one does not keep the others from being known."""
        starts = []
        for pipeline, name in self._deployments.items():
            try:
                starts += await self._learn_of(pipeline, name)
            except (DeploymentMissing, EngineConfused, EngineRefused) as exc:
                self._odd_one(pipeline, exc)
            else:
                self._odd.pop(pipeline, None)
        try:
            await following.note_sources(self._db, await self._prefect.source_breaker())
        except (EngineConfused, EngineRefused) as exc:
            log.warning("the circuit to the source is not known", reason=str(exc))
        self._next_start = min(starts, default=None)
        self._facts_at = time.monotonic()

    async def _learn_of(self, pipeline: str, name: str) -> list[datetime]:
        facts = await self._prefect.deployment(name)
        if facts is None:
            self._forget(pipeline)
            await following.note_missing(self._db, pipeline)
            raise DeploymentMissing(f"Prefect has no deployment {name}; run the registration")
        next_starts = await self._prefect.next_starts(facts.deployment_id)
        await following.note_pipeline(self._db, pipeline, facts, next_starts)
        self._forget(pipeline)
        self._known[facts.deployment_id] = (pipeline, facts)
        return next_starts

    def _forget(self, pipeline: str) -> None:
        self._known = {deployment: known for deployment, known in self._known.items() if known[0] != pipeline}

    def _odd_one(self, pipeline: str, error: OrchestratorError) -> None:
        self._on_failure()
        if self._odd.get(pipeline) != str(error):
            log.warning("pipeline cannot be followed", pipeline=pipeline, reason=str(error))
        self._odd[pipeline] = str(error)

    def _failed(self, error: OrchestratorError) -> None:
        """Count every failure, log it once: until it is another or it is over."""
        self._on_failure()
        kind = type(error).__name__
        if kind != self._trouble:
            log.warning("cannot follow Prefect", kind=kind, reason=str(error))
        self._trouble = kind

    async def _settled(self) -> None:
        if self._trouble is not None:
            await handover.hurry(self._db)
            await cancellation.hurry(self._db)
            log.info("following Prefect again", after=self._trouble)
        self._trouble = None
