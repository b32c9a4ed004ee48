"""What is to be done about a run that stopped on its way, by what Prefect and Kubernetes show of it.

Nothing here does I/O. What cannot be known is no evidence: where Kubernetes could not be asked, nothing is concluded
from a Job or a pod that is not seen.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from uuid import UUID

from orchestrator.runs import State
from orchestrator.settings import Missed, Pipeline
from orchestrator.workloads import Job, Pod

# A pod's last word to Prefect may take a moment longer than its end shows in Kubernetes.
LOST_AFTER = timedelta(seconds=20)
# Prefect's own observer takes half a minute to make sure that a Job which never began has failed: it goes first.
NEVER_BEGAN_AFTER = timedelta(seconds=45)
# From Pending to its Job a worker takes a second, a busy one a few; each time it is disturbed it gets twice as long.
WORKER_TIME = timedelta(seconds=15)
MOST_WORKER_TIME = timedelta(minutes=10)
# Where there is no Kubernetes to ask, Prefect's word is all there is.
UNSEEN_WORKER_TIME = timedelta(seconds=120)
# A pod that has not gone by then, past its own grace, is on a node that nobody hears of.
STUCK_ON_ITS_WAY_OUT = timedelta(seconds=60)
# How long the processes of a crashed run are given to go before its next attempt begins all the same.
MOST_WAIT_FOR_OLD_PROCESS = timedelta(seconds=60)
# Times in Kubernetes have no fractions of a second.
RESOLUTION = timedelta(seconds=1)

WITH_A_JOB = "InfrastructurePending"  # the name of Pending once Prefect has seen the run's pod
FOR_A_SLOT = "AwaitingConcurrencySlot"  # the name of Scheduled while a deployment's concurrency limit is full


class Action(StrEnum):
    """What can be done."""

    RERUN = "rerun"
    PUT_BACK = "put_back"
    CRASH = "crash"
    GIVE_UP = "give_up"
    TIME_OUT = "time_out"
    SKIP = "skip"


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """What to do about a run, and why, in words for people."""

    action: Action
    reason: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """What Kubernetes shows of a run's present attempt.

    `begun`: the flow's process runs. `missing_for`: how long nothing of it has been seen to go on; None while something
    does, and where Kubernetes could not be asked. `had_a_job`: there is a Job of the attempt, over as it may be.
    """

    begun: bool = False
    had_a_job: bool = False
    missing_for: timedelta | None = None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """All that the choice of a remedy rests on.

    `since`: when the run came into its state, None while only the ledger was asked. `waits_since`: from when its wait
    for a start counts. `work`: None where there is no Kubernetes. `silent`: the reason, where its pod has not been
    heard of. `why`: the reason it has not started, as far as one is known.
    """

    state: State
    state_name: str
    since: datetime | None
    started_at: datetime | None
    waits_since: datetime
    unwanted: bool = False
    given_up: str | None = None
    put_backs: int = 0
    work: Work | None = None
    full: bool = False
    silent: str | None = None
    why: str | None = None


def goes_on(jobs: Iterable[Job], pods: Iterable[Pod], *, now: datetime) -> bool:
    """Whether anything of a run's Jobs and pods may still execute it."""
    if any(not one.over and one.deleted_at is None for one in jobs):
        return True
    return any(not one.over and (one.deleted_at is None or now - one.deleted_at < STUCK_ON_ITS_WAY_OUT) for one in pods)


def of_attempt(jobs: Iterable[Job], *, crashed_at: datetime | None) -> list[Job]:
    """Those Jobs that were made after the crash which the present attempt follows."""
    return [one for one in jobs if crashed_at is None or one.created_at >= crashed_at - RESOLUTION]


def choose(run: Standing, pipeline: Pipeline, *, now: datetime) -> Remedy | None:
    """The remedy for a run that is not over; None where there is nothing to do.

    A run that somebody asked to cancel is the canceller's alone.
    """
    if run.unwanted or run.state.ended:
        return None
    if run.given_up is not None:
        return Remedy(action=Action.GIVE_UP, reason=run.given_up)
    if run.state is State.RUNNING:
        return _of_running(run, pipeline, now)
    if run.state in {State.SCHEDULED, State.PENDING}:
        return _of_waiting(run, pipeline, now)
    return None


