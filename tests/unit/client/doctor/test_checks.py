"""Every check on both wires: it passes where all is well, and where one thing is broken, that check alone fails."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from orchestrator.catalogue import CATALOGUE
from pipelines_client.doctor.catalogue import CATEGORIES, CHECKS, chosen, with_needs
from pipelines_client.doctor.checks import OWN, REASON, Check, Result, Side, When
from pipelines_client.doctor.running import Outcome, run
from pipelines_client.doctor.runs import PASSING
from pipelines_client.doctor.sights import Sights
from pipelines_client.doctor.sights.cluster import ClusterSight
from pipelines_client.doctor.sights.machine import MachineSight
from pipelines_client.doctor.sights.service import ServiceSight
from pipelines_client.place import Wanted

from ..running import ROOT
from .breaks import BREAKS, GOOD, VARIANTS, Break, Moved, Place, broken

EVERY = frozenset(Side)
BUSY = 120.0  # a busy machine makes no check late here: deadlines are a test's of their own


@contextmanager
def looking(place: Place) -> Iterator[Sights]:
    """What the checks look at, of that place."""
    service = ServiceSight(Wanted(url=place.wires.api))
    try:
        yield Sights(
            machine=MachineSight(folder=place.checkout, ports=place.ports),
            cluster=ClusterSight(context="here", namespace="pipelines"),
            service=service,
            in_cluster=True,
        )
    finally:
        service.close()


def made(place: Place, *, before: bool = False) -> dict[str, Outcome]:
    """What becomes of all checks that are about something there."""
    with looking(place) as sights:
        found = dict(run(chosen(before=before, sides=EVERY), sights, seconds=BUSY, patience=BUSY))
    return {name: outcome for name, outcome in found.items() if outcome is not None}


def bad(outcomes: dict[str, Outcome]) -> dict[str, Outcome]:
    """Those that did not pass."""
    return {name: one for name, one in outcomes.items() if one.result is not Result.SUCCESS}


def dependents(check: str) -> set[str]:
    """Those that say nothing without it."""
    found = {check}
    while True:
        more = {one.id for one in CHECKS.values() if found & set(one.needs)} - found
        if not more:
            return found - {check}
        found |= more


def test_where_all_is_well_every_check_passes(place: Place) -> None:
    """All of them are about something there, after an install and before it."""
    before = made(place, before=True)
    after = made(place)
    assert {name: one.error for name, one in bad(before | after).items()} == {}
    assert set(before) | set(after) == set(CHECKS)
    assert set(before) - set(after) == {one.id for one in CHECKS.values() if one.when is When.BEFORE}
    assert {method for method, path in place.wires.asked if "selfsubjectaccessreviews" not in path} == {"GET"}


@pytest.mark.parametrize("check", CHECKS.values(), ids=lambda check: check.id)
def test_what_is_broken_is_told_by_its_check_alone(place: Place, check: Check) -> None:
    """With the evidence and a command to paste; what depends on it is not looked at, and everything else passes."""
    one = BREAKS[check.id]
    with broken(one, place):
        found = bad(made(place, before=check.when is When.BEFORE))
    told = found.pop(check.id)
    assert one.says in (told.error or "")
    assert told.result is (Result.WARNING if one.warning else Result.ERROR)
    assert told.hint
    assert not re.search(r"[{}]", told.hint.replace('{"', "").replace('"}', "").replace("}]", "").replace("[{", "")), (
        told.hint
    )
    skipped = set() if one.warning else dependents(check.id)
    also = {name: outcome.error for name, outcome in found.items() if name not in skipped}
    assert set(also) == one.also, also
    assert {found[name].result for name in skipped & set(found)} <= {Result.SKIPPED}


def alone(place: Place, check: str) -> Outcome | None:
    """What becomes of one check, and of what it needs."""
    with looking(place) as sights:
        return dict(run(with_needs([CHECKS[check]]), sights, seconds=BUSY, patience=BUSY))[check]


@pytest.mark.parametrize(("check", "one"), VARIANTS)
def test_it_is_told_however_it_is_broken(place: Place, check: str, one: Break) -> None:
    """In the same words as by the table, with what is different."""
    with broken(one, place):
        told = alone(place, check)
    assert told is not None
    assert one.says in (told.error or "")
    assert told.result is (Result.WARNING if one.warning else Result.ERROR)


@pytest.mark.parametrize(("check", "moved"), GOOD)
def test_what_only_looks_broken_passes(place: Place, check: str, moved: Moved) -> None:
    """A false alarm is worse than none."""
    moved(place)
    told = alone(place, check)
    assert told is None or told.result is Result.SUCCESS, told


def test_a_port_in_the_way_fails_where_make_dev_is_meant(place: Place) -> None:
    """And is only a warning beside a platform that runs; the hint names another port for the one that is taken."""
    with broken(BREAKS["PL302"], place), looking(place) as sights:
        sights.machine.wanted = True
        told = dict(run([CHECKS["PL302"]], sights, seconds=BUSY, patience=BUSY))["PL302"]
    assert told is not None
    assert told.result is Result.ERROR
    assert told.hint == f"make dev SOURCE_PORT={place.ports.source + 1}"


def test_the_namespace_is_the_releases(place: Place) -> None:
    """Where it is found in another than the context's: that one's PodSecurity counts, and commands name it."""
    for one in (*place.wires.objects["services"], *place.wires.objects["namespaces"]):
        one["metadata"] |= {"namespace": "elsewhere"} if "namespace" in one["metadata"] else {"name": "elsewhere"}
    place.wires.of("namespaces", "elsewhere")["metadata"]["labels"] = {}
    with looking(place) as sights:
        found = replace(sights, cluster=ClusterSight(context="here"))
        told = dict(run([CHECKS[name] for name in ("PL310", "PL311", "PL314")], found, seconds=BUSY, patience=BUSY))
    assert told["PL314"] is not None
    assert told["PL314"].error == "namespace elsewhere enforces no level, not restricted"
    assert (told["PL314"].hint or "").startswith(
        "kubectl --context here --namespace elsewhere label namespace elsewhere"
    )


def test_every_check_is_in_the_table() -> None:
    """And every id is one check's."""
    assert set(BREAKS) == set(CHECKS)
    assert len(CHECKS) == sum(len(category.checks) for category in CATEGORIES) >= 25


def test_ids_are_those_of_reasons_and_alerts() -> None:
    """A reason's id, an alert's name, or one of the doctor's own range, that no reason has."""
    alerts = {path.stem for path in (ROOT / "charts" / "pipelines" / "alerts").glob("*.yaml")}
    for name in CHECKS:
        assert (name in CATALOGUE) + (name in alerts) + bool(OWN.fullmatch(name)) == 1, name
        assert bool(REASON.fullmatch(name)) is (name in CATALOGUE)
    assert not [name for name in CATALOGUE if OWN.fullmatch(name)]
    assert {kind.id for kind in CATALOGUE.values() if kind.goes_on} == PASSING
