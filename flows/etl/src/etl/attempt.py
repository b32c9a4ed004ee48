"""An attempt at a flow run while Prefect's own code is not there yet: begin it, or hand it back.

This happens here because it cannot happen later. Prefect does not retry a process's first connection, so a server that
restarts at that moment, or a network policy that takes a second to apply, would crash the run: `begin` waits. And
Prefect lets any number of processes execute one flow run, each changing its state: a process that finds the run claimed
by another (see etl.claim), or over, has nothing to execute, and Prefect never hears of it.

SIGTERM may come before Prefect listens; then `python -m etl.attempt`, which etl.start becomes, hands the run back.

Few modules are imported: this costs a tenth of a second, where Prefect's client takes two.
"""

import asyncio
import json
import os
import sys
import time
from datetime import UTC, datetime
from uuid import UUID

from etl import claim
from etl.prefect_api import PAUSE_SECONDS, ApiRefused, PrefectApi, Scheduled

# A run in one of these states is not executed again; a run that was only believed dead (Crashed) may be.
_OVER = frozenset({"COMPLETED", "FAILED", "CANCELLED"})

# A run in one of these is handed back: it waits for its process, or was left so by an earlier process that died.
_HANDED_BACK = frozenset({"PENDING", "RUNNING", "CRASHED"})

# Prefect's own formats, with the correlation id at the end; its ids have no character that a format would expand.
_LOG_FORMATS = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FORMAT": "%(name)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "Flow run %(flow_run_name)r",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "Task run %(task_run_name)r",
}

# How long to try for a claim, at most. After that the flow, which names its failures in Prefect, tries once more.
_CLAIM_WITHIN_SECONDS = 10.0

# All of handing back must fit into the 30 seconds that Kubernetes gives a pod by default.
_HAND_BACK_WITHIN_SECONDS = 10.0


def begin() -> bool:
    """Wait for the API, then claim the run and leave the claim in the environment; False: nothing is to be executed.

    What Prefect will log in this process carries the run's correlation id, by formats that it reads from the
    environment, where nobody has set them.

    Where the warehouse cannot be reached, True without a claim: the flow will take it, and name what fails.

    Raises:
        SystemExit: the run cannot be executed; the text says what to set.
    """
    wait_seconds = _wait_seconds()
    flow_run_id, _, run = _read(wait_seconds)
    _name_lines(run.correlation_id)
    if run.state_type in _OVER:
        _say("nothing to execute: the run is over", flow_run_id, run, state_type=run.state_type)
        return False
    try:
        held = _claim(flow_run_id, run, within_seconds=min(wait_seconds, _CLAIM_WITHIN_SECONDS))
    except claim.UNREACHABLE as exc:
        _say("no claim yet: the flow will take it", flow_run_id, run, reason=f"{type(exc).__name__}: {exc}")
        return True
    if not held:
        _say("nothing to execute: another process is executing the run", flow_run_id, run)
    return held


def hand_back() -> None:
    """Have a run that this process may execute, and whose flow has not begun, executed anew by another process.

    Raises:
        SystemExit: it could not be done; the run will be found without its process.
    """
    flow_run_id, api, run = _read(_HAND_BACK_WITHIN_SECONDS)
    if run.state_type not in _HANDED_BACK:
        _say("nothing to hand back", flow_run_id, run, state_type=run.state_type)
        return
    if _is_held_by_another(flow_run_id, run):
        _say("nothing to hand back: another process is executing the run", flow_run_id, run)
        return
    try:
        answer = api.schedule_again(
            flow_run_id,
            message="handed back: its process was asked to end before the flow had begun",
            within_seconds=_HAND_BACK_WITHIN_SECONDS,
        )
    except (TimeoutError, ApiRefused) as exc:
        sys.exit(str(exc))
    _say("handed back", flow_run_id, run, answer=answer)


def _read(within_seconds: float) -> tuple[UUID, PrefectApi, Scheduled]:
    try:
        flow_run_id = UUID(os.environ.get("PREFECT__FLOW_RUN_ID", ""))
    except ValueError:
        sys.exit("PREFECT__FLOW_RUN_ID is not a flow run's id: the Prefect worker sets it in the Job of a run")
    try:
        api = PrefectApi(os.environ.get("PREFECT_API_URL", ""), auth_string=os.environ.get("PREFECT_API_AUTH_STRING"))
        return flow_run_id, api, api.read_flow_run(flow_run_id, within_seconds=within_seconds)
    except (TimeoutError, ValueError, ApiRefused) as exc:
        sys.exit(str(exc))


def _claim(flow_run_id: UUID, run: Scheduled, *, within_seconds: float) -> bool:
    """Whether this process may execute the run; what it claims is left in the environment. Without a warehouse, yes.

    Raises:
        OSError, asyncpg.PostgresError, asyncpg.InterfaceError: see etl.claim.UNREACHABLE.
    """
    warehouse_url = os.environ.get("ETL_WAREHOUSE_URL")
    if not warehouse_url:
        return True
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            claimed = asyncio.run(claim.take(warehouse_url, flow_run_id=flow_run_id, attempt=run.attempt))
        except claim.UNREACHABLE:
            if time.monotonic() >= deadline:
                raise
        else:
            if claimed is not None:
                os.environ[claim.TICKET] = str(claimed.fence)
            return claimed is not None
        time.sleep(PAUSE_SECONDS)


def _is_held_by_another(flow_run_id: UUID, run: Scheduled) -> bool:
    """While the warehouse cannot tell, no: a run executed twice does no harm, one that is lost does."""
    warehouse_url = os.environ.get("ETL_WAREHOUSE_URL")
    if not warehouse_url:
        return False
    try:
        return asyncio.run(claim.is_held_by_another(warehouse_url, flow_run_id=flow_run_id, attempt=run.attempt))
    except claim.UNREACHABLE as exc:
        _say("the warehouse cannot tell who executes the run", flow_run_id, run, reason=f"{type(exc).__name__}: {exc}")
        return False


def _wait_seconds() -> float:
    value = os.environ.get("ETL_API_WAIT_SECONDS", "60")
    try:
        return float(value)
    except ValueError:
        sys.exit(f"ETL_API_WAIT_SECONDS is {value!r}: set it to a number of seconds")


def _name_lines(correlation_id: str) -> None:
    for variable, who in _LOG_FORMATS.items():
        line = f"%(asctime)s.%(msecs)03d | %(levelname)-7s | {who} - %(message)s | correlation_id={correlation_id}"
        os.environ.setdefault(variable, line)


def _say(event: str, flow_run_id: UUID, run: Scheduled, **facts: object) -> None:
    ids = {"flow_run_id": str(flow_run_id), "correlation_id": run.correlation_id}
    line = {"timestamp": datetime.now(UTC).isoformat(), "event": event, **ids, **facts}
    sys.stderr.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    hand_back()
