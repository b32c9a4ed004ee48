"""Every category of checks, in the order in which they are told."""

from collections.abc import Iterable

from pipelines_client.doctor import cluster, machine, pipelines, pods, prefect, release, runs, service, wiring
from pipelines_client.doctor.checks import Category, Check, Side, When

CATEGORIES: tuple[Category, ...] = (
    machine.CATEGORY,
    cluster.CATEGORY,
    release.CATEGORY,
    pods.CATEGORY,
    wiring.CATEGORY,
    service.CATEGORY,
    prefect.CATEGORY,
    runs.CATEGORY,
    pipelines.CATEGORY,
)
CHECKS: dict[str, Check] = {check.id: check for category in CATEGORIES for check in category.checks}
SIDES: dict[str, Side] = {check.id: category.side for category in CATEGORIES for check in category.checks}


def chosen(*, before: bool, sides: frozenset[Side], only: Iterable[str] = ()) -> list[Check]:
    """The checks to make: before an install or after, of these sides, of these categories (of all, where none)."""
    wanted = {When.BEFORE, When.BOTH} if before else {When.INSTALLED, When.BOTH}
    names = set(only) or {category.name for category in CATEGORIES}
    return [
        check
        for category in CATEGORIES
        for check in category.checks
        if check.when in wanted and category.side in sides and category.name in names
    ]


def with_needs(checks: Iterable[Check]) -> list[Check]:
    """The checks, and those without which they say nothing, in the order of all."""
    found = {check.id for check in checks}
    left = list(found)
    while left:
        missing = set(CHECKS[left.pop()].needs) - found
        found |= missing
        left += missing
    return [check for check in CHECKS.values() if check.id in found]
