"""The rules about runs, without a database and without Prefect."""

import time
from datetime import UTC, date, datetime
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orchestrator import runs
from orchestrator.errors import EngineConfused, InvalidRequest
from orchestrator.runs import TERMINAL, Facts, FlowRun, Schedule, State

from .wire import DEPLOYMENT, SCHEMA

MADRID = ZoneInfo("Europe/Madrid")
PREFECT_STATES = ["SCHEDULED", "PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "CRASHED", "PAUSED"]


def facts(**more: Any) -> Facts:
    return Facts(
        **{
            "deployment": DEPLOYMENT,
            "deployment_id": uuid4(),
            "flow": "daily_job",
            "parameter_schema": SCHEMA,
            "defaults": {},
            "schedules": (Schedule(cron="0 9 * * *", timezone="Europe/Madrid"),),
            "paused": False,
        }
        | more
    )


def test_prefects_states_are_all_known_and_no_other() -> None:
    """Each of Prefect's nine state types has its name; an unlisted one is not guessed at."""
    assert {State.of(name) for name in (*PREFECT_STATES, "CANCELLING")} == set(State)
    for unknown in ("BLOCKED", "running", "", "Running"):
        with pytest.raises(EngineConfused, match="does not know"):
            State.of(unknown)


@given(st.sampled_from(State), st.sampled_from(State))
def test_only_a_crash_is_taken_back(before: State, later: State) -> None:
    """From an end nothing leads on, but for Crashed, which Prefect itself takes back."""
    assert before.may_become(later) == (
        before not in TERMINAL or (before is State.CRASHED and later is not State.CRASHED)
    )


@pytest.mark.parametrize(
    ("now", "day"),
    [
        ("2026-03-29T00:30:00+00:00", "2026-03-28"),  # 01:30 in Madrid, half an hour before the clocks go forward
        ("2026-03-29T01:30:00+00:00", "2026-03-28"),  # 03:30 in Madrid, after it
        ("2026-10-25T00:30:00+00:00", "2026-10-24"),  # the hour that comes twice
        ("2026-06-30T22:15:00+00:00", "2026-06-30"),  # already 1 July in Madrid
    ],
)
def test_the_default_day_is_yesterday_where_the_schedule_is(now: str, day: str) -> None:
    """Yesterday is counted in the schedule's timezone, also on the days its clocks change."""
    assert runs.logical_date(None, zone=MADRID, now=datetime.fromisoformat(now)).isoformat() == day


def test_today_is_a_day_and_tomorrow_is_not_yet() -> None:
    """Today is judged in the schedule's timezone."""
    now = datetime(2026, 6, 30, 22, 15, tzinfo=UTC)
    assert runs.logical_date("2026-07-01", zone=MADRID, now=now) == date(2026, 7, 1)
    with pytest.raises(InvalidRequest, match="latest is today, 2026-07-01 in Europe/Madrid"):
        runs.logical_date("2026-07-02", zone=MADRID, now=now)


NOT_DATES = ["", "yesterday", "20260301", "2026-W09-1", "2026-3-1", "2026-02-30", "0000-01-01", "2026-03-01T00:00:00"]


@pytest.mark.parametrize("text", [*NOT_DATES, " 2026-03-01", "2026-03-01\n", "\u0662\u0660\u0662\u0666-03-01"])
def test_what_is_not_a_date_is_refused(text: str) -> None:
    """Only YYYY-MM-DD of a day in the calendar is a date."""
    with pytest.raises(InvalidRequest, match="logical_date"):
        runs.logical_date(text, zone=MADRID)


def test_parameters_are_sent_with_the_day() -> None:
    """What is sent is what was given and the logical date, without the defaults: those are the deployment's."""
    sent = runs.parameters(facts(defaults={"sample": 2}), {"note": "a"}, date(2026, 3, 1))
    assert sent == {"note": "a", "logical_date": "2026-03-01"}


def test_a_flow_without_a_logical_date_is_not_sent_one() -> None:
    """Prefect would refuse a parameter that the flow does not take."""
    schema = {"type": "object", "properties": {"note": {"type": "string"}}}
    assert runs.parameters(facts(parameter_schema=schema), {}, date(2026, 3, 1)) == {}


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"sample": 0}, r"parameters\.sample: 0 is less than the minimum of 1"),
        ({"sample": "3"}, r'parameters\.sample: "3" is not of type "integer"'),
        ({"since": "yesterday"}, r'parameters\.since: "yesterday" is not a "date"'),
        ({"carriers": ["UA", 7]}, r'parameters\.carriers\.1: 7 is not of type "string"'),
        ({"sampel": 3}, r"parameters\.sampel is not a parameter of daily_job; it takes: carriers, note, options"),
        ({"logical_date": "2026-03-01"}, "beside parameters"),
        ({"note": "{{ prefect.variables.token }}"}, r"parameters\.note holds a template"),
        ({"note": "{% for a in b %}"}, "template"),
        ({"options": {"a": [{"{{b}}": 1}]}}, "template"),
        ({"options": {"__prefect_kind": "workspace_variable", "variable_name": "token"}}, "__prefect_kind"),
        ({"options": {"deep": [{"__prefect_kind": "jinja", "template": "x"}]}}, "__prefect_kind"),
        ({"options": {"a": {"$ref": {"block_document_id": "0b5f0ac8-9a0e-4b8e-9a3b-6f0f6f1f6a11"}}}}, "Prefect block"),
        ({"options": {"$ref": "aws-credentials/production"}}, "Prefect block"),
        ({"options": {"a": float("nan")}}, "finite"),
        ({"sample": 2**63}, "64 bits"),
        ({"options": {"a": [-(2**64)]}}, "64 bits"),
        ({"options": {"a": 1e20}}, "64 bits"),
        ({"note": "a\x00b"}, "NUL"),
        ({"note": "\ud800"}, "surrogate"),
    ],
)
def test_parameters_that_cannot_be_sent_are_named(given: dict[str, Any], complaint: str) -> None:
    """The complaint names the parameter and what is wrong with it."""
    with pytest.raises(InvalidRequest, match=complaint):
        runs.parameters(facts(), given, date(2026, 3, 1))


