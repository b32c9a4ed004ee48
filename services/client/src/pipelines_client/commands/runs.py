"""`pipelines runs`: the latest runs, as a table, as CSV, or as JSON."""

import sys

from pipelines_client import chosen
from pipelines_client.answers import Run
from pipelines_client.commands import Session
from pipelines_client.errors import Misused
from pipelines_client.screen import moment, seconds

COLUMNS = ("run", "date", "state", "accepted", "took", "attempt", "reason")


def show(
    session: Session, pipeline: str | None, *, limit: int, state: str | None, day: str | None, as_csv: bool
) -> None:
    """Newest first."""
    if as_csv and session.screen.as_json:
        raise Misused("--csv and --json are two forms of the same: choose one")
    name = chosen.pipeline(session.api, pipeline)
    about = chosen.day(day) if day else None
    if as_csv:
        text = session.api.runs_csv(name, limit=limit, state=state, day=about)
        sys.stdout.write(text.replace("\r\n", "\n"))
        return
    page = session.api.runs(name, limit=limit, state=state, day=about)

    def human() -> None:
        session.screen.table(COLUMNS, map(_row, page.runs), state=2)
        if page.next_cursor is not None:
            session.screen.note(f"these are the latest {limit}: --limit shows more")

    session.screen.show(page, human)


def _row(run: Run) -> tuple[str, ...]:
    reason = f"{run.reason.id} {run.reason.title}" if run.reason else "-"
    return (
        str(run.run_id),
        run.logical_date.isoformat(),
        run.shown_state,
        moment(run.accepted_at),
        seconds(run.duration_ms),
        f"{run.attempt}/{run.max_attempts}",
        reason,
    )
