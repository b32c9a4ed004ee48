"""Several runs of a backfill in one process, one after another: each is as whole as if it had a pod of its own."""

import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import count
from typing import Any

import pytest
from etl.succession import BACKFILL_LABEL, POD_OF_LABEL, RUNS_PER_POD_LABEL, WAIT_SECONDS

from .pods import DAY, RUN_SECONDS, Platform, eventually

GRACE_SECONDS = 30.0  # what Kubernetes gives a pod


@pytest.fixture
def days() -> Iterator[date]:
    """Days with flights."""
    return (DAY + timedelta(days=number) for number in count())


def backfill(platform: Platform, days: Iterator[date], *, runs: int, per_pod: int = 100) -> list[str]:
    """Runs of one backfill."""
    labels: dict[str, str | int] = {BACKFILL_LABEL: str(uuid.uuid4()), RUNS_PER_POD_LABEL: per_pod}
    return [platform.accept(next(days), **labels) for _ in range(runs)]


def begin(platform: Platform, flow_run_id: str) -> subprocess.Popen[str]:
    """The process that a worker starts for a run."""
    platform.submit(flow_run_id)
    return platform.execute(flow_run_id)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The process's exit status, and what it said."""
    _, stderr = process.communicate(timeout=RUN_SECONDS)
    return process.returncode, stderr


def loads(platform: Platform, flow_runs: list[str]) -> list[int]:
    """How often each run wrote its day."""
    query = "SELECT count(*) FROM loads WHERE flow_run_id = $1"
    return [platform.query(query, uuid.UUID(one))[0][0] for one in flow_runs]


def is_running(platform: Platform, flow_run_id: str) -> bool:
    return bool(platform.run(flow_run_id)["state_type"] == "RUNNING")


def test_one_process_executes_one_run_after_another(platform: Platform, days: Iterator[date]) -> None:
    """Each has its own states, its own load, its own ids in every line, and says whose pod it was in."""
    flow_runs = backfill(platform, days, runs=3)
    status, stderr = ended(begin(platform, flow_runs[0]))
    assert status == 0, stderr
    for flow_run_id in flow_runs:
        assert platform.states(flow_run_id) == ["Scheduled", "Pending", "Running", "Completed"]
        run = platform.run(flow_run_id)
        (correlation_id,) = (tag.removeprefix("correlation-id:") for tag in run["tags"] if "correlation" in tag)
        lines = platform.log_lines(flow_run_id)
        assert lines
        assert {line["correlation_id"] for line in lines} == {correlation_id}
        said = [line for line in stderr.splitlines() if run["name"] in line]
        assert said
        assert all(line.endswith(f"correlation_id={correlation_id}") for line in said if "Flow run" in line)
        assert run["labels"].get(POD_OF_LABEL) == (None if flow_run_id == flow_runs[0] else flow_runs[0])
        assert run["run_count"] == 1
    assert loads(platform, flow_runs) == [1, 1, 1]


def test_a_pod_executes_no_more_than_it_is_to(platform: Platform, days: Iterator[date]) -> None:
    """What is left is the worker's."""
    flow_runs = backfill(platform, days, runs=3, per_pod=2)
    status, stderr = ended(begin(platform, flow_runs[0]))
    assert status == 0, stderr
    assert [platform.run(one)["state_type"] for one in flow_runs] == ["COMPLETED", "COMPLETED", "SCHEDULED"]


def test_other_runs_are_left_alone(platform: Platform, days: Iterator[date]) -> None:
    """Those of another backfill, of none, those of a later hour, and those that were begun before."""
    (mine,), (another,) = (backfill(platform, days, runs=1) for _ in range(2))
    alone = platform.accept(next(days))
    labels: dict[str, str | int] = platform.run(mine)["labels"]
    begun = platform.accept(next(days), **{BACKFILL_LABEL: labels[BACKFILL_LABEL], RUNS_PER_POD_LABEL: 100})
    platform.submit(begun)
    platform.reschedule(begun)
    status, stderr = ended(begin(platform, mine))
    assert status == 0, stderr
    assert [platform.run(one)["state_type"] for one in (another, alone, begun)] == ["SCHEDULED"] * 3


