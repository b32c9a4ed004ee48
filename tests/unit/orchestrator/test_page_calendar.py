"""Days as they are drawn: what is missing, what is before all, and that the drawing says what the letters say."""

import re
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orchestrator.ledger.days import NONE, Days
from orchestrator.page.calendar import Calendar, Plot, in_words, monday_before, rhythm, seconds
from orchestrator.runs import Facts, Schedule

SUNDAY = date(2026, 3, 1)
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
SINCE = monday_before(NOON.date(), weeks=2)


def facts(cron: str = "0 9 * * *") -> Facts:
    return Facts(
        deployment="daily_job/daily-0900",
        deployment_id=UUID(int=1),
        flow="daily_job",
        parameter_schema={},
        defaults={},
        schedules=(Schedule(cron=cron, timezone="Europe/Madrid"),),
        paused=False,
    )


def days(letters: str, *, last: date = SUNDAY) -> Days:
    """Days up to the last, a letter each; none for a dot."""
    first = last - timedelta(days=len(letters) - 1)
    kept = [(first + timedelta(days=number), letter) for number, letter in enumerate(letters) if letter != "."]
    return Days(
        days=tuple(day for day, _ in kept), letters="".join(letter for _, letter in kept), took=(1000,) * len(kept)
    )


def drawn(found: Days, *, cron: str = "0 9 * * *", now: datetime = NOON) -> str:
    return Calendar.of(found, facts(cron), since=SINCE, now=now).letters


def test_a_day_without_a_run_is_missing_once_it_is_late() -> None:
    """Not before half an hour past its time in the schedule's timezone."""
    before = datetime(2026, 3, 2, 8, 20, tzinfo=UTC)  # 09:20 in Madrid
    assert drawn(days("CC."), now=before).endswith("CC.")
    assert drawn(days("CC."), now=before + timedelta(minutes=20)).endswith("CCM")


def test_days_on_which_the_schedule_makes_none_are_not_missing() -> None:
    """From Monday to Friday: the runs of Tuesday to Saturday's mornings are about other days."""
    letters = drawn(days("C......"), cron="0 9 * * mon-fri")
    assert letters[-7:] == "CMMM..M", letters


def test_days_before_the_first_run_and_an_unknown_rhythm() -> None:
    """Blank; and where nobody can say when a run was due, a day has no run rather than a missing one."""
    assert drawn(days("F..")).startswith(" " * 10)
    assert drawn(days("F.."), cron="0 9 1 * *").endswith("F..")
    assert set(drawn(NONE)) == {" "}


@pytest.mark.parametrize(
    ("cron", "weekdays"),
    [
        ("0 9 * * *", {0, 1, 2, 3, 4, 5, 6}),
        ("30 6 * * 0", {6}),
        ("30 6 * * 7", {6}),
        ("0 9 * * 1,3", {0, 2}),
        ("0 9 * * tue-thu", {1, 2, 3}),
        ("0 9 1 * *", None),
        ("0 9 * 1 *", None),
        ("0 9 * * 1#2", None),
        ("0 9 * * 5-1", None),
        ("@daily", None),
    ],
)
def test_the_weekdays_of_a_schedule(cron: str, weekdays: set[int] | None) -> None:
    """As cron counts them, Sunday first and last; what is not known is nothing."""
    found = rhythm([Schedule(cron=cron)])
    assert (set(found.weekdays) if found else None) == weekdays


@settings(deadline=None)
@given(st.text("CDFXRM. ", min_size=1, max_size=371))
def test_the_drawing_of_a_year_says_what_its_letters_say(letters: str) -> None:
    """Read back cell by cell, whatever follows what."""
    calendar = Calendar(since=SINCE, letters=letters)
    read = [" "] * len(letters)
    for letter, path in calendar.paths.items():
        for column, row, length in re.findall(r"M(\d+) (\d)v(\d)", path):
            for down in range(int(length)):
                assert int(row) + down < 7
                read[int(column) * 7 + int(row) + down] = letter
    assert "".join(read) == letters


def test_durations_are_drawn_and_said() -> None:
    """Fewer than two are no line; the longest touches the top."""
    assert Plot.of(days("C")) is None
    found = Plot.of(Days(days=(SUNDAY,) * 3, letters="CFC", took=(1000, None, 90_000)))
    assert found is not None
    assert found.words == "last 2 min, median 46 s, longest 2 min"
    assert found.path == "M0 24 2 2"


def test_words_for_people() -> None:
    """A schedule and a duration as short as they can be said."""
    assert in_words(Schedule(cron="0 9 * * *", timezone="Europe/Madrid")) == "daily at 09:00 Europe/Madrid"
    assert in_words(Schedule(cron="5 9 * * 1-5")) == "1-5 at 09:05 UTC"
    assert in_words(Schedule(cron="*/5 * * * *", active=False)) == "*/5 * * * * UTC, not active"
    assert in_words(Schedule(interval=3600.0)) == "every 60 min UTC"
    assert [seconds(one) for one in (400, 12_300, 3_600_000, 9_000_000)] == ["0.4 s", "12 s", "60 min", "2.5 h"]
