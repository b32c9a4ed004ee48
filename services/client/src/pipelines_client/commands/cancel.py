"""`pipelines cancel`: a run, or a whole backfill, ended."""

from uuid import UUID

from pipelines_client import chosen
from pipelines_client.commands import Session
from pipelines_client.documents import Cancelled
from pipelines_client.errors import NotFound


def cancel(session: Session, text: str, *, of: str | None) -> None:
    """What is cancelled, and how it stands now."""
    done = _cancelled(session, text, of=of)
    session.screen.show(done, lambda: session.screen.line(f"{done.kind} {done.id} is {done.state}"))


def _cancelled(session: Session, text: str, *, of: str | None) -> Cancelled:
    api = session.api
    try:
        run = chosen.run(api, text, of=of)
    except NotFound:
        for name in [of] if of else [one.name for one in api.pipelines().pipelines]:
            try:
                backfill = api.cancel_backfill(name, UUID(text))
            except (NotFound, ValueError):
                continue
            return Cancelled(kind="backfill", id=backfill.backfill_id, state=backfill.status)
        raise
    told = api.cancel(run.pipeline, run.run_id)
    return Cancelled(kind="run", id=told.run_id, state=told.state)
