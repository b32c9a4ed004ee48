"""A model of many runs that share the source's circuit: what any sequence of events must keep."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from etl import circuit
from etl.circuit import Admission, Circuit, Rule
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

RULE = Rule(
    failures_to_open=3,
    window=timedelta(seconds=100),
    open_for=timedelta(seconds=30),
    probe_for=timedelta(seconds=10),
)
START = datetime(2026, 1, 16, 9, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The circuit's own steps, or others in their place."""

    admit: Callable[[Circuit, Rule, datetime], tuple[Circuit, Admission | None]] = circuit.admit
    succeeded: Callable[[Circuit, Admission], Circuit] = circuit.succeeded
    failed: Callable[[Circuit, Admission, Rule, datetime, str], Circuit] = circuit.failed
    isolated: Callable[[Circuit, datetime, str], Circuit] = circuit.isolated
    reset: Callable[[Circuit], Circuit] = circuit.reset


class Fleet(RuleBasedStateMachine):
    """Runs that share one circuit; each admission may be reported once or never, at any later time."""

    steps: ClassVar[Steps] = Steps()
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
        after, admission = self.steps.admit(before, RULE, self.now)
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
        after = self.steps.succeeded(before, admission)
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
        after = self.steps.failed(before, admission, RULE, self.now, "SourceUnavailable")
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

    @rule()
    def a_bad_day(self) -> None:
        """As many fail, but too far apart to count together."""
        for _ in range(RULE.failures_to_open):
            self.failure(self.call())
            self.time_passes(60)

    @rule(really=st.integers(0, 3))
    def somebody_isolates(self, really: int) -> None:
        if really != 0:
            return
        self.become(self.steps.isolated(self.circuit, self.now, "by hand"))
        self.opened_at = self.now
        assert self.steps.admit(self.circuit, RULE, self.now + timedelta(days=365))[1] is None

    @rule(really=st.integers(0, 3))
    def somebody_resets(self, really: int) -> None:
        if really != 0:
            return
        self.become(self.steps.reset(self.circuit))
        assert self.circuit.state == "closed"
        self.streak = []

    @invariant()
    def only_a_half_open_circuit_has_a_probe(self) -> None:
        assert (self.circuit.probe_until is not None) == (self.circuit.state == "half-open")
        assert (self.circuit.opened_at is not None) or self.circuit.state == "closed"
