"""`pipelines why`: the cause of a failure, its last error, whether it is a known one, and what to do."""

import re
from itertools import dropwhile, islice

from pipelines_client import chosen
from pipelines_client.answers import Run
from pipelines_client.api import Api
from pipelines_client.commands import Session
from pipelines_client.documents import LastError, Why
from pipelines_client.errors import NotFound, Refused
from pipelines_client.screen import Screen, moment, seconds, style_of
from pipelines_client.watching import ENDS, explained, last_line

LOOKED_THROUGH = 500
ERRORS = 20
# Reasons that name no cause in particular: only the same words are the same cause.
UNTYPED = frozenset({"PL107", "PL199"})
NUMBER = re.compile(r"\d+")


def why(session: Session, text: str | None, *, of: str | None) -> None:
    """Of the run that is meant; of the latest that failed or is held, where none is named."""
    api, screen = session.api, session.screen
    run = chosen.run(api, text, of=of) if text else _latest_trouble(api, of)
    if run.failed and run.reason is None:
        run = explained(api, run.pipeline, run.run_id)
    earlier = _earlier(api, run)
    same = [one for one in earlier if _same(one, run)]
    told = Why(
        run=run,
        reason=run.reason,
        last_error=_last_error(session, run),
        same_earlier=len(same),
        same_first=min((one.logical_date for one in same), default=None),
        looked_through=len(earlier),
        commands=_commands(run),
    )
    screen.show(told, lambda: _describe(screen, told))


def _latest_trouble(api: Api, of: str | None) -> Run:
    name = chosen.pipeline(api, of)
    runs = islice(api.every_run(name), LOOKED_THROUGH)
    found = next((one for one in runs if one.failed or one.reason is not None or one.state_name == "Degraded"), None)
    if found is None:
        raise NotFound(f"none of the latest {LOOKED_THROUGH} runs of {name} failed, was degraded or is held")
    return found


def _earlier(api: Api, run: Run) -> list[Run]:
    """The runs before this one, newest first; none where nothing is to be compared."""
    if run.reason is None:
        return []
    newer_too = dropwhile(lambda one: one.run_id != run.run_id, api.every_run(run.pipeline))
    return list(islice(newer_too, 1, LOOKED_THROUGH + 1))


def _same(one: Run, run: Run) -> bool:
    if not one.failed or one.reason is None or run.reason is None or one.reason.id != run.reason.id:
        return False
    return run.reason.id not in UNTYPED or _words(one.reason.detail) == _words(run.reason.detail)


def _words(detail: str) -> str:
    return NUMBER.sub("0", detail)


def _last_error(session: Session, run: Run) -> LastError | None:
    if run.flow_run_id is None:
        return None
    try:
        lines = session.api.log(run.pipeline, run.run_id, tail=ERRORS, level="error").lines
    except Refused as exc:
        session.screen.note(f"the run's log cannot be read now: {exc}")
        return None
    own = [one for one in lines if not one.message.startswith(ENDS)]
    line = (own or lines)[-1] if lines else None
    return LastError(at=line.at, logger=line.logger, line=last_line(line.message)) if line else None


def _commands(run: Run) -> list[str]:
    again = f"pipelines start {run.pipeline} --date {run.logical_date} --watch"
    return ([run.reason.fix] if run.reason else []) + ([again] if run.over and run.state != "Completed" else [])


def _describe(screen: Screen, told: Why) -> None:
    run = told.run
    took = f" after {seconds(run.duration_ms)}" if run.over else ""
    attempts = f", attempt {run.attempt} of {run.max_attempts}" if run.attempt > 1 else ""
    screen.line(
        f"{run.pipeline} of {run.logical_date}: {run.shown_state}{took}{attempts}", style=style_of(run.shown_state)
    )
    screen.line(f"run {run.run_id}, {moment(run.ended_at or run.accepted_at)}")
    if told.reason is not None:
        screen.line()
        screen.line(f"{told.reason.id} {told.reason.title}", style="bold")
        screen.line(f"  {told.reason.detail}")
    elif run.message:
        screen.line(f"  {run.message}")
    else:
        screen.line("  nothing holds it" if not run.over else "  there is nothing to explain")
    if told.last_error is not None:
        screen.line(f"last error, {moment(told.last_error.at)}")
        screen.line(f"  {told.last_error.line}")
    if told.reason is not None and run.failed:
        screen.line(_known(told))
    for number, command in enumerate(told.commands):
        screen.line("fix" if told.reason and number == 0 else "then run it again")
        screen.line(f"  {command}")


def _known(told: Why) -> str:
    if told.same_earlier == 0:
        return f"the first of its kind in {told.looked_through + 1} runs"
    failures = "failure" if told.same_earlier == 1 else "failures"
    return f"same as {told.same_earlier} earlier {failures}, the first about {told.same_first}"
