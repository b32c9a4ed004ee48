"""Getting runs that stopped on their way going again, or ending them: the leader looks, decides and acts.

Each action is decided again on a fresh look at the run before it is taken, by one replica at a time, and may be taken
twice: a crash is counted once, Prefect knows a repeated request, a Job that is gone is gone. Where Prefect or Kubernetes
cannot be asked, nothing is done.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import remedies
from orchestrator.errors import EngineRefused, KubernetesRefused, KubernetesUnavailable, OrchestratorError
from orchestrator.kubernetes_api import KubernetesApi
from orchestrator.ledger import following, recovering
from orchestrator.ledger.events import Seen
from orchestrator.prefect_api import PrefectApi
from orchestrator.remedies import Action, Planned, Remedy, Standing, Work
from orchestrator.runs import FlowRun, State
from orchestrator.settings import Missed, Pipeline
from orchestrator.workloads import Job, Pod

LOOK_SECONDS = 5.0
MOST_AT_ONCE = 20  # actions of one look: Prefect is not flooded with what an outage left behind
PLANNED_BACK = timedelta(days=30)
ROOM_TAKEN_WITHIN = timedelta(seconds=60)
LINGERING = timedelta(seconds=120)  # how long a Job may outlive its run before it is taken for left behind

REMOVE_JOB = "remove_job"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The Jobs and pods that Kubernetes showed at one look, by flow run."""

    jobs: Mapping[UUID, list[Job]]
    pods: Mapping[UUID, list[Pod]]

    def of(self, row: Row[Any]) -> tuple[list[Job], list[Pod]]:
        """Those of the run's present attempt."""
        jobs = remedies.of_attempt(self.jobs.get(row.flow_run_id, []), crashed_at=row.crashed_at)
        names = {one.name for one in jobs}
        return jobs, [one for one in self.pods.get(row.flow_run_id, []) if one.job in names]


