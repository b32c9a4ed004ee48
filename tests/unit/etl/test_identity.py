"""Who a run is and which day it is about, across both changes of the clock."""

from datetime import UTC, date, datetime
from uuid import uuid4

import pytest
from etl.identity import day_before, identify
from etl.registration import DAILY_JOB
from prefect.server.schemas.schedules import CronSchedule


def test_a_run_from_the_orchestrator_goes_by_its_run_id() -> None:
    """The tags carry the run id and the correlation id; other tags mean nothing here."""
    flow_run_id, run_id = uuid4(), uuid4()
    run = identify(flow_run_id, ["team:data", f"run-id:{run_id}", "correlation-id:abc"])
    assert (run.run_id, run.flow_run_id, run.correlation_id) == (run_id, flow_run_id, "abc")


def test_a_run_without_tags_goes_by_its_flow_run_id() -> None:
    """The schedule's runs know no orchestrator."""
    flow_run_id = uuid4()
    run = identify(flow_run_id, [])
    assert (run.run_id, run.correlation_id) == (flow_run_id, str(flow_run_id))


@pytest.mark.parametrize(
    ("start", "timezone", "day"),
    [
        (datetime(2026, 1, 15, 8, 0, tzinfo=UTC), "Europe/Madrid", date(2026, 1, 14)),
        (datetime(2026, 1, 15, 23, 30, tzinfo=UTC), "Europe/Madrid", date(2026, 1, 15)),
        (datetime(2026, 1, 15, 8, 0, tzinfo=UTC), "America/Los_Angeles", date(2026, 1, 14)),
        (datetime(2026, 3, 29, 1, 30, tzinfo=UTC), "Europe/Madrid", date(2026, 3, 28)),
        (datetime(2024, 3, 1, 8, 0, tzinfo=UTC), "Europe/Madrid", date(2024, 2, 29)),
    ],
)
def test_the_logical_date_is_yesterday_where_the_deployment_lives(start: datetime, timezone: str, day: date) -> None:
    """Yesterday by the deployment's calendar, not by UTC's."""
    assert day_before(start, timezone) == day


@pytest.mark.parametrize(
    ("around", "utc_hours"),
    [
        (datetime(2026, 3, 27, tzinfo=UTC), [8, 8, 7, 7]),
        (datetime(2026, 10, 23, tzinfo=UTC), [7, 7, 8, 8]),
    ],
    ids=["spring forward on 29 March", "fall back on 25 October"],
)
async def test_the_schedule_keeps_nine_in_madrid_when_the_clock_changes(around: datetime, utc_hours: list[int]) -> None:
    """09:00 in Madrid every day, once a day, through both changes; each day's logical date is the day before."""
    [declared] = DAILY_JOB.schedules
    schedule = CronSchedule(cron=declared.cron, timezone=declared.timezone)
    dates = await schedule.get_dates(n=4, start=around)
    assert [moment.astimezone(UTC).hour for moment in dates] == utc_hours
    local_days = [moment.date() for moment in dates]
    assert local_days == [date(around.year, around.month, around.day + n) for n in range(4)]
    assert [day_before(moment, declared.timezone) for moment in dates[1:]] == local_days[:-1]
