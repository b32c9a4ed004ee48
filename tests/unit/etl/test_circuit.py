"""The breaker's state machine, under any sequence of calls, late results, pauses and hands."""

from datetime import UTC, datetime, timedelta

import pytest
from etl.circuit import Admission, Circuit, Rule, admit, failed, isolated, probe_due, reset, succeeded
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

RULE = Rule(
    failures_to_open=3,
    window=timedelta(seconds=100),
    open_for=timedelta(seconds=30),
    probe_for=timedelta(seconds=10),
)
START = datetime(2026, 1, 16, 9, tzinfo=UTC)


class Fleet(RuleBasedStateMachine):
    """Runs that share one circuit; each admission may be reported once or never, at any later time."""

    admissions = Bundle("admissions")

    def __init__(self) -> None:
        super().__init__()
        self.circuit = Circuit()
        self.now = START
        self.streak: list[datetime] = []
        self.probes: list[tuple[Admission, datetime]] = []
        self.opened_at = START

    def become(self, after: Circuit) -> None:
        assert after.generation >= self.circuit.generation
        if after.state != self.circuit.state:
            assert after.generation > self.circuit.generation
            self.streak = []
            if after.state == "open":
                self.opened_at = self.now
        self.circuit = after

    # the rule's own times, and what lies just beside them
    @rule(seconds=st.sampled_from([0, 1, 9, 10, 29, 30, 101]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(target=admissions)
    def call(self) -> Admission | None:
        before = self.circuit
        after, admission = admit(before, RULE, self.now)
        if before.state == "closed":
            assert admission == Admission(generation=before.generation, probe=False)
        elif admission is not None:
            assert not before.isolated
            assert admission.probe
            assert before.state == "half-open" or self.now >= self.opened_at + RULE.open_for
            assert all(self.now >= until for probe, until in self.probes if probe.generation == before.generation)
            self.probes.append((admission, self.now + RULE.probe_for))
        else:
            assert after == before
            due = self.opened_at + RULE.open_for
            if before.state == "half-open":
                due = self.probes[-1][1]
            assert before.isolated or self.now < due
        self.become(after)
        return admission

    @rule(admission=admissions)
    def success(self, admission: Admission | None) -> None:
        if admission is None:
            return
        before = self.circuit
        after = succeeded(before, admission)
        if admission.generation != before.generation:
            assert after == before
        else:
            assert after.state == "closed"
            self.streak = []
        self.become(after)

    @rule(admission=admissions)
    def failure(self, admission: Admission | None) -> None:
        if admission is None:
            return
        before = self.circuit
        after = failed(before, admission, RULE, self.now, "SourceUnavailable")
        if admission.generation != before.generation:
            assert after == before
        elif admission.probe:
            assert after.state == "open"
        else:
            self.streak.append(self.now)
            recent = [at for at in self.streak if at > self.now - RULE.window]
            assert (after.state == "open") == (len(recent) >= RULE.failures_to_open)
        self.become(after)

    @rule()
    def an_outage(self) -> None:
        """As many calls as it takes fail, as they do when the source is down."""
        for _ in range(RULE.failures_to_open):
            self.failure(self.call())

    @rule(really=st.integers(0, 3))
    def somebody_isolates(self, really: int) -> None:
        if really != 0:
            return
        self.become(isolated(self.circuit, self.now, "by hand"))
        self.opened_at = self.now
        assert admit(self.circuit, RULE, self.now + timedelta(days=365))[1] is None

    @rule(really=st.integers(0, 3))
    def somebody_resets(self, really: int) -> None:
        if really != 0:
            return
        self.become(reset(self.circuit))
        assert self.circuit.state == "closed"
        self.streak = []

    @invariant()
    def only_a_half_open_circuit_has_a_probe(self) -> None:
        assert (self.circuit.probe_until is not None) == (self.circuit.state == "half-open")
        assert (self.circuit.opened_at is not None) or self.circuit.state == "closed"


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
