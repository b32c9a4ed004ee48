"""`pipelines status`: all that is known of one run."""

from pipelines_client import chosen
from pipelines_client.answers import Run
from pipelines_client.commands import Session
from pipelines_client.errors import Code
from pipelines_client.screen import Screen, moment, seconds, style_of


def show(session: Session, text: str | None, *, of: str | None) -> Code:
    """The run, and as exit code how it stands."""
    found = chosen.run(session.api, text, of=of)
    session.screen.show(found, lambda: describe(session.screen, found))
    return outcome(found)


def outcome(run: Run) -> Code:
    """The exit code that stands for a run."""
    if not run.over:
        return Code.STILL_RUNNING
    return Code.OK if run.state == "Completed" else Code.RUN_FAILED


def describe(screen: Screen, run: Run) -> None:
    """A run for people: a line a fact, and what to do where it does not go on."""
    facts = {
        "run": str(run.run_id),
        "pipeline": run.pipeline,
        "date": run.logical_date.isoformat(),
        "state": run.shown_state,
        "accepted": f"{moment(run.accepted_at)}, by {run.origin}",
        "started": moment(run.started_at),
        "ended": moment(run.ended_at),
        "took": seconds(run.duration_ms),
        "attempt": f"{run.attempt} of {run.max_attempts}",
    }
    if run.backfill_id:
        facts["backfill"] = str(run.backfill_id)
    if run.message and not (run.reason and run.message in run.reason.detail):
        facts["message"] = run.message
    for name, value in facts.items():
        screen.line(f"{name:<9} {value}", style=style_of(value) if name == "state" else "")
    if run.reason is not None:
        screen.line(f"{'reason':<9} {run.reason.id} {run.reason.title}: {run.reason.detail}")
        screen.line(f"{'fix':<9} {run.reason.fix}")
