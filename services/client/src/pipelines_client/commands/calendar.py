"""`pipelines calendar`: what became of each day, a letter a day."""

from collections import Counter
from collections.abc import Mapping
from datetime import date, timedelta
from itertools import takewhile

from rich.text import Text

from pipelines_client import chosen
from pipelines_client.answers import OVER, Run
from pipelines_client.api import Api
from pipelines_client.commands import Session
from pipelines_client.documents import Calendar, Day
from pipelines_client.errors import Misused
from pipelines_client.screen import Screen, style_of

WEEKS = 12
# A run is about a day that has begun somewhere: it is not accepted more than a day before.
SLACK = timedelta(days=2)
LETTERS: Mapping[str, str] = {
    "C": "Completed",
    "D": "Degraded",
    "F": "Failed or Crashed",
    "X": "Cancelled",
    "R": "not over",
    ".": "no run",
}


def show(session: Session, pipeline: str | None, *, first: str | None, last: str | None) -> None:
    """The last run of each day of the range, of the last twelve weeks where none is named."""
    name = chosen.pipeline(session.api, pipeline)
    end = chosen.day(last or "today")
    begin = chosen.day(first) if first else end - timedelta(days=end.weekday(), weeks=WEEKS - 1)
    if begin > end:
        raise Misused(f"--from {begin} lies after --to {end}")
    runs = _by_day(session.api, name, begin, end)
    days = [begin + timedelta(days=number) for number in range((end - begin).days + 1)]
    told = Calendar(pipeline=name, days=[_day(one, runs.get(one, [])) for one in days])
    session.screen.show(told, lambda: _draw(session.screen, told))


def _by_day(api: Api, name: str, begin: date, end: date) -> dict[date, list[Run]]:
    """The runs about these days, newest first."""
    found: dict[date, list[Run]] = {}
    for run in takewhile(lambda run: run.accepted_at.date() >= begin - SLACK, api.every_run(name)):
        if begin <= run.logical_date <= end:
            found.setdefault(run.logical_date, []).append(run)
    return found


def _day(day: date, runs: list[Run]) -> Day:
    last = runs[0] if runs else None
    return Day(
        date=day,
        state=last.state if last else None,
        state_name=last.state_name if last else None,
        run_id=last.run_id if last else None,
        runs=len(runs),
    )


def letter(day: Day) -> str:
    """What a day is drawn as."""
    if day.state is None:
        return "."
    if day.state not in OVER:
        return "R"
    if day.state == "Completed":
        return "D" if day.state_name == "Degraded" else "C"
    return "X" if day.state == "Cancelled" else "F"


def _draw(screen: Screen, told: Calendar) -> None:
    screen.line(f"{told.pipeline}, the last run of each day")
    screen.line(f"{'':<10}  Mo Tu We Th Fr Sa Su")
    weeks: dict[date, list[Day]] = {}
    for day in told.days:
        weeks.setdefault(day.date - timedelta(days=day.date.weekday()), []).append(day)
    for monday, days in weeks.items():
        line = Text(f"{monday}  " + "   " * days[0].date.weekday())
        for day in days:
            line.append(f" {letter(day)} ", style=style_of(day.state_name or ""))
        line.rstrip()
        screen.out.print(line)
    counts = Counter(map(letter, told.days))
    screen.line(", ".join(f"{one} {LETTERS[one]}: {counts[one]}" for one in LETTERS if counts[one]))
