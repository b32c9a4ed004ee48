"""Finding out why runs do not go on, and why they ended: the leader looks where something may be wrong."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import causes, holds, placement
from orchestrator.catalogue import CATALOGUE
from orchestrator.errors import (
    EngineConfused,
    EngineRefused,
    KubernetesRefused,
    KubernetesUnavailable,
    OrchestratorError,
)
from orchestrator.holds import Finding, Open, Sight
from orchestrator.kubernetes_api import KubernetesApi
from orchestrator.ledger import reasons
from orchestrator.ledger.reasons import Noted
from orchestrator.pools import Limit, Pool
from orchestrator.prefect_api import PrefectApi, logs, pools
from orchestrator.reasons import Commands, Reason
from orchestrator.runs import Facts, FlowRun, State
from orchestrator.workloads import NOBODYS, Event, Job, Pod

LOOK_SECONDS = 3.0
AT_ONCE = 15
HEARTBEAT_SECONDS = 15.0
HEARTBEATS_BACK = timedelta(minutes=15)
QUIET = timedelta(seconds=60)  # a run that has just changed is not asked for its heartbeats
STARTING = timedelta(seconds=3)
ENDING = timedelta(seconds=15)
KUBERNETES = "kubernetes"

log = structlog.get_logger(__name__)


class Diagnosis:
    """The leader's knowledge of what holds each open run, and of the last that was seen of its pod."""

    def __init__(
        self,
        *,
        db: AsyncEngine,
        prefect: PrefectApi,
        kubernetes: KubernetesApi | None,
        commands: Commands,
        query_seconds: float,
    ) -> None:
        """`query_seconds` is how often a worker asks for runs."""
        self._db = db
        self._prefect = prefect
        self._kubernetes = kubernetes
        self._commands = commands
        self._query_seconds = query_seconds
        self._looked_at = self._asked_at = float("-inf")
        self._failing_since: datetime | None = None
        self._pods: dict[UUID, Pod] = {}
        self._heartbeats: dict[UUID, datetime] = {}
        self._held = False
        self._trouble: str | None = None

    async def look(self, flow_runs: Mapping[UUID, FlowRun], facts: Mapping[UUID, tuple[str, Facts]]) -> None:
        """Find and write down what holds each open run, given what Prefect just told of them. Raises OrchestratorError.

        Looks every few seconds at most, however often it is called.
        """
        self._failing_since = None
        if not self._is_time():
            return
        open_runs = await reasons.open_runs(self._db)
        if open_runs or self._held:
            sight = await self._see(open_runs, flow_runs)
            await self._write(open_runs, lambda one: self._found(one, flow_runs, facts, sight), freeing=True)
        await self._explain(facts)
        await reasons.settle(self._db)
        still = {one.flow_run_id for one in open_runs}
        self._pods = {flow_run_id: pod for flow_run_id, pod in self._pods.items() if flow_run_id in still}

    async def blind(
        self, error: OrchestratorError, facts: Mapping[UUID, tuple[str, Facts]], *, since: datetime
    ) -> None:
        """Prefect could not be looked at, which began then: say so of the runs that wait for it.

        Raises LedgerUnavailable.
        """
        now = datetime.now(UTC)
        self._failing_since = self._failing_since or since
        if not self._is_time():
            return
        failing_since = self._failing_since

        def waits(one: Open) -> Reason | None:
            finding = holds.before_handover(one, failing_since=failing_since, trouble=str(error), now=now)
            return self._reason(finding, one, None, facts) if finding else None

        scheduled = [one for one in await reasons.open_runs(self._db) if one.state is State.SCHEDULED]
        await self._write(scheduled, waits, freeing=False)

    def _is_time(self) -> bool:
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return False
        self._looked_at = now
        return True

    async def _see(self, open_runs: Sequence[Open], flow_runs: Mapping[UUID, FlowRun]) -> Sight:
        now = datetime.now(UTC)
        mine = {one.flow_run_id: one for one in open_runs if one.flow_run_id}
        told = [flow_runs[one] for one in mine if one in flow_runs]
        due = [one for one in told if one.state is State.SCHEDULED and now - holds.due_at(one) > holds.DUE]
        taken = [one for one in told if one.state in {State.PENDING, State.RUNNING} and now - one.at > STARTING]
        slots = [one for one in told if one.state_name == holds.AWAITING_SLOT]
        seen_pools = {}
        for name in sorted({one.pool for one in (*due, *taken) if one.pool}):
            pool = await pools.pool(self._prefect, name)
            if pool is not None:
                seen_pools[name] = pool
        limits = await pools.limits(self._prefect) if due or slots or taken else {}
        occupants: dict[UUID, list[UUID]] = {}
        for one in told:
            if one.deployment_id and one.state in {State.PENDING, State.RUNNING, State.CANCELLING}:
                occupants.setdefault(one.deployment_id, []).append(one.flow_run_id)
        jobs, pods, events = await self._cluster([one for one in taken if self._is_ours(one, seen_pools)], now)
        return Sight(
            now=now,
            query_seconds=self._query_seconds,
            pools=seen_pools,
            limits=limits,
            occupants=occupants,
            run_ids={flow_run_id: one.run_id for flow_run_id, one in mine.items()},
            tags=await self._tags(limits, [one for one in taken if one.state is State.RUNNING]),
            heartbeats=await self._beats([one for one in taken if one.state is State.RUNNING], now),
            jobs=jobs,
            pods=pods,
            events=events,
            namespace=self._kubernetes.namespace if self._kubernetes else None,
        )

    def _is_ours(self, flow_run: FlowRun, seen: Mapping[str, Pool]) -> bool:
        """Whether its worker makes Jobs: where a pool runs processes, a missing pod means nothing."""
        pool = seen.get(flow_run.pool or "")
        return pool is not None and pool.type == KUBERNETES

    async def _tags(self, limits: Mapping[str, Limit], running: Sequence[FlowRun]) -> dict[UUID, str]:
        full = [name.removeprefix("tag:") for name, one in limits.items() if name.startswith("tag:") and one.full]
        if not full or not running:
            return {}
        return await pools.waiting_for_tags(self._prefect, full, [one.flow_run_id for one in running])

    async def _beats(self, running: Sequence[FlowRun], now: datetime) -> Mapping[UUID, datetime]:
        """The last heartbeats, asked for now and then, of runs whose last sign of life is old enough to wonder."""
        if time.monotonic() - self._asked_at >= HEARTBEAT_SECONDS:
            known = {one.flow_run_id: max(one.at, self._heartbeats.get(one.flow_run_id, one.at)) for one in running}
            quiet = [one for one, heard in known.items() if now - heard > QUIET]
            self._heartbeats = {one: self._heartbeats[one] for one in known if one in self._heartbeats}
            if quiet:
                self._asked_at = time.monotonic()
                self._heartbeats |= await pools.heartbeats(self._prefect, quiet, since=now - HEARTBEATS_BACK)
        return self._heartbeats

    async def _cluster(
        self, taken: Sequence[FlowRun], now: datetime
    ) -> tuple[dict[UUID, list[Job]] | None, dict[UUID, list[Pod]] | None, dict[str, list[Event]]]:
        """Jobs and pods of these runs, and warnings about those that do not get on; None where they are not seen."""
        if self._kubernetes is None:
            return None, None, {}
        ids = {one.flow_run_id for one in taken}
        pods_of = {one.flow_run_id: one.pod_of for one in taken if one.pod_of}
        try:
            jobs = await self._kubernetes.jobs(ids, pods_of=pods_of)
            pods = await self._kubernetes.pods(ids, pods_of=pods_of)
            with_pods = {one.job for one in pods}
            slow = [one.name for one in jobs if one.name not in with_pods and now - one.created_at > placement.NO_POD]
            slow += [one.name for one in pods if not one.running and not one.over and one.node]
            events = placement.eventful(pods, jobs, await self._kubernetes.events_about(slow))
        except (KubernetesUnavailable, KubernetesRefused) as exc:
            if self._trouble is None:
                log.warning("the cluster is not seen: what holds runs is told by Prefect alone", reason=str(exc))
            self._trouble = type(exc).__name__
            return None, None, {}
        if self._trouble is not None:
            log.info("the cluster is seen again", after=self._trouble)
        self._trouble = None
        of_jobs: dict[UUID, list[Job]] = {}
        of_pods: dict[UUID, list[Pod]] = {}
        for job in jobs:
            if job.flow_run_id:
                of_jobs.setdefault(job.flow_run_id, []).append(job)
        for pod in sorted(pods, key=lambda one: one.created_at):
            if pod.flow_run_id:
                of_pods.setdefault(pod.flow_run_id, []).append(pod)
                self._pods[pod.flow_run_id] = pod
        return of_jobs, of_pods, events

    def _found(
        self, run: Open, flow_runs: Mapping[UUID, FlowRun], facts: Mapping[UUID, tuple[str, Facts]], sight: Sight
    ) -> Reason | None:
        flow_run = flow_runs.get(run.flow_run_id) if run.flow_run_id else None
        if run.flow_run_id is None:
            finding = holds.before_handover(run, failing_since=None, trouble=None, now=sight.now)
        elif flow_run is None:
            return None  # the sync is about to end it, or has not met it yet
        elif flow_run.state is State.SCHEDULED:
            finding = holds.scheduled(flow_run, sight)
        elif flow_run.state is State.PAUSED:
            finding = Finding(kind="PL023", detail=flow_run.message or flow_run.state_name, since=flow_run.at)
        elif flow_run.state in {State.PENDING, State.RUNNING}:
            finding = placement.held(flow_run, sight, in_cluster=self._is_ours(flow_run, sight.pools))
        else:
            finding = None
        return self._reason(finding, run, flow_run, facts) if finding else None

    def _reason(
        self, finding: Finding, run: Open, flow_run: FlowRun | None, facts: Mapping[UUID, tuple[str, Facts]]
    ) -> Reason:
        deployment_id, deployment = next(
            ((one, known.deployment) for one, (pipeline, known) in facts.items() if pipeline == run.pipeline), ("", "")
        )
        names = {
            "pipeline": run.pipeline,
            "backfill": run.backfill_id or "",
            "flow_run": run.flow_run_id or "",
            "deployment_id": deployment_id,
            "deployment": deployment,
            "pool": (flow_run.pool if flow_run else None) or "",
            "queue": (flow_run.queue if flow_run else None) or "",
            "pod": "",
            "job": "",
        }
        since = finding.since or datetime.now(UTC)
        return self._commands.reason(finding.kind, finding.detail, since=since, **(names | dict(finding.names)))

    async def _write(
        self, open_runs: Sequence[Open], reason_of: Callable[[Open], Reason | None], *, freeing: bool
    ) -> None:
        """Write down and tell what holds each of them; with `freeing` also that nothing does.

        Some at a time: of a long backlog, nobody who asks or records something else waits behind all of it.
        """
        held = False
        for first in range(0, len(open_runs), AT_ONCE):
            found = {one.run_id: reason_of(one) for one in open_runs[first : first + AT_ONCE]}
            if not freeing:
                found = {run_id: reason for run_id, reason in found.items() if reason}
            for noted in await reasons.hold(self._db, found) if found else ():
                _tell(noted)
            held = held or any(found.values())
        self._held = held

    async def _explain(self, facts: Mapping[UUID, tuple[str, Facts]]) -> None:
        """Find the causes of the runs that failed, before their pods and Jobs are gone."""
        for row in await reasons.unexplained(self._db):
            pod = await self._last_pod(row.flow_run_id, row.pod_of)
            just_now = row.state == State.CRASHED and datetime.now(UTC) - row.ended_at < ENDING
            if just_now and pod is not None and not pod.over:
                continue  # Prefect was quicker than the kubelet, which is about to say how the container ended
            finding = causes.cause(
                state=State(row.state),
                state_name=row.state_name,
                message=row.message,
                handed_over=row.flow_run_id is not None,
                pod=pod,
                last_error=await self._last_error(row.flow_run_id),
            )
            deployment = next((known.deployment for name, known in facts.values() if name == row.pipeline), "")
            names = {"flow_run": row.flow_run_id or "", "deployment": deployment, "pod": ""} | dict(finding.names)
            cause = self._commands.reason(finding.kind, finding.detail, since=row.ended_at, **names)
            await reasons.explain(self._db, row.run_id, cause)
            _say(row, cause)

    async def _last_pod(self, flow_run_id: UUID | None, pod_of: UUID | None) -> Pod | None:
        if flow_run_id is None or self._kubernetes is None:
            return None
        try:
            pods = await self._kubernetes.pods([flow_run_id], pods_of={flow_run_id: pod_of} if pod_of else NOBODYS)
        except (KubernetesUnavailable, KubernetesRefused):
            pods = []
        return max(pods, key=lambda one: one.created_at, default=self._pods.get(flow_run_id))

    async def _last_error(self, flow_run_id: UUID | None) -> str | None:
        if flow_run_id is None:
            return None
        try:
            return await logs.last_error(self._prefect, flow_run_id)
        except (EngineConfused, EngineRefused):  # what it told of its end is enough
            return None


def _tell(noted: Noted) -> None:
    before, after = noted.before, noted.after
    said = log.bind(run_id=str(noted.run_id), pipeline=noted.pipeline, correlation_id=noted.correlation_id)
    if after is None:
        said.info("run held no longer", reason_id=before.id if before else None)
        return
    line = said.info if CATALOGUE[after.id].goes_on else said.warning
    line("run held", reason_id=after.id, reason=str(after), fix=after.fix, before=before.id if before else None)


def _say(row: Row[Any], cause: Reason) -> None:
    log.warning(
        "run explained",
        run_id=str(row.run_id),
        pipeline=row.pipeline,
        correlation_id=row.correlation_id,
        reason_id=cause.id,
        reason=str(cause),
        fix=cause.fix,
    )
