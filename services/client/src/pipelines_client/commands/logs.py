"""`pipelines logs`: what a run logged, followed where it goes on."""

from collections.abc import Iterator

from pipelines_client import chosen
from pipelines_client.answers import LogLine, LogPage, LogState
from pipelines_client.commands import Session
from pipelines_client.watching import step

STYLES = {"warning": "yellow", "error": "red", "critical": "bold red", "debug": "dim"}


def show(session: Session, text: str | None, *, of: str | None, follow: bool, tail: int | None, level: str) -> None:
    """Every line, oldest first."""
    api, screen = session.api, session.screen
    run = chosen.run(api, text, of=of)
    if follow:
        for one in api.follow(run.pipeline, run.run_id, tail=tail, level=level):
            if isinstance(one, LogState):
                screen.note(f"-- {one.state_name}")
            elif screen.as_json:
                screen.row(one)
            else:
                _print(session, one)
        return
    pages = _pages(session, run.pipeline, api.log(run.pipeline, run.run_id, tail=tail, level=level), level)
    if screen.as_json:
        every = list(pages)
        lines = [line for page in every for line in page.lines]
        screen.document(every[-1].model_copy(update={"lines": lines}).model_dump(mode="json"))
        return
    for page in pages:
        for line in page.lines:
            _print(session, line)
        if not page.lines:
            screen.note(page.detail or "the log has no such line")


def _pages(session: Session, pipeline: str, first: LogPage, level: str) -> Iterator[LogPage]:
    page = first
    yield page
    while page.more:
        page = session.api.log(pipeline, page.run_id, cursor=page.next_cursor, level=level)
        yield page


def _print(session: Session, line: LogLine) -> None:
    at = line.at.astimezone().strftime("%H:%M:%S")
    session.screen.line(f"{at} {line.level.upper():<8} {step(line.message)}", style=STYLES.get(line.level, ""))
