"""A run followed to its end: what it does, on stderr, in a line a step."""

import json
import time
from uuid import UUID

from pipelines_client.answers import LogLine, LogState, Run
from pipelines_client.api import Api
from pipelines_client.screen import Screen

LOUD = frozenset({"warning", "error", "critical"})
NOT_SHOWN = frozenset({"step", "run_id", "correlation_id", "checksum"})
ENDS = "Finished in state "  # Prefect's own last word on a run and on each task, which repeats what was said
EXPLAINED_SECONDS = 6.0


def watch(api: Api, screen: Screen, pipeline: str, run_id: UUID, *, timeout: float | None = None) -> Run:
    """Tell what the run does until it is over; its last status. Raises TimedOut."""
    began = time.monotonic()
    deadline = began + timeout if timeout is not None else None

    def told(text: str) -> None:
        screen.note(f"{time.monotonic() - began:7.1f} s  {text}")

    try:
        for one in api.follow(pipeline, run_id, deadline=deadline):
            if isinstance(one, LogState):
                told(one.state_name if one.state in one.state_name else f"{one.state} ({one.state_name})")
            elif (text := shown(one)) is not None:
                told(f"  {text}")
    except KeyboardInterrupt:
        screen.note(f"the run goes on: pipelines status {run_id}, pipelines cancel {run_id}")
        raise
    return explained(api, pipeline, run_id)


def explained(api: Api, pipeline: str, run_id: UUID) -> Run:
    """A run that is over, with its reason: that is found out a moment after a failure."""
    deadline = time.monotonic() + EXPLAINED_SECONDS
    while True:
        run = api.status(pipeline, run_id)
        if not run.failed or run.reason is not None or time.monotonic() > deadline:
            return run
        time.sleep(0.5)


def shown(line: LogLine) -> str | None:
    """A line for who watches: a step, or a warning; None for what is only of interest in the log."""
    if line.message.startswith('{"step"'):
        return step(line.message)
    loud = line.level in LOUD and not line.message.startswith(ENDS)
    return f"{line.level}: {last_line(line.message)}" if loud else None


def step(message: str) -> str:
    """A step that a flow logged as JSON, in words; anything else as it is."""
    try:
        told = json.loads(message)
        facts = ", ".join(f"{name} {value}" for name, value in told.items() if name not in NOT_SHOWN)
        return f"{told['step']}: {facts}"
    except (ValueError, KeyError, AttributeError):
        return message


def last_line(text: str) -> str:
    """The last line of a text that says something: of a traceback, the error itself."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
