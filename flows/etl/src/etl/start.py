"""The flow pod's command: `python -m etl.start` claims the flow run, then becomes `prefect flow-run execute`.

Two things happen here, before Prefect's own code, because they cannot happen later. Prefect does not retry a process's
first connection, so a server that restarts at that moment, or a network policy that takes a second to apply, would
crash the run: this waits. And Prefect lets any number of processes execute one flow run, each changing its state: a
process that finds the run claimed by another (see etl.claim), or over, ends here with status 0, and Prefect never
hears of it.

Prefect's own lines in the pod's log get the run's correlation id by the formats that Prefect reads from its
environment, where nobody has set them.

SIGTERM is left alone: after the exec it reaches Prefect, which gives the run back (AwaitingRetry) where the worker
asked for that with PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR=reschedule, as it does for Jobs with a backoff limit of
zero. A node that dies sends no signal; so that Prefect's server can notice, the run's heartbeat comes every 30 seconds,
where PREFECT_FLOWS_HEARTBEAT_FREQUENCY says nothing else.

Few modules are imported: this process costs a fraction of a second.
"""

import asyncio
import base64
import json
import os
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from etl import claim
from etl.tags import correlation_id

_ATTEMPT_TIMEOUT_SECONDS = 5.0
_PAUSE_SECONDS = 0.2

# The shortest that Prefect takes; its own default is 180, which finds a dead run after minutes only.
_HEARTBEAT_SECONDS = "30"

# Prefect's own formats, with the correlation id at the end; its ids have no character that a format would expand.
_LOG_FORMATS = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FORMAT": "%(name)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "Flow run %(flow_run_name)r",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "Task run %(task_run_name)r",
}

# Answers of a server that is starting, overloaded or without its database; any other refusal is final.
_TRANSIENT_STATUS = frozenset({408, 429})

# A run in one of these states is not executed again; a run that was only believed dead (Crashed) may be.
_OVER = frozenset({"COMPLETED", "FAILED", "CANCELLED"})

# How long to try for a claim, at most. After that the flow, which names its failures in Prefect, tries once more.
_CLAIM_WITHIN_SECONDS = 10.0


class ApiRefused(Exception):
    """The Prefect API answered, and will not answer otherwise later; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """What Prefect knows of a flow run: its state's type, when it was last scheduled, and its correlation id."""

    state_type: str
    attempt: datetime
    correlation_id: str


def read_flow_run(api_url: str, flow_run_id: UUID, *, auth_string: str | None, within_seconds: float) -> Scheduled:
    """Ask the API about the flow run, again and again until it answers.

    Raises:
        ValueError: the URL is none.
        TimeoutError: no answer within the given time; the text carries the last reason.
        ApiRefused: the credentials are wrong, or there is no such flow run.
    """
    if not api_url.startswith(("http://", "https://")):
        raise ValueError(f"PREFECT_API_URL is {api_url!r}: set it to the server's API, such as http://prefect:4200/api")
    api_url = api_url.rstrip("/")
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            # The state first: if the run is scheduled anew in between, the attempt read is the newer one.
            run = _get(f"{api_url}/flow_runs/{flow_run_id}", auth_string)
            timeline = _get(f"{api_url}/flow_run_states/?flow_run_id={flow_run_id}", auth_string)
            return Scheduled(
                state_type=str(run.get("state_type")),
                attempt=_last_scheduled(timeline),
                correlation_id=correlation_id(flow_run_id, run.get("tags") or ()),
            )
        except urllib.error.HTTPError as exc:
            exc.close()
            if exc.code < 500 and exc.code not in _TRANSIENT_STATUS:
                raise ApiRefused(_refusal(exc.code, api_url, flow_run_id)) from exc
            reason: Exception = exc
        except (urllib.error.URLError, OSError, ValueError) as exc:
            reason = exc
        if time.monotonic() >= deadline:
            raise TimeoutError(
                f"the Prefect API at {api_url} did not answer within {within_seconds:g} s: {reason}"
            ) from reason
        time.sleep(_PAUSE_SECONDS)


