"""Getting runs that stopped on their way going again, or ending them: the leader looks, decides and acts.

Each action is decided again on a fresh look at the run before it is taken, by one replica at a time, and may be taken
twice: a crash is counted once, Prefect knows a repeated request, a Job that is gone is gone. Where Prefect or
Kubernetes cannot be asked, nothing is done.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import remedies
from orchestrator.diagnosis import KUBERNETES
from orchestrator.errors import EngineRefused, KubernetesRefused, KubernetesUnavailable, OrchestratorError
from orchestrator.evidence import Evidence, Shown
from orchestrator.kubernetes_api import KubernetesApi
from orchestrator.ledger import following, reading, reasons, recovering
from orchestrator.ledger.events import Seen
from orchestrator.prefect_api import PrefectApi, pools
from orchestrator.remedies import Action, Remedy
from orchestrator.removal import Removal
from orchestrator.runs import FlowRun, State
from orchestrator.settings import Missed, Pipeline
from orchestrator.slots import Slots

LOOK_SECONDS = 5.0
IDLE_SECONDS = 10.0  # while no run is going on, which leaves Jobs to remove and slots to free
MOST_AT_ONCE = 20  # actions of one look: Prefect is not flooded with what an outage left behind
PLANNED_BACK = timedelta(days=30)
LINGERING = timedelta(seconds=120)  # how long a Job may outlive its run before it is taken for left behind

BY_KUBERNETES = frozenset({Action.PUT_BACK, Action.CRASH})  # what rests on Jobs and pods that are not seen

FREE_SLOTS = "free_slots"

log = structlog.get_logger(__name__)


class Recovery:
    """One replica's readiness to recover runs; only the one that follows Prefect does."""

    def __init__(
        self,
        *,
        db: AsyncEngine,
        prefect: PrefectApi,
        kubernetes: KubernetesApi | None,
        pipelines: Mapping[str, Pipeline],
        leads: Callable[[], bool],
        on_seen: Callable[[Seen], None],
        on_acted: Callable[[str, str], None],
    ) -> None:
        """`kubernetes`: None where runs are not Jobs. `on_acted(pipeline, action)` is told of everything done."""
        self._db = db
        self._prefect = prefect
        self._kubernetes = kubernetes
        self._removal = Removal(kubernetes, on_acted) if kubernetes is not None else None
        self._pipelines = pipelines
        self._max_attempts = {name: one.max_attempts for name, one in pipelines.items()}
        self._leads = leads
        self._on_seen = on_seen
        self._on_acted = on_acted
        self._woken = asyncio.Event()
        self._going = True
        self._evidence = Evidence(clustered=kubernetes is not None)
        self._slots = Slots(prefect)
        self._trouble: dict[str, str] = {}

    def wake(self) -> None:
        """A run has crashed: look now."""
        self._woken.set()

    async def work(self) -> None:
        """Look, wait, look again while this replica leads; returns only by cancellation."""
        while True:
            self._woken.clear()
            more = False
            if self._leads():
                try:
                    more = await self.look()
                    self._over("look")
                except OrchestratorError as exc:
                    self._noted("look", exc)
            else:
                self._evidence = Evidence(clustered=self._kubernetes is not None)
                self._slots = Slots(self._prefect)
            if not more:
                try:
                    async with asyncio.timeout(LOOK_SECONDS if self._going else IDLE_SECONDS):
                        await self._woken.wait()
                except TimeoutError:
                    continue

    async def look(self) -> bool:
        """Act on every run that needs it, up to a limit; whether it was reached. Raises OrchestratorError."""
        rows = [row for row in await recovering.going(self._db) if row.pipeline in self._pipelines]
        self._going = bool(rows)
        held = await reasons.read(self._db, [row.run_id for row in rows])
        shown = await self._shown(rows)
        heard = await recovering.watch(self._db, self._pipelines)
        now = datetime.now(UTC)
        self._evidence.gather(rows, shown, held, now=now)
        full = [row.run_id for row in rows if self._evidence.has_no_room(row)]
        if full:
            await recovering.had_no_room(self._db, full)
        wanted = await self._missed(now)
        for row in rows:
            remedy = self._chosen(row, shown, now=now, heard=row.pipeline in heard)
            if remedy is not None:
                wanted.append((row, remedy))
        left = MOST_AT_ONCE
        for row, remedy in wanted:
            left -= await self._act(row, remedy)
            if left == 0:
                return True
        await self._tidy(shown, now)
        await self._free_slots()
        return False

    def _chosen(
        self, row: Row[Any], shown: Shown | None, *, now: datetime, heard: bool, told: FlowRun | None = None
    ) -> Remedy | None:
        if row.rerun_due and not row.unwanted:
            return Remedy(action=Action.RERUN, reason=row.crash or "the one before crashed")
        standing = self._evidence.standing(row, shown, now=now, heard=heard, told=told)
        return remedies.choose(standing, self._pipelines[row.pipeline], now=now)

    async def _missed(self, now: datetime) -> list[tuple[Row[Any], Remedy]]:
        """The scheduled runs that their pipelines' policies leave out."""
        names = [one.name for one in self._pipelines.values() if one.missed_schedules is not Missed.RUN_ALL]
        if not names:
            return []
        of: dict[str, dict[UUID, Row[Any]]] = defaultdict(dict)
        for row in await recovering.planned(self._db, names, since=now - PLANNED_BACK):
            of[row.pipeline][row.run_id] = row
        return [
            (rows[run_id], Remedy(action=Action.SKIP, reason=reason))
            for name, rows in of.items()
            for run_id, reason in remedies.missed(
                [self._evidence.planned(row, now=now) for row in rows.values()], self._pipelines[name], now=now
            ).items()
        ]

    async def _shown(self, rows: Collection[Row[Any]], *, alone: bool = False) -> Shown | None:
        """What Kubernetes shows of all flow runs, or of these `alone`; None where it says nothing."""
        if self._kubernetes is None:
            return None
        flow_runs = {row.flow_run_id for row in rows} if alone else None
        pods_of = {row.flow_run_id: row.pod_of for row in rows if row.pod_of}
        try:
            shown = Shown.of(
                await self._kubernetes.jobs(flow_runs, pods_of=pods_of),
                await self._kubernetes.pods(flow_runs, pods_of=pods_of),
            )
        except (KubernetesUnavailable, KubernetesRefused) as exc:
            self._noted("kubernetes", exc)
            return None
        self._over("kubernetes")
        return shown

    async def _act(self, row: Row[Any], remedy: Remedy) -> bool:
        """Take the remedy where a fresh look still asks for it; whether it was taken."""
        said = log.bind(
            run_id=str(row.run_id),
            pipeline=row.pipeline,
            correlation_id=row.correlation_id,
            action=str(remedy.action),
            attempt=row.attempt,
        )
        try:
            async with recovering.held(self._db, row.run_id) as fresh:
                if fresh is None or fresh.ended_at is not None or fresh.unwanted:
                    return False
                # in this order: a run that ends in order tells Prefect first, and its pod ends after that
                shown = await self._shown([fresh], alone=True)
                told = await self._look(row.flow_run_id)
                if told is None or (self._kubernetes is not None and shown is None):
                    return False
                done = await self._take(remedy, fresh, told, shown)
        except (EngineRefused, KubernetesRefused, KubernetesUnavailable) as exc:
            said.warning("run not recovered", reason=str(exc))
            return False
        if done is not None:
            said.warning("run recovered", reason=done)
            self._on_acted(row.pipeline, remedy.action)
        return done is not None

    async def _take(self, remedy: Remedy, row: Row[Any], told: FlowRun, shown: Shown | None) -> str | None:
        """Take it, and say why; None where nothing was to be done after all."""
        if remedy.action is Action.RERUN:
            return await self._rerun(row, told, shown)
        if remedy.action is Action.SKIP:
            return await self._skip(told, remedy.reason)
        if told.state.ended:
            return None
        now = datetime.now(UTC)
        if remedy.action in BY_KUBERNETES and shown is not None and not await self._makes_jobs(told):
            return None
        self._evidence.see(row, shown, now=now)
        again = self._chosen(row, shown, now=now, heard=True, told=told)
        if again is None or again.action is not remedy.action:
            return None
        if again.action is Action.PUT_BACK:
            await self._prefect.reschedule(row.flow_run_id, name="Scheduled", reason=again.reason)
            self._evidence.was_put_back(row)
        elif again.action is Action.TIME_OUT:
            await self._prefect.time_out(row.flow_run_id, reason=again.reason)
        else:
            if again.action is Action.GIVE_UP:
                await recovering.give_up(self._db, row.run_id, again.reason)
            await self._prefect.crash(row.flow_run_id, reason=again.reason)
        await self._look(row.flow_run_id)
        if again.action is Action.PUT_BACK:
            await recovering.insist(self._db, row.run_id)
        elif again.action is not Action.CRASH:  # a crashed run's Jobs go before its next attempt
            await self._remove_jobs(row, shown)
        return again.reason

    async def _makes_jobs(self, told: FlowRun) -> bool:
        """Whether the run's worker makes Jobs: where a pool runs processes, a missing Job means nothing."""
        pool = await pools.pool(self._prefect, told.pool) if told.pool else None
        return pool is not None and pool.type == KUBERNETES

    async def _skip(self, told: FlowRun, reason: str) -> str | None:
        if told.state is not State.SCHEDULED or told.started_at is not None:
            return None
        await self._prefect.skip(told.flow_run_id, reason=reason)
        await self._look(told.flow_run_id)
        return reason

    async def _rerun(self, row: Row[Any], told: FlowRun, shown: Shown | None) -> str | None:
        """Let a worker take a crashed run for its next attempt, once its old processes are gone or had their time."""
        if told.state is not State.CRASHED:
            await recovering.goes_on_by_itself(self._db, row.run_id)
            return None
        if not row.rerun_due or told.at != row.crashed_at:
            return None
        in_time = datetime.now(UTC) - told.at < remedies.MOST_WAIT_FOR_OLD_PROCESS
        if shown is not None and in_time and remedies.goes_on(*shown.of_run(row), now=datetime.now(UTC)):
            await self._remove_jobs(row, shown)
            return None
        most = self._max_attempts[row.pipeline]
        reason = f"attempt {row.attempt} of {most}: {row.crash or 'the one before crashed'}"
        answer = await self._prefect.reschedule(row.flow_run_id, name="AwaitingRetry", reason=reason)
        after = await self._look(row.flow_run_id)
        if after is not None and after.at == told.at:
            await recovering.give_up(self._db, row.run_id, f"Prefect does not let it be rerun ({answer})")
            await self._look(row.flow_run_id)
            return None
        await recovering.goes_on_anew(self._db, row.run_id)
        await recovering.insist(self._db, row.run_id)
        return reason

    async def _remove_jobs(self, row: Row[Any], shown: Shown | None) -> None:
        if self._removal is not None and shown is not None:
            await self._removal.remove(row, shown.of_run(row)[0])

    async def _tidy(self, shown: Shown | None, now: datetime) -> None:
        """Remove the Jobs of runs that are over; a Job of nobody's run here is not ours to touch."""
        if shown is None:
            return
        rows = [
            row
            for row in await recovering.of_flow_runs(self._db, shown.unfinished)
            if row.ended_at is not None and (_is_to_stop(row) or now - row.ended_at > LINGERING)
        ]
        hosts = await recovering.hosts(self._db, [row.flow_run_id for row in rows], since=now - LINGERING)
        rows = [row for row in rows if row.flow_run_id not in hosts]
        told = {one.flow_run_id: one for one in await self._prefect.flow_runs([row.flow_run_id for row in rows])}
        for row in rows[:MOST_AT_ONCE]:
            flow_run = told.get(row.flow_run_id)
            if flow_run is None or flow_run.state.ended:
                await self._remove_jobs(row, shown)
            elif row.given_up is not None:
                await self._prefect.crash(row.flow_run_id, reason=row.given_up)
            else:
                await recovering.insist(self._db, row.run_id)

    async def _free_slots(self) -> None:
        known = await reading.remembered(self._db)
        deployments = {one.facts.deployment_id: name for name, one in known.items() if name in self._pipelines}
        for deployment in await self._slots.look(deployments):
            self._on_acted(deployments[deployment], FREE_SLOTS)

    async def _look(self, flow_run_id: UUID) -> FlowRun | None:
        """Where the run is, written down at once."""
        flow_run = await self._prefect.flow_run(flow_run_id)
        if flow_run is not None:
            for change in await following.record(self._db, [flow_run], {}, max_attempts=self._max_attempts):
                self._on_seen(change)
        return flow_run

    def _noted(self, what: str, error: OrchestratorError) -> None:
        """Log each trouble once: until it is another or it is over."""
        kind = type(error).__name__
        if self._trouble.get(what) != kind:
            log.warning("cannot recover runs", part=what, kind=kind, reason=str(error))
        self._trouble[what] = kind

    def _over(self, what: str) -> None:
        if self._trouble.pop(what, None) is not None:
            log.info("recovering runs again", part=what)


def _is_to_stop(row: Row[Any]) -> bool:
    """Whether a run was ended from outside, so that nothing of it has a reason to go on for a moment."""
    return row.given_up is not None or row.state == State.CANCELLED
