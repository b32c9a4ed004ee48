"""An attempt at a flow run, outside Prefect's engine: begin it, or hand it back.

It begins here because it cannot begin later. Prefect does not retry a process's first connection, so a server that
restarts at that moment, or a network policy that takes a second to apply, would crash the run: `begin` waits. And
Prefect lets any number of processes execute one flow run, each changing its state: a process that finds the run claimed
by another (see etl.claim), or over, has nothing to execute, and Prefect never hears of it.

Few modules are imported: this costs a tenth of a second, where Prefect takes one.
"""

import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from etl import claim, log_lines
from etl.prefect_api import PAUSE_SECONDS, ApiRefused, PrefectApi, Scheduled

# The environment variable that names the run, to Prefect too.
_RUN = "PREFECT__FLOW_RUN_ID"

# A run in one of these states is not executed again; a run that was only believed dead (Crashed) may be.
_OVER = frozenset({"COMPLETED", "FAILED", "CANCELLED"})

# A run in one of these is handed back: it waits for its process, or runs, or was left so by a process that died.
_HANDED_BACK = frozenset({"PENDING", "RUNNING", "CRASHED"})

# How long to try for a claim, at most. After that the flow, which names its failures in Prefect, tries once more.
_CLAIM_WITHIN_SECONDS = 10.0

# Must fit, with the time that etl.ending gives a flow to stop, into the 30 seconds that Kubernetes gives a pod.
_HAND_BACK_WITHIN_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A flow run that this process may execute, as it was when it was read."""

    flow_run_id: UUID
    api: PrefectApi
    run: Scheduled
    wait_seconds: float

    def claim(self) -> bool:
        """Claim the run and leave the claim in the environment; False: nothing is to be executed.

        At once after the run was read: else it may have ended, and its last holder's lease too, in between.

        Where the warehouse cannot be reached, True without a claim: the flow will take it, and name what fails.
        """
        if self.run.state_type in _OVER:
            _say("nothing to execute: the run is over", self, state_type=self.run.state_type)
            return False
        try:
            held = self._take(within_seconds=min(self.wait_seconds, _CLAIM_WITHIN_SECONDS))
        except claim.UNREACHABLE as exc:
            _say("no claim yet: the flow will take it", self, reason=f"{type(exc).__name__}: {exc}")
            return True
        if not held:
            _say("nothing to execute: another process is executing the run", self)
        return held

    def read_deployment(self) -> dict[str, Any]:
        """All that Prefect tells of the run's deployment; empty where it has none.

        Raises:
            SystemExit: the API refuses, or does not answer in time.
        """
        deployment_id = self.run.told.get("deployment_id")
        if deployment_id is None:
            return {}
        try:
            return self.api.read_deployment(
                deployment_id, flow_run_id=self.flow_run_id, within_seconds=self.wait_seconds
            )
        except (TimeoutError, ApiRefused) as exc:
            sys.exit(str(exc))

    def _take(self, *, within_seconds: float) -> bool:
        """Whether this process may execute the run; without a warehouse, yes.

        Raises:
            OSError, asyncpg's errors: see etl.claim.UNREACHABLE.
        """
        warehouse_url = os.environ.get("ETL_WAREHOUSE_URL")
        if not warehouse_url:
            return True
        deadline = time.monotonic() + within_seconds
        while True:
            try:
                claimed = asyncio.run(claim.take(warehouse_url, flow_run_id=self.flow_run_id, attempt=self.run.attempt))
            except claim.UNREACHABLE:
                if time.monotonic() >= deadline:
                    raise
            else:
                if claimed is not None:
                    os.environ[claim.TICKET] = str(claimed.fence)
                return claimed is not None
            time.sleep(PAUSE_SECONDS)


def begin() -> tuple[Attempt, dict[str, Any]] | None:
    """Wait for the API, claim the run that the environment names, and read its deployment; None: nothing to execute.

    Raises:
        SystemExit: the run cannot be executed; the text says what to set.
    """
    attempt = _read(_wait_seconds())
    return (attempt, attempt.read_deployment()) if attempt.claim() else None


def go_on(flow_run_id: UUID, *, after: Attempt) -> Attempt | None:
    """Claim a run that this process took when another was over; None: nothing to execute. The environment names it.

    Raises:
        SystemExit: the API refuses, or does not answer in time.
    """
    os.environ[_RUN] = str(flow_run_id)
    attempt = _read(after.wait_seconds)
    if not attempt.claim():
        return None
    log_lines.carry_another(attempt.run.correlation_id, before=after.run.correlation_id)
    return attempt


def hand_back() -> None:
    """Have a run that this process may execute, and that is not over, executed anew by another process.

    Raises:
        SystemExit: it could not be done; the run will be found without its process.
    """
    attempt = _read(_HAND_BACK_WITHIN_SECONDS)
    if attempt.run.state_type not in _HANDED_BACK:
        _say("nothing to hand back", attempt, state_type=attempt.run.state_type)
        return
    if _is_held_by_another(attempt):
        _say("nothing to hand back: another process is executing the run", attempt)
        return
    try:
        answer = attempt.api.schedule_again(
            attempt.flow_run_id,
            message="handed back: its process was asked to end before the flow had ended",
            within_seconds=_HAND_BACK_WITHIN_SECONDS,
        )
    except (TimeoutError, ApiRefused) as exc:
        sys.exit(str(exc))
    _say("handed back", attempt, answer=answer)


def _read(within_seconds: float) -> Attempt:
    try:
        flow_run_id = UUID(os.environ.get(_RUN, ""))
    except ValueError:
        sys.exit(f"{_RUN} is not a flow run's id: the Prefect worker sets it in the Job of a run")
    try:
        api = PrefectApi(os.environ.get("PREFECT_API_URL", ""), auth_string=os.environ.get("PREFECT_API_AUTH_STRING"))
        run = api.read_flow_run(flow_run_id, within_seconds=within_seconds)
    except (TimeoutError, ValueError, ApiRefused) as exc:
        sys.exit(str(exc))
    return Attempt(flow_run_id=flow_run_id, api=api, run=run, wait_seconds=within_seconds)


def _is_held_by_another(attempt: Attempt) -> bool:
    """While the warehouse cannot tell, no: a run executed twice does no harm, one that is lost does."""
    warehouse_url = os.environ.get("ETL_WAREHOUSE_URL")
    if not warehouse_url:
        return False
    try:
        return asyncio.run(
            claim.is_held_by_another(warehouse_url, flow_run_id=attempt.flow_run_id, attempt=attempt.run.attempt)
        )
    except claim.UNREACHABLE as exc:
        _say("the warehouse cannot tell who executes the run", attempt, reason=f"{type(exc).__name__}: {exc}")
        return False


def _wait_seconds() -> float:
    value = os.environ.get("ETL_API_WAIT_SECONDS", "60")
    try:
        return float(value)
    except ValueError:
        sys.exit(f"ETL_API_WAIT_SECONDS is {value!r}: set it to a number of seconds")


def _say(event: str, attempt: Attempt, **facts: object) -> None:
    ids = {"flow_run_id": str(attempt.flow_run_id), "correlation_id": attempt.run.correlation_id}
    line = {"timestamp": datetime.now(UTC).isoformat(), "event": event, **ids, **facts}
    sys.stderr.write(json.dumps(line) + "\n")
