"""What is known of each run at one look: its row, what Kubernetes shows of it, and for how long nothing has been seen.

Nothing here does I/O. What is remembered from look to look is the leader's own: it is lost with the leader, and the
next one gathers it anew.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row

from orchestrator import remedies
from orchestrator.ledger import recovering
from orchestrator.reasons import Reason
from orchestrator.remedies import Planned, Standing, Work
from orchestrator.runs import FlowRun, State
from orchestrator.workloads import Job, Pod

NO_ROOM = frozenset({"PL006", "PL007", "PL008", "PL009"})  # a full limit: of the pool, queue, deployment, or another
ROOM_TAKEN_WITHIN = timedelta(seconds=60)
SILENT = "PL016"
SILENT_FOR = timedelta(seconds=60)  # past the heartbeats whose absence made the reason


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The Jobs and pods that Kubernetes showed, by flow run."""

    jobs: Mapping[UUID, list[Job]]
    pods: Mapping[UUID, list[Pod]]

    @classmethod
    def of(cls, jobs: Iterable[Job], pods: Iterable[Pod]) -> "Shown":
        """All of them, but for those of no flow run."""
        jobs_of: dict[UUID, list[Job]] = defaultdict(list)
        pods_of: dict[UUID, list[Pod]] = defaultdict(list)
        for job in jobs:
            if job.flow_run_id is not None:
                jobs_of[job.flow_run_id].append(job)
        for pod in pods:
            if pod.flow_run_id is not None:
                pods_of[pod.flow_run_id].append(pod)
        return cls(jobs=jobs_of, pods=pods_of)

    def of_run(self, row: Row[Any]) -> tuple[list[Job], list[Pod]]:
        """Those of the run, of whatever attempt."""
        return self.jobs.get(row.flow_run_id, []), self.pods.get(row.flow_run_id, [])

    def of_attempt(self, row: Row[Any]) -> tuple[list[Job], list[Pod]]:
        """Those of the run's present attempt."""
        jobs, pods = self.of_run(row)
        present = remedies.of_attempt(jobs, crashed_at=row.crashed_at)
        names = {one.name for one in present}
        return present, [one for one in pods if one.job in names]

    @property
    def unfinished(self) -> list[UUID]:
        """The flow runs that have a Job which is neither over nor on its way out."""
        return [
            flow_run_id
            for flow_run_id, jobs in self.jobs.items()
            if any(not one.over and one.deleted_at is None for one in jobs)
        ]


@dataclass
class _Memory:
    place: tuple[str, str, int]
    missing_since: datetime | None = None
    no_room_at: datetime | None = None
    put_backs: dict[int, int] = field(default_factory=dict)


class Evidence:
    """What is known of runs, from look to look."""

    def __init__(self, *, clustered: bool) -> None:
        """`clustered`: runs are Jobs, and Kubernetes is there to be asked."""
        self._clustered = clustered
        self._memory: dict[UUID, _Memory] = {}
        self._held: Mapping[UUID, Reason] = {}

    def gather(
        self, rows: Collection[Row[Any]], shown: Shown | None, held: Mapping[UUID, Reason], *, now: datetime
    ) -> None:
        """One look: the runs that are not over, and what holds them. What Kubernetes did not tell changes nothing."""
        self._held = held
        kept: dict[UUID, _Memory] = {}
        for row in rows:
            place = (row.state, row.state_name, row.attempt)
            memory = self._memory.get(row.run_id) or _Memory(place=place)
            if memory.place != place:
                memory = replace(memory, place=place, missing_since=None)
            if self.has_no_room(row):
                memory.no_room_at = now
            kept[row.run_id] = memory
        self._memory = kept
        for row in rows:
            self.see(row, shown, now=now)

    def see(self, row: Row[Any], shown: Shown | None, *, now: datetime) -> None:
        """What Kubernetes shows of one run now."""
        memory = self._memory[row.run_id]
        if shown is None:
            return
        jobs, pods = shown.of_attempt(row)
        if remedies.goes_on(jobs, pods, now=now):
            memory.missing_since = None
        elif memory.missing_since is None:
            memory.missing_since = now

    def standing(
        self, row: Row[Any], shown: Shown | None, *, now: datetime, heard: bool, told: FlowRun | None = None
    ) -> Standing:
        """Where a run of the last look stands, by what Prefect `told` just now or else by the ledger.

        `heard`: it can be said how long it has waited.
        """
        held = self._held.get(row.run_id)
        waits_since = recovering.waits_since(row) if heard else now
        if told is not None and told.state is State.SCHEDULED and told.next_at is not None:
            waits_since = max(waits_since, told.next_at)
        return Standing(
            state=told.state if told else State(row.state),
            state_name=told.state_name if told else row.state_name,
            since=told.at if told else None,
            started_at=row.started_at,
            waits_since=waits_since,
            unwanted=row.unwanted,
            given_up=row.given_up,
            put_backs=self._memory[row.run_id].put_backs.get(row.attempt, 0),
            work=self._work(row, shown, now) if self._clustered else None,
            full=self.has_no_room(row),
            silent=str(held) if held and held.id == SILENT and now - held.since >= SILENT_FOR else None,
            why=str(held) if held else None,
        )

    def _work(self, row: Row[Any], shown: Shown | None, now: datetime) -> Work:
        if shown is None:
            return Work()
        jobs, pods = shown.of_attempt(row)
        since = self._memory[row.run_id].missing_since
        return Work(
            begun=any(one.running for one in pods),
            had_a_job=bool(jobs),
            missing_for=now - since if since is not None else None,
        )

    def was_put_back(self, row: Row[Any]) -> None:
        """A worker that left the run is given more time the next time."""
        counts = self._memory[row.run_id].put_backs
        counts[row.attempt] = counts.get(row.attempt, 0) + 1

    def has_no_room(self, row: Row[Any]) -> bool:
        """Whether the run waits for a full concurrency limit."""
        held = self._held.get(row.run_id)
        return row.state_name == remedies.FOR_A_SLOT or (held is not None and held.id in NO_ROOM)

    def planned(self, row: Row[Any], *, now: datetime) -> Planned:
        """A run that the schedule made. One that had no room lately has not been missed: a worker is to take it now."""
        memory = self._memory.get(row.run_id)
        no_room_at = memory.no_room_at if memory else None
        return Planned(
            run_id=row.run_id,
            logical_date=row.logical_date,
            due_at=row.accepted_at,
            begun=row.state != State.SCHEDULED or row.started_at is not None or row.unwanted,
            full=no_room_at is not None and now - no_room_at < ROOM_TAKEN_WITHIN,
        )
