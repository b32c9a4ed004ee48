"""`pipelines backfill`: shown first, done when you say so, followed to its end, and what failed."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby, takewhile

import typer

from pipelines_client import chosen
from pipelines_client.answers import BackfillPreview, BackfillProgress, PlannedDate, Run
from pipelines_client.api import Api
from pipelines_client.commands import Session
from pipelines_client.documents import Backfilled, FailedRun
from pipelines_client.errors import Code, Declined, Refused, TimedOut, Unreachable
from pipelines_client.screen import Screen
from pipelines_client.watching import EXPLAINED_SECONDS

LOOK_SECONDS = 1.0
TOLD_SECONDS = 10.0  # between two lines about it where no bar can be drawn
AWAY_SECONDS = 30.0
RUN_ID = re.compile(r" [0-9a-f]{8}-[0-9a-f-]{27}")


def backfill(
    session: Session,
    pipeline: str | None,
    *,
    first: str,
    last: str,
    mode: str,
    max_concurrent: int,
    runs_per_pod: int,
    dry_run: bool,
    yes: bool,
    wait: bool,
    timeout: float | None,
) -> Code:
    """Preview, confirmation, progress, and what failed."""
    api, screen = session.api, session.screen
    name = chosen.pipeline(api, pipeline)
    days = chosen.day(first), chosen.day(last)
    preview = api.preview(name, *days, mode=mode, max_concurrent=max_concurrent, runs_per_pod=runs_per_pod)
    if dry_run:
        screen.show(_told(preview), lambda: screen.line("\n".join(_summary(preview))))
        return Code.OK
    for line in _summary(preview):
        screen.note(line)
    if preview.count == 0:
        screen.show(_told(preview), lambda: screen.line("there is nothing to do"))
        return Code.OK
    if not yes:
        _confirm(preview)
    progress = _create(api, name, preview)
    screen.note(f"backfill {progress.backfill_id} of {progress.total} runs")
    if not wait:
        screen.show(_told(preview, progress), lambda: screen.line(f"backfill {progress.backfill_id} is accepted"))
        return Code.OK
    try:
        progress = _follow(api, screen, progress, timeout=timeout)
    except KeyboardInterrupt:
        screen.note(f"the backfill goes on; end it with: pipelines cancel {progress.backfill_id}")
        raise
    failed = _failed(api, progress)
    screen.show(_told(preview, progress, failed), lambda: _describe(screen, progress, failed))
    return Code.RUN_FAILED if progress.counts.get("Completed", 0) < progress.total else Code.OK


def _told(
    preview: BackfillPreview, progress: BackfillProgress | None = None, failed: list[FailedRun] | None = None
) -> Backfilled:
    return Backfilled(preview=preview, backfill=progress, failed=failed or [])


def _summary(preview: BackfillPreview) -> Iterator[str]:
    """Dates in a row that are in, or out, for one reason are one line."""
    pods = f", {preview.runs_per_pod} in a pod" if preview.runs_per_pod > 1 else ""
    limits = f"{preview.max_concurrent} at a time{pods}"
    yield f"{preview.count} of {len(preview.dates)} dates, {limits}, mode {preview.mode}"

    def kind(one: PlannedDate) -> tuple[bool, str]:
        return one.included, RUN_ID.sub("", one.reason)

    for (included, reason), group in groupby(preview.dates, key=kind):
        days = [one.logical_date for one in group]
        span = str(days[0]) if len(days) == 1 else f"{days[0]} … {days[-1]} ({len(days)})"
        yield f"  {'run ' if included else 'skip'} {span}: {reason}"


def _confirm(preview: BackfillPreview) -> None:
    if not sys.stdin.isatty():
        raise Declined("nobody is there to confirm it", hint="say --yes, or look at it with --dry-run")
    try:
        agreed = typer.confirm(f"Start {preview.count} runs?", err=True)
    except typer.Abort:
        agreed = False
    if not agreed:
        raise Declined("nothing was started")


def _create(api: Api, name: str, preview: BackfillPreview) -> BackfillProgress:
    try:
        return api.backfill(name, preview)
    except Refused as exc:
        if exc.kind != "plan-changed":
            raise
        raise Declined(f"{exc}: {'; '.join(exc.faults)}", hint="look at it again: the same command") from exc


def _follow(api: Api, screen: Screen, progress: BackfillProgress, *, timeout: float | None) -> BackfillProgress:
    deadline = time.monotonic() + timeout if timeout is not None else None
    heard_at = time.monotonic()
    with _shown(screen, progress) as show:
        while not progress.over:
            if deadline is not None and time.monotonic() > deadline:
                hint = f"it goes on; end it with: pipelines cancel {progress.backfill_id}"
                raise TimedOut(f"{progress.done} of {progress.total} runs are over, and --timeout is", hint=hint)
            time.sleep(LOOK_SECONDS)
            try:
                progress = api.backfill_progress(progress.pipeline, progress.backfill_id)
                heard_at = time.monotonic()
            except (Unreachable, Refused) as exc:
                if time.monotonic() - heard_at > AWAY_SECONDS or (isinstance(exc, Refused) and not exc.passing):
                    raise
            show(progress)
    return progress


@contextmanager
def _shown(screen: Screen, begun: BackfillProgress) -> Iterator[Callable[[BackfillProgress], None]]:
    """A bar where one can be drawn, else a line now and then."""
    if not sys.stderr.isatty():
        told, told_at = "", time.monotonic()

        def tell(progress: BackfillProgress) -> None:
            nonlocal told, told_at
            now = f"{progress.done} of {progress.total}: {_counts(progress)}"
            if now != told and (progress.over or time.monotonic() - told_at >= TOLD_SECONDS):
                told, told_at = now, time.monotonic()
                screen.note(now)

        yield tell
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=screen.err, transient=True) as bar:
        task = bar.add_task(_counts(begun), total=begun.total, completed=begun.done)
        yield lambda progress: bar.update(task, completed=progress.done, description=_counts(progress))


def _counts(progress: BackfillProgress) -> str:
    told = ", ".join(f"{count} {state}" for state, count in sorted(progress.counts.items()))
    return f"{told} ({progress.status})" if progress.status not in {"running", "finished"} else told


def _failed(api: Api, progress: BackfillProgress) -> list[FailedRun]:
    """Its runs that did not complete, by date, each with its reason: that is found out a moment after a failure."""
    deadline = time.monotonic() + EXPLAINED_SECONDS
    mine = _not_completed(api, progress)
    while any(run.failed and run.reason is None for run in mine) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        mine = _not_completed(api, progress)
    return [
        FailedRun(
            run_id=run.run_id,
            logical_date=run.logical_date,
            state=run.state,
            reason=run.reason.id if run.reason else None,
            detail=run.reason.detail if run.reason else run.message,
        )
        for run in sorted(mine, key=lambda run: run.logical_date)
    ]


def _not_completed(api: Api, progress: BackfillProgress) -> list[Run]:
    """They are among the runs accepted since the backfill was made."""
    if progress.counts.get("Completed", 0) == progress.total:
        return []
    since = takewhile(lambda run: run.accepted_at >= progress.created_at, api.every_run(progress.pipeline))
    return [run for run in since if run.backfill_id == progress.backfill_id and run.state != "Completed"]


def _describe(screen: Screen, progress: BackfillProgress, failed: list[FailedRun]) -> None:
    screen.line(f"backfill {progress.backfill_id}: {_counts(progress)}")
    if not failed:
        return
    rows = [
        (str(one.logical_date), one.state, str(one.run_id), " ".join(filter(None, (one.reason, one.detail))) or "-")
        for one in failed
    ]
    screen.table(("date", "state", "run", "why"), rows, state=1)
    again = f"pipelines backfill {progress.pipeline} --from {progress.from_} --to {progress.to} --mode failed"
    screen.note(f"once it is mended: {again}")