def _get(url: str, auth_string: str | None) -> Any:
    headers = {"Accept": "application/json"}
    if auth_string:
        headers["Authorization"] = "Basic " + base64.b64encode(auth_string.encode()).decode()
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http(s), checked by the caller
    with urllib.request.urlopen(request, timeout=_ATTEMPT_TIMEOUT_SECONDS) as answer:  # noqa: S310 - the same
        return json.load(answer)


def _last_scheduled(timeline: list[dict[str, Any]]) -> datetime:
    """When Prefect last scheduled the run; a run that never was (made as Pending) goes by its first state."""
    times = [datetime.fromisoformat(state["timestamp"]) for state in timeline if state["type"] == "SCHEDULED"]
    if times:
        return max(times)
    return min((datetime.fromisoformat(state["timestamp"]) for state in timeline), default=datetime.now(UTC))


def _refusal(status: int, api_url: str, flow_run_id: UUID) -> str:
    if status in (401, 403):
        return (
            f"the Prefect API at {api_url} answered {status}: set PREFECT_API_AUTH_STRING to the server's user:password"
        )
    if status == 404:
        return f"the Prefect API at {api_url} knows no flow run {flow_run_id}: it was deleted, or the URL is another's"
    return f"the Prefect API at {api_url} answered {status} for flow run {flow_run_id}"


async def _claim(
    warehouse_url: str, flow_run_id: UUID, attempt: datetime, *, within_seconds: float
) -> claim.Claim | None:
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            return await claim.take(warehouse_url, flow_run_id=flow_run_id, attempt=attempt)
        except claim.UNREACHABLE:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(_PAUSE_SECONDS)


def _say(event: str, **facts: object) -> None:
    line = {"timestamp": datetime.now(UTC).isoformat(), "event": event, **facts}
    sys.stderr.write(json.dumps(line) + "\n")


def _seconds(variable: str, *, default: float) -> float:
    value = os.environ.get(variable)
    try:
        return default if value is None else float(value)
    except ValueError:
        raise ValueError(f"{variable} is {value!r}: set it to a number of seconds") from None


def main() -> None:
    """Wait, claim, then hand this process over; returns only where there is nothing to execute."""
    try:
        flow_run_id = UUID(os.environ.get("PREFECT__FLOW_RUN_ID", ""))
    except ValueError:
        sys.exit("PREFECT__FLOW_RUN_ID is not a flow run's id: the Prefect worker sets it in the Job of a run")
    try:
        wait_seconds = _seconds("ETL_API_WAIT_SECONDS", default=60)
        run = read_flow_run(
            os.environ.get("PREFECT_API_URL", ""),
            flow_run_id,
            auth_string=os.environ.get("PREFECT_API_AUTH_STRING"),
            within_seconds=wait_seconds,
        )
    except (TimeoutError, ValueError, ApiRefused) as exc:
        # who answers knows the correlation id; the flow run's own is what there is without it
        _say("nothing to execute: Prefect does not tell the run", flow_run_id=str(flow_run_id), reason=str(exc))
        sys.exit(1)
    ids = {"flow_run_id": str(flow_run_id), "correlation_id": run.correlation_id}
    if run.state_type in _OVER:
        _say("nothing to execute: the run is over", **ids, state_type=run.state_type)
        return
    warehouse_url = os.environ.get("ETL_WAREHOUSE_URL")
    if warehouse_url:
        try:
            claimed = asyncio.run(
                _claim(
                    warehouse_url,
                    flow_run_id,
                    run.attempt,
                    within_seconds=min(wait_seconds, _CLAIM_WITHIN_SECONDS),
                )
            )
        except claim.UNREACHABLE as exc:
            _say("no claim yet: the flow will take it", **ids, reason=f"{type(exc).__name__}: {exc}")
        else:
            if claimed is None:
                _say("nothing to execute: another process is executing the run", **ids)
                return
            os.environ[claim.TICKET] = str(claimed.fence)
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", _HEARTBEAT_SECONDS)
    for variable, who in _LOG_FORMATS.items():
        line = f"%(asctime)s.%(msecs)03d | %(levelname)-7s | {who} - %(message)s | correlation_id={run.correlation_id}"
        os.environ.setdefault(variable, line)
    os.execvp("prefect", ["prefect", "flow-run", "execute"])  # noqa: S606, S607 - the venv's own prefect, first in PATH


if __name__ == "__main__":
    main()