def test_nesting_has_an_end() -> None:
    """A value nested too deeply is refused before anything recurses into it."""
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    with pytest.raises(InvalidRequest, match="nested"):
        runs.parameters(facts(), {"options": {"a": deep}}, date(2026, 3, 1))


def test_a_required_parameter_may_come_from_the_deployment() -> None:
    """The deployment's own values count as given, templates among them, which Prefect fills in."""
    schema = SCHEMA | {"required": ["sample"]}
    with pytest.raises(InvalidRequest, match='"sample" is a required property'):
        runs.parameters(facts(parameter_schema=schema), {}, date(2026, 3, 1))
    template = {"__prefect_kind": "workspace_variable", "variable_name": "sample"}
    runs.parameters(facts(parameter_schema=schema, defaults={"sample": template}), {}, date(2026, 3, 1))


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(?=a)((a|aa)+)\\1$", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_a_pattern_cannot_hold_up_the_service(pattern: str) -> None:
    """A pattern whose ways to fail double with each letter is given up or decided, on all the text a body can hold."""
    schema = {"type": "object", "properties": {"note": {"type": "string", "pattern": pattern}}}
    began = time.process_time()
    with pytest.raises(InvalidRequest, match=r"parameters\.note"):
        runs.parameters(facts(parameter_schema=schema), {"note": "a" * 60_000 + "!"}, date(2026, 3, 1))
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "broken",
    [{"type": "nope"}, {"pattern": "("}, {"$ref": "#/$defs/gone"}, {"minimum": "low"}],
)
def test_a_schema_that_is_none_is_the_registrations_mistake(broken: dict[str, Any]) -> None:
    """It is named as such, and the caller is not blamed."""
    with pytest.raises(EngineConfused, match="register it again"):
        runs.parameters(facts(parameter_schema={"properties": {"note": broken}}), {"note": "a"}, date(2026, 3, 1))


def test_a_schema_that_refers_elsewhere_fetches_nothing() -> None:
    """A reference out of the schema is the registration's mistake, and is never followed."""
    schema = {"type": "object", "properties": {"note": {"$ref": "http://elsewhere.test/schema.json"}}}
    with pytest.raises(EngineConfused, match="register it again"):
        runs.parameters(facts(parameter_schema=schema), {"note": "a"}, date(2026, 3, 1))


def flow_run(**more: Any) -> FlowRun:
    now = datetime(2026, 3, 2, 7, 59, tzinfo=UTC)
    return FlowRun(
        **{
            "flow_run_id": uuid4(),
            "deployment_id": None,
            "idempotency_key": None,
            "origin": "schedule",
            "state": State.SCHEDULED,
            "state_name": "Scheduled",
            "message": None,
            "at": now,
            "expected_at": now,
            "started_at": None,
            "ended_at": None,
        }
        | more
    )


@pytest.mark.parametrize("given", [{}, {"logical_date": None}, {"logical_date": "2026-02-31"}, {"logical_date": 5}])
def test_an_adopted_run_is_about_the_day_before_it_was_due(given: dict[str, Any]) -> None:
    """Without a usable parameter the day is counted from when the run was due, not from when it was seen."""
    assert runs.day_of(flow_run(parameters=given), facts()) == date(2026, 3, 1)


def test_an_adopted_run_says_its_day_itself() -> None:
    """The parameter wins."""
    assert runs.day_of(flow_run(parameters={"logical_date": "2025-12-31"}), facts()) == date(2025, 12, 31)


def test_a_correlation_id_is_taken_over_only_when_it_is_one() -> None:
    """Tags are anybody's text."""
    assert flow_run(tags=("a", "correlation-id:x-1")).correlation_id == "x-1"
    strange = flow_run(tags=("correlation-id:a b\n",))
    assert strange.correlation_id == str(strange.flow_run_id)


def test_a_timezone_nobody_knows_falls_back_to_utc() -> None:
    """Dates are still counted; an inactive schedule speaks only where no active one does."""
    assert facts(schedules=(Schedule(timezone="Mars/Olympus"),)).timezone.key == "UTC"
    assert facts(schedules=()).timezone.key == "UTC"
    both = (Schedule(timezone="Asia/Tokyo", active=False), Schedule(timezone="Europe/Madrid"))
    assert facts(schedules=both).timezone.key == "Europe/Madrid"


def test_durations_are_whole_and_never_negative() -> None:
    """Clocks of three hosts meet in one run."""
    moment = datetime(2026, 3, 1, tzinfo=UTC)
    assert runs.duration_ms(moment, None) is None
    assert runs.duration_ms(None, moment) == 0
    assert runs.duration_ms(moment, datetime(2026, 3, 1, 0, 0, 1, 500_000, tzinfo=UTC)) == 1500
    assert runs.duration_ms(datetime(2026, 3, 1, 0, 0, 1, tzinfo=UTC), moment) == 0
