"""Retries and timeouts: what is worth another try, how long to wait before it, and when to give up.

Four tasks call a source that misbehaves on demand. Only a failure that may pass is tried again. Each wait is longer
than the last and partly random, so that many runs do not come back in the same instant. A call that hangs is ended.

    uv run python flows/examples/02_retries_and_timeouts.py
"""

import time
from datetime import date
from typing import Any

import sandbox

import httpx
import prefect.runtime
from prefect import flow, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

DAY = date(2025, 3, 1)


class SourceUnavailable(Exception):
    """The source failed in a way that may pass: 5xx, 429, no answer."""


class SourceRefused(Exception):
    """The source says that this very request is wrong: asking again cannot help."""


def may_pass(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """Prefect asks after each failure: is this one worth another try?"""
    return isinstance(state.result(raise_on_failure=False), SourceUnavailable | TimeoutError)


@task(
    retries=3,
    retry_delay_seconds=exponential_backoff(backoff_factor=0.1),  # 0.1, 0.2, 0.4 s; a real source gets seconds
    retry_jitter_factor=0.5,  # up to half as much again, at random
    retry_condition_fn=may_pass,
)
def count_flights(day: date) -> int:
    """Ask the source once; Prefect calls this function again where may_pass says so."""
    print(f"    attempt {prefect.runtime.task_run.run_count}")
    with sandbox.open_source() as source:
        response = source.get("/flights", params={"date": day.isoformat()})
    print(f"      answered {response.status_code}")
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
        raise SourceUnavailable(f"the source answered {response.status_code}")
    if response.is_error:
        raise SourceRefused(f"the source answered {response.status_code}")
    return len(response.text.splitlines())


# The same task with a limit: what has no answer after half a second is ended. It has no retries, to show one attempt.
count_flights_in_time = count_flights.with_options(timeout_seconds=0.5, retries=0)


def show(title: str, counting: Task[[date], int]) -> None:
    """Run the task and print how often it was tried and how it ended."""
    print(f"\n{title}")
    started = time.monotonic()
    state = counting(DAY, return_state=True)
    outcome = f"{state.result()} flights" if state.is_completed() else state.message
    print(f"    {state.name} after {time.monotonic() - started:.1f} s: {outcome}")
    sandbox.clear_faults()


@flow(name="retries_and_timeouts")
def four_failures() -> str:
    """Each task's state is looked at, so that a failed task does not fail the flow: that is the flow's to decide."""
    sandbox.set_fault(kind="status", status=503, count=2)
    show("1. The source is away for two requests (503): tried again until it answers.", count_flights)

    sandbox.set_fault(kind="status", status=503)
    show("2. The source stays away: one try and three retries, then Prefect gives up.", count_flights)

    sandbox.set_fault(kind="status", status=404)
    show("3. The source refuses the request (404): a retry cannot help, so there is none.", count_flights)

    sandbox.set_fault(kind="latency", seconds=5)
    show("4. The source is silent: the timeout ends the attempt after half a second.", count_flights_in_time)
    return "four failures seen"


if __name__ == "__main__":
    sandbox.announce_server()
    state = four_failures(return_state=True)
    print(f"\nThe flow run ended in the state {state.name}: {state.result()}.")
