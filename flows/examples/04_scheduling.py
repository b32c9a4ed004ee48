"""When a daily schedule fires: 09:00 in Madrid, also across the days on which Europe changes its clocks.

The dates are computed by Prefect's own schedule class, from the schedule that this project registers; nothing is
started and no server is needed.

    uv run python flows/examples/04_scheduling.py
"""

import asyncio
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import sandbox  # noqa: F401 - it gives Prefect its settings

from etl.identity import day_before
from etl.registration import DAILY_JOB, Schedule
from prefect.server.schemas.schedules import CronSchedule

MADRID = ZoneInfo("Europe/Madrid")
[DAILY] = DAILY_JOB.schedules

SPRING = datetime(2026, 3, 28, tzinfo=MADRID)  # the night to 29 March lacks the hour from 02:00 to 03:00
AUTUMN = datetime(2026, 10, 24, tzinfo=MADRID)  # the night to 25 October has it twice


def next_runs(schedule: Schedule, start: datetime, count: int) -> list[datetime]:
    """The schedule's first `count` runs from `start` on."""
    prefect_schedule = CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
    return list(asyncio.run(prefect_schedule.get_dates(count, start)))


def show(title: str, schedule: Schedule, start: datetime, count: int = 3) -> None:
    """Print each run in Madrid's time and in UTC, the hours since the one before, and the day that it is about."""
    print(f"\n{title}  (cron {schedule.cron!r}, {schedule.timezone})")
    previous: datetime | None = None
    for run in next_runs(schedule, start, count):
        gap = f"{(run.astimezone(UTC) - previous.astimezone(UTC)).total_seconds() / 3600:g} h later" if previous else ""
        madrid = run.astimezone(MADRID)
        print(
            f"   {madrid:%a %d %b %Y %H:%M} Madrid = {run.astimezone(UTC):%H:%M} UTC"
            f"   logical date {day_before(run, schedule.timezone)}   {gap}".rstrip()
        )
        previous = run


if __name__ == "__main__":
    print("The schedule knows its timezone, so the clock on the wall decides.")
    show("The next runs", DAILY, datetime.now(MADRID))
    show("Spring: the clocks go forward", DAILY, SPRING)
    show("Autumn: the clocks go back", DAILY, AUTUMN)

    print("\nThe same hour written in UTC moves by an hour for Madrid when summer begins:")
    show("Without a timezone", Schedule(slug="utc", cron="0 8 * * *", timezone="UTC"), SPRING)

    print("\nAn hour that one night a year lacks is a poor choice: that night's run comes at another time.")
    show("At half past two", Schedule(slug="night", cron="30 2 * * *", timezone="Europe/Madrid"), SPRING)
