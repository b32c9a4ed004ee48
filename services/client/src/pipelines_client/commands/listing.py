"""`pipelines list`: the pipelines at a glance."""

from pipelines_client.answers import Pipeline, Schedule
from pipelines_client.commands import Session


def show(session: Session) -> None:
    """Each pipeline: when it runs, its last run, and what holds it."""
    told = session.api.pipelines()

    def human() -> None:
        columns = ("pipeline", "schedule", "next run", "last run", "of", "held")
        session.screen.table(columns, map(_row, told.pipelines), state=3)

    session.screen.show(told, human)


def _row(one: Pipeline) -> tuple[str, ...]:
    last = one.last_run
    if one.registered is None:
        schedule = "not known yet"
    elif not one.registered:
        schedule = "not registered"
    else:
        schedule = "paused" if one.paused else ", ".join(map(_schedule, one.schedules)) or "none"
    held = ", ".join(f"{held.reason.id} {held.reason.title}" + _count(held.runs) for held in one.held)
    next_run = one.next_run.isoformat(sep=" ", timespec="minutes") if one.next_run else "-"
    if last is None:
        return (one.name, schedule, next_run, "-", "-", held or "-")
    state = last.state if last.state_name == last.state else f"{last.state} ({last.state_name})"
    return (one.name, schedule, next_run, state, str(last.logical_date), held or "-")


def _count(runs: int) -> str:
    return f" ({runs} runs)" if runs > 1 else ""


def _schedule(one: Schedule) -> str:
    when = one.cron or one.rrule or f"every {one.interval_seconds:g} s"
    return f"{when} {one.timezone}" + ("" if one.active else " (off)")
