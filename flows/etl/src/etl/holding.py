"""What each flow on this warehouse does around its work: hold the run's claim, outlast a warehouse that is away."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import date
from typing import TypeVar

from prefect.exceptions import Abort

from etl import claim
from etl.errors import ClaimLost
from etl.identity import RunIdentity
from etl.outage import is_away

T = TypeVar("T")


async def outlast(run: RunIdentity, work: Callable[[], Awaitable[T]], *, within_seconds: float) -> T:
    """Do the work, and begin again where the warehouse went away: nothing of a lost transaction is in it.

    What was committed before the answer was lost is the work's to find, and not to write again.
    """
    given_up_at: float | None = None
    while True:
        try:
            return await work()
        except Exception as exc:
            if not is_away(exc):
                raise
            given_up_at = given_up_at or time.monotonic() + within_seconds
            if time.monotonic() >= given_up_at:
                raise
            run.log("warehouse away", reason=f"{type(exc).__name__}: {exc}")
        await asyncio.sleep(random.uniform(0.5, 2))  # noqa: S311 - not a secret: a fleet shall not return at once


@asynccontextmanager
async def claimed(run: RunIdentity, day: date | None, warehouse_url: str) -> AsyncIterator[claim.Claim]:
    """Hold the run's claim while the block runs; `day`: the date that is its alone to load, where it loads one.

    If a later attempt of this very run took over, the run's state is that attempt's to decide: whatever happened here,
    a load included, ends in Abort, on which Prefect ends the process and proposes no state.
    """
    try:
        mine = await claim.claim_date(warehouse_url, flow_run_id=run.flow_run_id, run_id=run.run_id, logical_date=day)
    except ClaimLost as exc:
        raise _standing_aside(run) from exc
    run.log("claim", fence=mine.fence)
    with claim.kept_alive(warehouse_url, mine):
        try:
            yield mine
        except Exception as exc:
            if await _is_outdated(warehouse_url, mine):
                raise _standing_aside(run) from exc
            raise
        if await _is_outdated(warehouse_url, mine):
            raise _standing_aside(run)


async def _is_outdated(warehouse_url: str, mine: claim.Claim) -> bool:
    """Whether a later attempt took over; while the warehouse cannot tell, this attempt's outcome stands."""
    try:
        return await claim.is_outdated(warehouse_url, mine)
    except claim.UNREACHABLE:
        return False


def _standing_aside(run: RunIdentity) -> Abort:
    run.log("stand aside", reason="a later attempt of this run took over")
    return Abort("a later attempt of this run took over")
