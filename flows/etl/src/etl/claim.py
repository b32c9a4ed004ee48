"""Who executes a flow run, and whose load of a day counts: the warehouse's table `claims`.

Kubernetes and Prefect may both start a run twice. So whoever begins takes a claim, a row whose `fence` is larger than
every earlier one, and holds it under a lease that a heartbeat renews. Two questions are answered from these rows.

*May this process execute the run at all?* (`take`, before Prefect hears of the process.) No, where another process
holds a live lease on the same attempt. An attempt is known by when Prefect last scheduled the run: a second pod of one
attempt sees the same moment, while a rerun (by hand, after an eviction, after a crash) was scheduled anew and takes
over at once, whatever the lease says. Prefect's run_count cannot tell the two apart: it grows with every process that
enters Running. A lease that ran out belongs to a dead holder, and its attempt may be taken up again.

*May this load be written?* (`SUPERSEDED_BY`, inside the load's transaction.) Only while no larger fence exists for the
logical date or for the flow run. A holder that was given up for dead and wakes up late therefore writes nothing,
and of two runs of one date the one that claimed last wins.
"""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

import asyncpg

from etl.errors import ClaimLost

# The environment variable in which `python -m etl.start` hands its claim's fence to the flow.
TICKET = "ETL_CLAIM"

# From the claim to the flow's first heartbeat Prefect is loaded, on a busy node in tens of seconds.
STARTUP_LEASE_SECONDS = 120.0
LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 10.0

_CONNECT_SECONDS = 5.0
_STATEMENT_SECONDS = 10.0

# What keeps a claim on the warehouse from being read or written for now; a later try may do better. The last is what
# asyncpg raises where a connection ends in the moment in which it is used.
UNREACHABLE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# The newest claim that outdates fence $1 of flow run $2 for the date $3; no row: the claim holds.
SUPERSEDED_BY = (
    "SELECT fence, flow_run_id::text, holder FROM claims"
    " WHERE fence > $1 AND (flow_run_id = $2::uuid OR logical_date = $3::date) ORDER BY fence DESC LIMIT 1"
)