def test_a_run_that_another_executes_is_passed_over(platform: Platform, days: Iterator[date]) -> None:
    """Its claim is not to be had; the next run is executed, and its lines carry its own id."""
    first, held, third = backfill(platform, days, runs=3)
    platform.query(
        "INSERT INTO claims (flow_run_id, attempt, holder, lease_until)"
        " VALUES ($1, clock_timestamp() + interval '1 hour', 'another', clock_timestamp() + interval '1 hour')",
        uuid.UUID(held),
    )
    status, stderr = ended(begin(platform, first))
    assert status == 0, stderr
    assert platform.run(third)["state_type"] == "COMPLETED"
    assert loads(platform, [first, held, third]) == [1, 0, 1]
    run = platform.run(third)
    (correlation_id,) = (tag.removeprefix("correlation-id:") for tag in run["tags"] if "correlation" in tag)
    said = [line for line in stderr.splitlines() if "Flow run" in line and run["name"] in line]
    assert said
    assert all(line.endswith(f"correlation_id={correlation_id}") for line in said)


def test_a_run_that_fails_does_not_keep_the_next_from_running(platform: Platform, days: Iterator[date]) -> None:
    """Its failure is its own."""
    flow_runs = backfill(platform, days, runs=3)
    wrong = {"parameters": {"logical_date": "nonsense"}}
    platform.prefect.patch(f"/flow_runs/{flow_runs[1]}", json=wrong).raise_for_status()
    status, stderr = ended(begin(platform, flow_runs[0]))
    assert status == 0, stderr
    assert [platform.run(one)["state_type"] for one in flow_runs] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert loads(platform, flow_runs) == [1, 0, 1]


@pytest.mark.parametrize("end", ["SIGTERM", "cancel"])
def test_what_ends_a_run_ends_that_run_alone(platform: Platform, days: Iterator[date], end: str) -> None:
    """In the second run: an eviction gives it back, a cancellation ends it; the third stays for another pod."""
    flow_runs = backfill(platform, days, runs=3)
    first, second, third = flow_runs
    platform.slow_source(1.0)
    process = begin(platform, first)
    eventually(lambda: is_running(platform, second), within=RUN_SECONDS, what="the second run is Running")
    if end == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    else:
        state = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        platform.prefect.post(f"/flow_runs/{second}/set_state", json=state).raise_for_status()
    began = time.monotonic()
    status, stderr = ended(process)
    assert status == 0, stderr
    assert time.monotonic() - began < GRACE_SECONDS
    assert platform.run(second)["state_name"] == ("AwaitingRetry" if end == "SIGTERM" else "Cancelled")
    assert platform.run(first)["state_type"] == "COMPLETED"
    assert platform.states(third) == ["Scheduled"]
    assert loads(platform, flow_runs) == [1, 0, 0]


def test_a_pod_that_waits_for_its_next_run_ends_when_asked(platform: Platform, days: Iterator[date]) -> None:
    """SIGTERM between two runs has nothing to give back."""
    (only,) = backfill(platform, days, runs=1)
    process = begin(platform, only)
    eventually(lambda: platform.run(only)["state_type"] == "COMPLETED", within=RUN_SECONDS, what="the run is Completed")
    process.send_signal(signal.SIGTERM)
    status, stderr = ended(process)
    assert status == 0, stderr
    assert platform.states(only)[-1] == "Completed"


def test_a_run_made_a_moment_later_is_waited_for(platform: Platform, days: Iterator[date]) -> None:
    """The orchestrator makes it when it has seen the end of the one before."""
    (first,) = backfill(platform, days, runs=1)
    labels: dict[str, Any] = platform.run(first)["labels"]
    process = begin(platform, first)
    eventually(
        lambda: platform.run(first)["state_type"] == "COMPLETED", within=RUN_SECONDS, what="the run is Completed"
    )
    time.sleep(WAIT_SECONDS / 4)
    later = platform.accept(
        next(days), **{key: value for key, value in labels.items() if key in (BACKFILL_LABEL, RUNS_PER_POD_LABEL)}
    )
    status, stderr = ended(process)
    assert status == 0, stderr
    assert platform.states(later)[-1] == "Completed"


def test_several_pods_share_a_backfill(platform: Platform, days: Iterator[date]) -> None:
    """Each run is executed by one of them, once."""
    flow_runs = backfill(platform, days, runs=8)
    processes = [begin(platform, one) for one in flow_runs[:2]]
    for process in processes:
        status, stderr = ended(process)
        assert status == 0, stderr
    assert [platform.run(one)["state_type"] for one in flow_runs] == ["COMPLETED"] * 8
    assert [platform.run(one)["run_count"] for one in flow_runs] == [1] * 8
    assert loads(platform, flow_runs) == [1] * 8
