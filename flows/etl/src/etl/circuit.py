"""What a circuit breaker becomes by what happens: values in, values out, so that every sequence can be tried.

The states' names are pybreaker's. Its machinery does not fit here: it counts in one process, lets every caller probe,
and lets a late result of an earlier state close or prolong the present one.

A generation is the stretch between two changes. A call belongs to the generation that admitted it, and its result
counts only while that generation lasts.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

# Written down here: to import pybreaker is to import a client for Redis, which takes as long as polars does.
STATE_CLOSED = "closed"
STATE_HALF_OPEN = "half-open"
STATE_OPEN = "open"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When a circuit opens, for how long, and how long its one probe may take before another is let in."""

    failures_to_open: int = 3
    window: timedelta = timedelta(hours=1)
    open_for: timedelta = timedelta(minutes=5)
    probe_for: timedelta = timedelta(minutes=3)


@dataclass(frozen=True, kw_only=True)
class Circuit:
    """A circuit at one moment.

    `failures` are the times of the failures since the last success, inside the window; `openings` counts how often it
    opened since it was last closed.
    """

    state: str = STATE_CLOSED
    generation: int = 0
    failures: tuple[datetime, ...] = ()
    opened_at: datetime | None = None
    probe_until: datetime | None = None
    isolated: bool = False
    reason: str | None = None
    openings: int = 0


@dataclass(frozen=True, kw_only=True)
class Admission:
    """The permission for one call. `probe`: on it alone depends whether the circuit closes."""

    generation: int
    probe: bool


def admit(circuit: Circuit, rule: Rule, now: datetime) -> tuple[Circuit, Admission | None]:
    """Ask for a call: None means that nothing may be sent."""
    if circuit.state == STATE_CLOSED:
        return circuit, Admission(generation=circuit.generation, probe=False)
    if circuit.isolated or now < tries_again_at(circuit, rule):
        return circuit, None
    generation = circuit.generation + 1
    probing = replace(circuit, state=STATE_HALF_OPEN, generation=generation, probe_until=now + rule.probe_for)
    return probing, Admission(generation=generation, probe=True)


def tries_again_at(circuit: Circuit, rule: Rule) -> datetime:
    """When the next probe is let in: after the pause, or when the present probe's holder counts as dead."""
    since = circuit.probe_until if circuit.state == STATE_HALF_OPEN else circuit.opened_at
    if since is None:
        raise ValueError(f"a circuit that is {circuit.state} lacks its time")
    return since if circuit.state == STATE_HALF_OPEN else since + rule.open_for


def probe_due(circuit: Circuit, rule: Rule, *, longest: timedelta) -> datetime | None:
    """When a run should be made to probe, if none comes by before; None where that would change nothing.

    The pause doubles with each failed probe, up to `longest`, so that a long outage makes few runs. Whoever comes by
    earlier, once the circuit's own pause is over, may still probe.
    """
    if circuit.opened_at is None or circuit.isolated:
        return None
    # doubled twenty times a pause is beyond any `longest`, and more would overflow
    pause = rule.open_for * (1 << min(max(circuit.openings - 1, 0), 20))
    return max(tries_again_at(circuit, rule), circuit.opened_at + min(pause, longest))


def succeeded(circuit: Circuit, admission: Admission) -> Circuit:
    """A call worked: the count begins anew, and a probe closes the circuit."""
    if admission.generation != circuit.generation:
        return circuit
    if circuit.state == STATE_HALF_OPEN:
        return Circuit(generation=circuit.generation + 1)
    return replace(circuit, failures=())


def failed(circuit: Circuit, admission: Admission, rule: Rule, now: datetime, reason: str) -> Circuit:
    """A call failed in a way that counts: the last of too many, or a probe, opens the circuit."""
    if admission.generation != circuit.generation:
        return circuit
    failures = (*(at for at in circuit.failures if at > now - rule.window), now)[-rule.failures_to_open :]
    if circuit.state == STATE_HALF_OPEN or len(failures) >= rule.failures_to_open:
        return Circuit(
            state=STATE_OPEN,
            generation=circuit.generation + 1,
            failures=failures,
            opened_at=now,
            reason=reason,
            openings=circuit.openings + 1,
        )
    return replace(circuit, failures=failures, reason=reason)


def isolated(circuit: Circuit, now: datetime, reason: str) -> Circuit:
    """Opened by hand: no probe is let in until it is reset by hand."""
    return Circuit(state=STATE_OPEN, generation=circuit.generation + 1, opened_at=now, isolated=True, reason=reason)


def reset(circuit: Circuit) -> Circuit:
    """Closed by hand; what is still under way counts no more."""
    return Circuit(generation=circuit.generation + 1)