_TAKE = (
    "INSERT INTO claims (flow_run_id, attempt, holder, lease_until)"
    " VALUES ($1, coalesce($2, clock_timestamp()), $3, clock_timestamp() + make_interval(secs => $4)) RETURNING fence"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to execute `flow_run_id` and to load its date, until a claim with a larger fence exists."""

    fence: int
    flow_run_id: UUID


def lost(claim: Claim, newer: tuple[int, str, str], *, logical_date: date | None) -> ClaimLost:
    """The error for a claim that SUPERSEDED_BY found outdated by the row `newer`."""
    fence, flow_run_id, holder = newer
    own = flow_run_id == str(claim.flow_run_id)
    by = "a later attempt of this run" if own else f"the later flow run {flow_run_id}"
    what = logical_date or "the run"
    return ClaimLost(
        f"{what} was claimed by {by} (fence {fence}, {holder}) after this one (fence {claim.fence});"
        " nothing of this one was written, look at the later one"
    )


async def take(warehouse_url: str, *, flow_run_id: UUID, attempt: datetime) -> Claim | None:
    """Claim a flow run for this process; None where another process is executing this attempt or a later one.

    Args:
        warehouse_url: postgresql://…
        flow_run_id: Prefect's id of the run.
        attempt: when Prefect last scheduled the run.

    Raises:
        OSError, asyncpg's errors: see UNREACHABLE; nothing was claimed.
    """
    async with connected(warehouse_url) as connection, connection.transaction():
        await _one_at_a_time(connection, flow_run_id)
        held = await connection.fetchval(
            "SELECT lease_until > clock_timestamp() AND attempt >= $2 FROM claims"
            " WHERE flow_run_id = $1 ORDER BY fence DESC LIMIT 1",
            flow_run_id,
            attempt,
        )
        if held:
            return None
        fence = await connection.fetchval(_TAKE, flow_run_id, attempt, _holder(), STARTUP_LEASE_SECONDS)
    return Claim(fence=fence, flow_run_id=flow_run_id)


async def is_held_by_another(warehouse_url: str, *, flow_run_id: UUID, attempt: datetime) -> bool:
    """Whether another process, not this one, is executing this attempt at a flow run or a later one.

    Raises:
        OSError, asyncpg's errors: see UNREACHABLE.
    """
    async with connected(warehouse_url) as connection:
        held = await connection.fetchval(
            "SELECT lease_until > clock_timestamp() AND attempt >= $2 AND holder <> $3 FROM claims"
            " WHERE flow_run_id = $1 ORDER BY fence DESC LIMIT 1",
            flow_run_id,
            attempt,
            _holder(),
        )
    return bool(held)


async def claim_date(warehouse_url: str, *, flow_run_id: UUID, run_id: UUID, logical_date: date | None) -> Claim:
    """Extend the claim that etl.start handed over to the run's logical date; None: it loads none.

    A process that was started otherwise (a laptop's process worker) has none and takes one here. It has entered Running
    already, so it cannot stand back: it takes over, and whoever held the run before loses it.

    Raises:
        ClaimLost: a later attempt of this flow run has claimed it.
        OSError, asyncpg's errors: see UNREACHABLE.
    """
    async with connected(warehouse_url) as connection, connection.transaction():
        await _one_at_a_time(connection, flow_run_id)
        fence = await connection.fetchval(
            "SELECT fence FROM claims WHERE fence = $1 AND flow_run_id = $2", _ticket(), flow_run_id
        )
        if fence is None:
            fence = await connection.fetchval(_TAKE, flow_run_id, None, _holder(), LEASE_SECONDS)
        claim = Claim(fence=fence, flow_run_id=flow_run_id)
        newer = await connection.fetchrow(SUPERSEDED_BY, fence, flow_run_id, None)
        if newer is not None:
            raise lost(claim, tuple(newer), logical_date=logical_date)
        await connection.execute(
            "UPDATE claims SET run_id = $2, logical_date = $3,"
            " lease_until = clock_timestamp() + make_interval(secs => $4) WHERE fence = $1",
            fence,
            run_id,
            logical_date,
            LEASE_SECONDS,
        )
    return claim


async def is_outdated(warehouse_url: str, claim: Claim) -> bool:
    """Whether a later attempt of the same flow run has claimed it.

    Raises:
        OSError, asyncpg's errors: see UNREACHABLE.
    """
    async with connected(warehouse_url) as connection:
        return await connection.fetchrow(SUPERSEDED_BY, claim.fence, claim.flow_run_id, None) is not None


@contextmanager
def kept_alive(
    warehouse_url: str, claim: Claim, *, every_seconds: float = HEARTBEAT_SECONDS, lease_seconds: float = LEASE_SECONDS
) -> Iterator[None]:
    """Renew the claim's lease while the block runs.

    A thread does it, so that a step which blocks the event loop does not let the lease run out. A warehouse that is
    away for a moment is tried again at the next beat; a lapsed lease only lets another process in.
    """
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(every_seconds):
            try:
                asyncio.run(_renew(warehouse_url, claim, lease_seconds))
            except UNREACHABLE as exc:
                _log.warning("the claim's lease was not renewed: %s: %s", type(exc).__name__, exc)

    thread = threading.Thread(target=beat, name="claim-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


async def _renew(warehouse_url: str, claim: Claim, lease_seconds: float) -> None:
    async with connected(warehouse_url) as connection:
        await connection.execute(
            "UPDATE claims SET lease_until = clock_timestamp() + make_interval(secs => $2) WHERE fence = $1",
            claim.fence,
            lease_seconds,
        )


@asynccontextmanager
async def connected(warehouse_url: str) -> AsyncIterator["asyncpg.Connection"]:
    """A connection to the warehouse for a few short statements; see UNREACHABLE for what it raises."""
    connection = await asyncpg.connect(warehouse_url, timeout=_CONNECT_SECONDS, command_timeout=_STATEMENT_SECONDS)
    try:
        yield connection
    finally:
        await connection.close(timeout=_CONNECT_SECONDS)


async def _one_at_a_time(connection: "asyncpg.Connection", flow_run_id: UUID) -> None:
    """Let the claims of one flow run be looked at and made by one process at a time, until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"claim {flow_run_id}")


def _ticket() -> int | None:
    ticket = os.environ.get(TICKET, "")
    return int(ticket) if ticket.isdecimal() else None


def _holder() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