def _of_running(run: Standing, pipeline: Pipeline, now: datetime) -> Remedy | None:
    begun_at = run.since or run.started_at
    most = pipeline.run_deadline_seconds
    if most is not None and begun_at is not None and now - begun_at > timedelta(seconds=most):
        return Remedy(
            action=Action.TIME_OUT,
            reason=f"Running for more than {most:g} s, the pipeline's run deadline; its process was ended",
        )
    if run.work is not None and run.work.missing_for is not None and run.work.missing_for >= LOST_AFTER:
        return Remedy(action=Action.CRASH, reason="its pod is gone, and Prefect was not told how it ended")
    if run.silent is not None:
        return Remedy(action=Action.CRASH, reason=run.silent)
    return None


def _of_waiting(run: Standing, pipeline: Pipeline, now: datetime) -> Remedy | None:
    most = pipeline.start_deadline_seconds
    held_up = run.full or run.state_name == FOR_A_SLOT or (run.work is not None and run.work.begun)
    if most is not None and not held_up and now - run.waits_since > timedelta(seconds=most):
        why = f": {run.why}" if run.why else ""
        return Remedy(
            action=Action.GIVE_UP, reason=f"not started within {most:g} s, the pipeline's start deadline{why}"
        )
    if run.state is State.PENDING:
        return _of_pending(run, now)
    return None


def _of_pending(run: Standing, now: datetime) -> Remedy | None:
    if run.work is None:
        waited, most = now - (run.since or run.waits_since), max(UNSEEN_WORKER_TIME, worker_time(run.put_backs))
        left = run.state_name != WITH_A_JOB and waited >= most
        return Remedy(action=Action.PUT_BACK, reason=_left_by_its_worker(waited)) if left else None
    missing_for = run.work.missing_for
    if missing_for is None:
        return None
    if run.work.had_a_job or run.state_name == WITH_A_JOB:
        reason = "its Job ended or was deleted before the flow began"
        return Remedy(action=Action.CRASH, reason=reason) if missing_for >= NEVER_BEGAN_AFTER else None
    left = missing_for >= worker_time(run.put_backs)
    return Remedy(action=Action.PUT_BACK, reason=_left_by_its_worker(missing_for)) if left else None


def _left_by_its_worker(waited: timedelta) -> str:
    seconds = round(waited.total_seconds())
    return f"put back: the worker that took it has made no Job for it within {seconds} s"


def worker_time(put_backs: int) -> timedelta:
    """How long a worker may take from Pending to the Job of a run that was put back so often."""
    return min(MOST_WORKER_TIME, WORKER_TIME * (1 << min(put_backs, 10)))


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A run that the schedule made and that was due at `due_at`. `begun`: a worker has taken it up, or it is over."""

    run_id: UUID
    logical_date: date
    due_at: datetime
    begun: bool
    full: bool = False


def missed(planned: Collection[Planned], pipeline: Pipeline, *, now: datetime) -> dict[UUID, str]:
    """Those of a pipeline's scheduled runs that its policy leaves out, and why.

    A run is missed once it is later than `missed_after_seconds` and nothing has begun it; one that only waits for a
    full concurrency limit is not, for the platform was there when it was due.
    """
    if pipeline.missed_schedules is Missed.RUN_ALL or not planned:
        return {}
    late = timedelta(seconds=pipeline.missed_after_seconds)
    newest = max(planned, key=lambda one: (one.logical_date, one.due_at))
    latest = pipeline.missed_schedules is Missed.LATEST
    reason = (
        f"missed, and {newest.logical_date} is the latest (missedSchedules: latest)"
        if latest
        else f"missed by more than {pipeline.missed_after_seconds:g} s (missedSchedules: skip)"
    )
    return {
        one.run_id: reason
        for one in planned
        if not one.begun and not one.full and now - one.due_at > late and not (latest and one.run_id == newest.run_id)
    }