@dataclass
class Memory:
    """What the leader remembers of a run between two looks; lost with it, and then gathered anew."""

    place: tuple[str, str, int]
    missing_since: datetime | None = None
    no_room_at: datetime | None = None
    put_backs: dict[int, int] = field(default_factory=dict)


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
        self._pipelines = pipelines
        self._max_attempts = {name: one.max_attempts for name, one in pipelines.items()}
        self._leads = leads
        self._on_seen = on_seen
        self._on_acted = on_acted
        self._woken = asyncio.Event()
        self._memory: dict[UUID, Memory] = {}
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
                self._memory.clear()
            if not more:
                try:
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._woken.wait()
                except TimeoutError:
                    continue

    async def look(self) -> bool:
        """Act on every run that needs it, up to a limit; whether some are left. Raises OrchestratorError."""
        rows = [row for row in await recovering.going(self._db) if row.pipeline in self._pipelines]
        shown = await self._shown()
        heard = await recovering.watch(self._db, self._pipelines)
        now = datetime.now(UTC)
        self._remember(rows, shown, now)
        full = [row.run_id for row in rows if self._has_no_room(row)]
        if full:
            await recovering.had_no_room(self._db, full)
        wanted = await self._missed(now)
        for row in rows:
            standing = self._standing(row, shown, now, heard=row.pipeline in heard)
            remedy = remedies.choose(standing, self._pipelines[row.pipeline], now=now)
            if row.rerun_due and not row.unwanted:
                remedy = Remedy(action=Action.RERUN, reason=row.crash or "it crashed")
            if remedy is not None:
                wanted.append((row, remedy))
        for row, remedy in wanted[:MOST_AT_ONCE]:
            await self._act(row, remedy, shown)
        await self._tidy(shown, now)
        return len(wanted) > MOST_AT_ONCE

    # -- what is known

    async def _shown(self, flow_runs: Collection[UUID] | None = None) -> Shown | None:
        if self._kubernetes is None:
            return None
        try:
            jobs, pods = await self._kubernetes.jobs(flow_runs), await self._kubernetes.pods(flow_runs)
        except (KubernetesUnavailable, KubernetesRefused) as exc:
            self._noted("kubernetes", exc)
            return None
        self._over("kubernetes")
        of: dict[UUID, list[Job]] = defaultdict(list)
        pods_of: dict[UUID, list[Pod]] = defaultdict(list)
        for job in jobs:
            if job.flow_run_id is not None:
                of[job.flow_run_id].append(job)
        for pod in pods:
            if pod.flow_run_id is not None:
                pods_of[pod.flow_run_id].append(pod)
        return Shown(jobs=of, pods=pods_of)

    def _remember(self, rows: Collection[Row[Any]], shown: Shown | None, now: datetime) -> None:
        """Since when nothing of each run is seen to go on; what Kubernetes did not tell changes nothing."""
        kept: dict[UUID, Memory] = {}
        for row in rows:
            place = (row.state, row.state_name, row.attempt)
            memory = self._memory.get(row.run_id) or Memory(place=place)
            if memory.place != place:
                memory = replace(memory, place=place, missing_since=None)
            if self._has_no_room(row):
                memory.no_room_at = now
            if shown is not None:
                jobs, pods = shown.of(row)
                if remedies.goes_on(jobs, pods, now=now):
                    memory.missing_since = None
                elif memory.missing_since is None:
                    memory.missing_since = now
            kept[row.run_id] = memory
        self._memory = kept

    def _standing(
        self, row: Row[Any], shown: Shown | None, now: datetime, *, heard: bool, told: FlowRun | None = None
    ) -> Standing:
        memory = self._memory[row.run_id]
        work = None
        if self._kubernetes is not None:
            work = Work()
            if shown is not None:
                jobs, pods = shown.of(row)
                missing_for = now - memory.missing_since if memory.missing_since else None
                work = Work(begun=any(one.running for one in pods), had_a_job=bool(jobs), missing_for=missing_for)
        waits_since = recovering.waits_since(row) if heard else now
        if told is not None and told.due_at is not None:
            waits_since = max(waits_since, told.due_at)
        return Standing(
            state=told.state if told else State(row.state),
            state_name=told.state_name if told else row.state_name,
            since=told.at if told else None,
            started_at=row.started_at,
            waits_since=waits_since,
            unwanted=row.unwanted,
            given_up=row.given_up,
            put_backs=memory.put_backs.get(row.attempt, 0),
            work=work,
            full=self._has_no_room(row),
        )

    def _has_no_room(self, row: Row[Any]) -> bool:
        return bool(row.state_name == remedies.FOR_A_SLOT)

    def _had_no_room(self, row: Row[Any], now: datetime) -> bool:
        """Whether the run waited for a full limit lately: a worker is about to take it, now that there is room."""
        memory = self._memory.get(row.run_id)
        no_room_at = memory.no_room_at if memory else None
        return no_room_at is not None and now - no_room_at < ROOM_TAKEN_WITHIN

    async def _missed(self, now: datetime) -> list[tuple[Row[Any], Remedy]]:
        """The scheduled runs that their pipelines' policies leave out."""
        names = [one.name for one in self._pipelines.values() if one.missed_schedules is not Missed.RUN_ALL]
        if not names:
            return []
        of: dict[str, dict[UUID, Row[Any]]] = defaultdict(dict)
        for row in await recovering.planned(self._db, names, since=now - PLANNED_BACK):
            of[row.pipeline][row.run_id] = row
        found = []
        for name, rows in of.items():
            planned = [
                Planned(
                    run_id=row.run_id,
                    logical_date=row.logical_date,
                    due_at=row.accepted_at,
                    begun=row.state != State.SCHEDULED or row.started_at is not None or row.unwanted,
                    full=self._had_no_room(row, now),
                )
                for row in rows.values()
            ]
            for run_id, reason in remedies.missed(planned, self._pipelines[name], now=now).items():
                found.append((rows[run_id], Remedy(action=Action.SKIP, reason=reason)))
        return found

    # -- what is done

    async def _act(self, row: Row[Any], remedy: Remedy, shown: Shown | None) -> None:
        """Take the remedy where a fresh look still asks for it."""
        said = log.bind(run_id=str(row.run_id), pipeline=row.pipeline, correlation_id=row.correlation_id)
        async with recovering.held(self._db, row.run_id) as fresh:
            if fresh is None or fresh.ended_at is not None or fresh.unwanted:
                return
            if self._kubernetes is not None and remedy.action is not Action.SKIP:
                shown = await self._shown({row.flow_run_id})
            flow_run = await self._look(row.flow_run_id)
            if flow_run is None or flow_run.state.ended and remedy.action is not Action.RERUN:
                return
            try:
                done = await self._take(remedy, fresh, flow_run, shown)
            except EngineRefused as exc:
                said.warning("Prefect refused", action=str(remedy.action), reason=str(exc))
                return
        if done is not None:
            said.warning("run recovered", action=str(remedy.action), reason=done, attempt=fresh.attempt)
            self._on_acted(row.pipeline, remedy.action)

    async def _take(self, remedy: Remedy, row: Row[Any], flow_run: FlowRun, shown: Shown | None) -> str | None:
        """Take it; the reason where something was done."""
        if remedy.action is Action.RERUN:
            return await self._rerun(row, flow_run, shown)
        if remedy.action is Action.SKIP:
            if flow_run.state is not State.SCHEDULED or flow_run.started_at is not None:
                return None
            await self._prefect.skip(flow_run.flow_run_id, reason=remedy.reason)
            await self._look(flow_run.flow_run_id)
            return remedy.reason
        now = datetime.now(UTC)
        if self._kubernetes is not None:
            if shown is None:
                return None
            self._memory[row.run_id].missing_since = self._still_missing(row, shown, now)
        standing = self._standing(row, shown, now, heard=True, told=flow_run)
        again = remedies.choose(standing, self._pipelines[row.pipeline], now=now)
        if again is None or again.action is not remedy.action:
            return None
        if again.action is Action.PUT_BACK:
            await self._put_back(row, again.reason)
        elif again.action is Action.CRASH:
            await self._prefect.crash(row.flow_run_id, reason=again.reason)
            await self._look(row.flow_run_id)
        elif again.action is Action.GIVE_UP:
            await recovering.give_up(self._db, row.run_id, again.reason)
            await self._prefect.crash(row.flow_run_id, reason=again.reason)
            await self._look(row.flow_run_id)
            await self._remove_jobs(row, shown)
        elif again.action is Action.TIME_OUT:
            await self._prefect.time_out(row.flow_run_id, reason=again.reason)
            await self._look(row.flow_run_id)
            await self._remove_jobs(row, shown)
        return again.reason

    def _still_missing(self, row: Row[Any], shown: Shown, now: datetime) -> datetime | None:
        jobs, pods = shown.of(row)
        return None if remedies.goes_on(jobs, pods, now=now) else self._memory[row.run_id].missing_since

    async def _rerun(self, row: Row[Any], flow_run: FlowRun, shown: Shown | None) -> str | None:
        """Let a worker take a crashed run for its next attempt, once its old processes are gone or had their time."""
        if not row.rerun_due or flow_run.state is not State.CRASHED or flow_run.at != row.crashed_at:
            return None
        if self._kubernetes is not None:
            in_time = datetime.now(UTC) - flow_run.at < remedies.MOST_WAIT_FOR_OLD_PROCESS
            if in_time and (shown is None or await self._old_processes_go(row, shown)):
                return None
        most = self._max_attempts[row.pipeline]
        reason = f"attempt {row.attempt} of {most}: {row.crash or 'the one before crashed'}"
        answer = await self._prefect.reschedule(row.flow_run_id, name="AwaitingRetry", reason=reason)
        await recovering.put_again(self._db, row.run_id, anew=True)
        after = await self._look(row.flow_run_id)
        if after is not None and after.state is State.CRASHED and after.at == flow_run.at:
            refusal = f"Prefect does not let it be rerun ({answer})"
            await recovering.give_up(self._db, row.run_id, refusal)
            await self._look(row.flow_run_id)
            return None
        return reason

    async def _old_processes_go(self, row: Row[Any], shown: Shown) -> bool:
        """Whether something of a crashed attempt is still there; it is removed, lest it disturbs the next one."""
        jobs, pods = shown.jobs.get(row.flow_run_id, []), shown.pods.get(row.flow_run_id, [])
        if not remedies.goes_on(jobs, pods, now=datetime.now(UTC)):
            return False
        await self._remove_jobs(row, shown)
        return True

    async def _put_back(self, row: Row[Any], reason: str) -> None:
        await self._prefect.reschedule(row.flow_run_id, name="Scheduled", reason=reason)
        await recovering.put_again(self._db, row.run_id, anew=False)
        await self._look(row.flow_run_id)
        counts = self._memory[row.run_id].put_backs
        counts[row.attempt] = counts.get(row.attempt, 0) + 1

    async def _remove_jobs(self, row: Row[Any], shown: Shown | None) -> None:
        """Remove what would still execute a run; finished Jobs stay until their time, for their logs."""
        if self._kubernetes is None or shown is None:
            return
        for job in shown.jobs.get(row.flow_run_id, []):
            if not job.over and job.deleted_at is None and await self._kubernetes.delete_job(job.name):
                log.warning(
                    "Job removed",
                    job=job.name,
                    run_id=str(row.run_id),
                    pipeline=row.pipeline,
                    correlation_id=row.correlation_id,
                )
                self._on_acted(row.pipeline, REMOVE_JOB)

    async def _tidy(self, shown: Shown | None, now: datetime) -> None:
        """Remove the Jobs of runs that are over; a Job of nobody's run here is not ours to touch."""
        if shown is None:
            return
        left = [
            flow_run_id
            for flow_run_id, jobs in shown.jobs.items()
            if any(not one.over and one.deleted_at is None for one in jobs)
        ]
        rows = [
            row
            for row in (await recovering.of_flow_runs(self._db, left)).values()
            if row.ended_at is not None and (_is_to_stop(row) or now - row.ended_at > LINGERING)
        ]
        told = {one.flow_run_id: one for one in await self._prefect.flow_runs([row.flow_run_id for row in rows])}
        for row in rows[:MOST_AT_ONCE]:
            flow_run = told.get(row.flow_run_id)
            if flow_run is None or flow_run.state.ended:
                await self._remove_jobs(row, shown)
            elif row.given_up is not None:
                await self._prefect.crash(row.flow_run_id, reason=row.given_up)
            else:
                await recovering.insist(self._db, row.run_id)

    async def _look(self, flow_run_id: UUID) -> FlowRun | None:
        """Where the run is, written down at once."""
        flow_run = await self._prefect.flow_run(flow_run_id)
        if flow_run is not None:
            for change in await following.record(self._db, [flow_run], {}, max_attempts=self._max_attempts):
                log.info("run changed", **change.told)
                self._on_seen(change)
        return flow_run

    # -- what goes wrong

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
