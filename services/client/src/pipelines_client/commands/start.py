"""`pipelines start`: a run begun, and followed where that is asked for."""

import json
from collections.abc import Sequence
from typing import Any

from pipelines_client import chosen
from pipelines_client.commands import Session
from pipelines_client.commands.status import describe, outcome
from pipelines_client.errors import Code, Misused
from pipelines_client.watching import watch


def start(
    session: Session,
    pipeline: str | None,
    *,
    day: str | None,
    parameters: Sequence[str],
    follow: bool,
    timeout: float | None,
) -> Code:
    """The run as it is accepted, or as it ended; the exit code is its outcome where it was followed."""
    api, screen = session.api, session.screen
    given = dict(map(_parameter, parameters))
    name = chosen.pipeline(api, pipeline)
    run_id = api.start(name, day=chosen.day(day) if day else None, parameters=given)
    if not follow:
        accepted = api.status(name, run_id)
        told = f"run {run_id} of {name} for {accepted.logical_date} is accepted"
        screen.show(accepted, lambda: screen.line(told))
        screen.note(f"follow it: pipelines logs {run_id} -f")
        return Code.OK
    screen.note(f"run {run_id} of {name} is accepted")
    ended = watch(api, screen, name, run_id, timeout=timeout)
    screen.show(ended, lambda: describe(screen, ended))
    return outcome(ended)


def _parameter(text: str) -> tuple[str, Any]:
    """name=value; the value is JSON where it can be read as such, else text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise Misused(f"{text!r} is no parameter", hint="write --parameter name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
