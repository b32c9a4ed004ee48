"""Bugs planted in the source's circuit, one at a time: the model of `fleet` must find each of them."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from etl import circuit
from etl.circuit import Admission, Circuit, Rule
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from .fleet import Fleet, Steps

# The same examples each time, and no search for the shortest story once one was found.
SEARCH = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def lets_a_second_probe_in(now: Circuit, rule: Rule, at: datetime) -> tuple[Circuit, Admission | None]:
    return circuit.admit(replace(now, probe_until=at) if now.state == "half-open" else now, rule, at)


def lets_many_in_under_one_probe(now: Circuit, rule: Rule, at: datetime) -> tuple[Circuit, Admission | None]:
    if now.state == "half-open":
        return now, Admission(generation=now.generation, probe=True)
    return circuit.admit(now, rule, at)


def never_lets_a_second_probe_in(now: Circuit, rule: Rule, at: datetime) -> tuple[Circuit, Admission | None]:
    return (now, None) if now.state == "half-open" else circuit.admit(now, rule, at)


def probes_too_early(now: Circuit, rule: Rule, at: datetime) -> tuple[Circuit, Admission | None]:
    return circuit.admit(now, replace(rule, open_for=rule.open_for - timedelta(seconds=1)), at)


def probes_an_isolated_circuit(now: Circuit, rule: Rule, at: datetime) -> tuple[Circuit, Admission | None]:
    return circuit.admit(replace(now, isolated=False), rule, at)


def probes_in_the_old_generation(now: Circuit, rule: Rule, at: datetime) -> tuple[Circuit, Admission | None]:
    after, admission = circuit.admit(now, rule, at)
    if admission is not None and admission.probe:
        return replace(after, generation=now.generation), replace(admission, generation=now.generation)
    return after, admission


def closes_on_a_stale_success(now: Circuit, admission: Admission) -> Circuit:
    return circuit.succeeded(now, replace(admission, generation=now.generation))


def never_forgets_a_failure(now: Circuit, admission: Admission) -> Circuit:
    return now if now.state == "closed" else circuit.succeeded(now, admission)


def never_closes(now: Circuit, admission: Admission) -> Circuit:
    return now if now.state == "half-open" else circuit.succeeded(now, admission)


def opens_on_a_stale_failure(now: Circuit, admission: Admission, rule: Rule, at: datetime, reason: str) -> Circuit:
    return circuit.failed(now, replace(admission, generation=now.generation), rule, at, reason)


def prolonged_by_a_stale_failure(now: Circuit, admission: Admission, rule: Rule, at: datetime, reason: str) -> Circuit:
    after = circuit.failed(now, admission, rule, at, reason)
    return replace(after, opened_at=at) if after.state == "open" else after


def needs_one_failure_more(now: Circuit, admission: Admission, rule: Rule, at: datetime, reason: str) -> Circuit:
    return circuit.failed(now, admission, replace(rule, failures_to_open=rule.failures_to_open + 1), at, reason)


def counts_what_is_long_ago(now: Circuit, admission: Admission, rule: Rule, at: datetime, reason: str) -> Circuit:
    return circuit.failed(now, admission, replace(rule, window=timedelta(days=365)), at, reason)


def survives_a_failed_probe(now: Circuit, admission: Admission, rule: Rule, at: datetime, reason: str) -> Circuit:
    return now if now.state == "half-open" else circuit.failed(now, admission, rule, at, reason)


def isolates_for_a_while(now: Circuit, at: datetime, reason: str) -> Circuit:
    return replace(circuit.isolated(now, at, reason), isolated=False)


def resets_without_a_new_generation(now: Circuit) -> Circuit:
    return Circuit(generation=now.generation)


PLANTED = [
    Steps(admit=lets_a_second_probe_in),
    Steps(admit=lets_many_in_under_one_probe),
    Steps(admit=never_lets_a_second_probe_in),
    Steps(admit=probes_too_early),
    Steps(admit=probes_an_isolated_circuit),
    Steps(admit=probes_in_the_old_generation),
    Steps(succeeded=closes_on_a_stale_success),
    Steps(succeeded=never_forgets_a_failure),
    Steps(succeeded=never_closes),
    Steps(failed=opens_on_a_stale_failure),
    Steps(failed=prolonged_by_a_stale_failure),
    Steps(failed=needs_one_failure_more),
    Steps(failed=counts_what_is_long_ago),
    Steps(failed=survives_a_failed_probe),
    Steps(isolated=isolates_for_a_while),
    Steps(reset=resets_without_a_new_generation),
]


def changed(steps: Steps) -> str:
    [name] = [step.__name__ for step in vars(steps).values() if step.__module__ == __name__]
    return name


@pytest.mark.parametrize("planted", PLANTED, ids=changed)
def test_a_bug_in_the_circuit_is_found(planted: Steps) -> None:
    """By runs that share it."""
    machine = type("Planted", (Fleet,), {"steps": planted})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=SEARCH)


def test_the_search_finds_nothing_where_nothing_is_planted() -> None:
    """The same examples."""
    run_state_machine_as_test(Fleet, settings=settings(SEARCH, max_examples=100))
