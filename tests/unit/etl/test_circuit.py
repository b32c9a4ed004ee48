"""The breaker's state machine, under any sequence of calls, late results, pauses and hands."""

from datetime import timedelta

import pybreaker
import pytest
from etl import circuit
from etl.circuit import Circuit, admit, failed, isolated, probe_due, succeeded
from hypothesis import settings

from .fleet import RULE, START, Fleet

TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def opened() -> Circuit:
    present = Circuit()
    for _ in range(RULE.failures_to_open):
        present, admission = admit(present, RULE, START)
        assert admission is not None
        present = failed(present, admission, RULE, START, "down")
    assert present.state == "open"
    return present


def test_old_failures_do_not_count() -> None:
    """Two failures long ago and one now leave the circuit closed."""
    present, admission = admit(Circuit(), RULE, START)
    assert admission is not None
    for seconds in (0, 1, 101):
        present = failed(present, admission, RULE, START + timedelta(seconds=seconds), "down")
    assert present.state == "closed"


def test_a_stale_success_does_not_close() -> None:
    """A call admitted before the circuit opened comes back well, late: the circuit stays open."""
    _, early = admit(Circuit(), RULE, START)
    assert early is not None
    present = opened()
    assert succeeded(present, early) == present


def test_while_a_probe_is_under_way_nobody_else_is_let_in() -> None:
    """Until the probe's time is up, to the microsecond."""
    at = START + RULE.open_for
    present, probe = admit(opened(), RULE, at)
    assert probe is not None
    assert admit(present, RULE, at + RULE.probe_for - timedelta(microseconds=1)) == (present, None)
    assert admit(present, RULE, at + RULE.probe_for)[1] is not None


@pytest.mark.parametrize("late", ["success", "failure"])
def test_a_probe_that_took_too_long_decides_nothing(late: str) -> None:
    """After its time another probe was let in: the first one's result changes nothing."""
    at = START + RULE.open_for
    present, slow = admit(opened(), RULE, at)
    present, second = admit(present, RULE, at + RULE.probe_for)
    assert slow is not None
    assert second is not None
    after = succeeded(present, slow) if late == "success" else failed(present, slow, RULE, at, "down")
    assert after == present
    assert succeeded(present, second).state == "closed"


def test_the_pause_before_a_provided_probe_doubles() -> None:
    """With each probe that fails, up to the longest; a success begins anew; nothing is due by hand or when closed."""
    longest = timedelta(seconds=200)
    present, at = opened(), START
    pauses = []
    for _ in range(5):
        due = probe_due(present, RULE, longest=longest)
        assert due is not None
        pauses.append((due - at).total_seconds())
        present, probe = admit(present, RULE, due)
        assert probe is not None
        at = due
        present = failed(present, probe, RULE, at, "down")
    assert pauses == [30, 60, 120, 200, 200]
    present, probe = admit(present, RULE, at + timedelta(days=1))
    assert probe is not None
    assert probe_due(present, RULE, longest=longest) == at + timedelta(days=1) + RULE.probe_for
    closed = succeeded(present, probe)
    assert closed.openings == 0
    assert probe_due(closed, RULE, longest=longest) is None
    assert probe_due(isolated(closed, at, "by hand"), RULE, longest=longest) is None


def test_the_states_are_named_as_pybreaker_names_them() -> None:
    """So they are in the orchestrator, whose breaker is pybreaker's, and in what people read of both."""
    for name in ("STATE_CLOSED", "STATE_HALF_OPEN", "STATE_OPEN"):
        assert getattr(circuit, name) == getattr(pybreaker, name)
