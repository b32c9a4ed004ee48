"""`pipelines doctor`: what is wrong with the platform, here or in the cluster, and the command that mends it."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipelines_client.doctor.catalogue import chosen, with_needs
from pipelines_client.doctor.checks import Category, Check, Result, Side
from pipelines_client.doctor.report import Lines, document, in_order
from pipelines_client.doctor.running import RUN_SECONDS, SECONDS, Outcome, run
from pipelines_client.doctor.sights import Sights
from pipelines_client.doctor.sights.cluster import ClusterSight
from pipelines_client.doctor.sights.machine import MachineSight
from pipelines_client.doctor.sights.service import ServiceSight
from pipelines_client.errors import Code
from pipelines_client.screen import Screen

FIRST = "machine"
URL = "PIPELINES_URL"
ALIVE = {"status": "alive"}


def doctor(
    screen: Screen,
    *,
    url: str | None,
    context: str | None,
    namespace: str | None,
    before: bool,
    only: Sequence[str],
    short: bool,
    seconds: float | None = None,
) -> Code:
    """Make the checks and tell what they found; the code says whether one failed.

    `before`: what can be known before an install. `only`: of these categories. `short`: only what did not pass.
    `seconds`: how long all of it may take.
    """
    patience = (seconds or SECONDS) / SECONDS
    ends = time.monotonic() + RUN_SECONDS * patience
    lines = Lines(screen.styled, short=short)
    if not screen.as_json and not short and not before and FIRST in (only or [FIRST]):
        lines.title(FIRST)  # at once: what talks to others takes a moment to load
    with looking(url=url, context=context, namespace=namespace, before=before) as (sights, sides):
        found = told(sights, chosen(before=before, sides=sides, only=only), ends=ends, patience=patience)
        if screen.as_json:
            shown = document(found)
            screen.document(shown.model_dump(mode="json"))
            return Code.OK if shown.success else Code.ERROR
        for category, outcome in found:
            lines.told(category, outcome)
        lines.over()
    return Code.ERROR if lines.counts[Result.ERROR] else Code.OK


def told(
    sights: Sights, checks: Sequence[Check], *, ends: float, patience: float = 1.0
) -> Iterator[tuple[Category, Outcome]]:
    """What became of the checks, and of those without which they say nothing where these did not pass.

    `ends`, of time.monotonic: what is not done by then has failed. `patience` multiplies each check's own time.
    """
    asked = {check.id for check in checks}
    every = with_needs(checks)
    for category, outcome in in_order(every, run(every, sights, seconds=ends - time.monotonic(), patience=patience)):
        if outcome.check.id in asked or outcome.result is not Result.SUCCESS:
            yield category, outcome


@contextmanager
def looking(
    *, url: str | None, context: str | None, namespace: str | None, before: bool = False
) -> Iterator[tuple[Sights, frozenset[Side]]]:
    """What is looked at, and of which sides, while the block lasts: as the other commands find the API.

    A platform that runs on this machine comes before the cluster; where neither is there, `make dev` is what is meant.
    """
    from pipelines_client.place import Wanted  # noqa: PLC0415 -- the first line does not wait for it

    machine = MachineSight()
    named = url or os.environ.get(URL)
    here = not (named or context or namespace or before) and _runs_here(machine)
    in_cluster = before or bool(context or namespace) or (not (named or here) and _knows_a_cluster())
    machine.wanted = not (named or in_cluster or here)
    service = ServiceSight(Wanted(url=url, context=context, namespace=namespace))
    sights = Sights(
        machine=machine,
        cluster=ClusterSight(context=context, namespace=namespace),
        service=service,
        in_cluster=in_cluster,
        before=before,
    )
    sides = {Side.CLUSTER} if before else {Side.MACHINE, Side.SERVICE} | ({Side.CLUSTER} if in_cluster else set())
    try:
        yield sights, frozenset(sides)
    finally:
        service.close()


def _runs_here(machine: MachineSight) -> bool:
    """Whether the orchestrator answers where make dev has it."""
    return machine.listens(machine.ports.api) and machine.told(machine.ports.api, "/healthz") == ALIVE


def _knows_a_cluster() -> bool:
    """Whether there is a kubeconfig."""
    files = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    return any(Path(one).is_file() for one in files.split(os.pathsep) if one)
