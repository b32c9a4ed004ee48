"""A log of runs in a file: each flow run that ends appends a line to runs/metrics.csv, whether it went well or not.

Prefect calls a flow's hooks when its state changes: no line of the flow itself knows of the log. The file has the
columns of the orchestrator's GET /api/{pipeline}/runs.csv: timestamp,flow,state,duration_ms,notes.

    uv run python flows/examples/05_run_logger.py
"""

import csv
import fcntl
import os
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import sandbox

from prefect import Flow, flow
from prefect.client.schemas.objects import FlowRun, State

METRICS = Path("runs/metrics.csv")
COLUMNS = ("timestamp", "flow", "state", "duration_ms", "notes")


def append(row: tuple[str, ...], *, to: Path = METRICS) -> None:
    """Append one line, under the header if the file is new. Any number of processes may do so at the same time.

    The lock is held from the look at the file's size to the flush of the line: without it two processes could both find
    the file empty and both write a header. It ends with the process, so that a crash leaves no lock behind.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    with to.open("a", newline="", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = csv.writer(file)
        if os.fstat(file.fileno()).st_size == 0:
            writer.writerow(COLUMNS)
        writer.writerow(row)
        file.flush()


def log_run(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """The hook: Prefect calls it with the flow, the run and the state that the run has just entered."""
    ended = state.timestamp
    duration_ms = round((ended - (flow_run.start_time or ended)).total_seconds() * 1000)
    notes = f"run_id={flow_run.id} name={flow_run.name}"
    if state.message:
        notes += " reason=" + " ".join(state.message.split())
    timestamp = ended.astimezone(UTC).isoformat(timespec="milliseconds")
    append((timestamp, flow.name, state.name or state.type.value, str(duration_ms), notes))


# A process that is killed, or whose machine is lost, runs no hook. That is why the platform keeps its record outside:
# in the database of the orchestrator, which follows the Prefect server.
@flow(
    name="count_flights",
    on_completion=[log_run],
    on_failure=[log_run],
    on_crashed=[log_run],
    on_cancellation=[log_run],
)
def count_flights(day: date) -> int:
    """Count the day's flights; a source that refuses makes the run fail."""
    with sandbox.open_source() as source:
        response = source.get("/flights", params={"date": day.isoformat()}).raise_for_status()
    return len(response.text.splitlines())


if __name__ == "__main__":
    sandbox.announce_server()
    begun = datetime.now(UTC)
    print(f"1. A run that goes well: {count_flights(date(2025, 3, 1), return_state=True).name}")

    sandbox.set_fault(kind="status", status=503, count=1)
    print(f"2. A run whose source is away: {count_flights(date(2025, 3, 2), return_state=True).name}")

    print(f"\n{METRICS} (what was appended since the start):")
    with METRICS.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if datetime.fromisoformat(line["timestamp"]) >= begun:
                print("   " + " | ".join(line[column] for column in COLUMNS))
