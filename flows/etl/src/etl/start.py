"""The flow pod's command: `python -m etl.start` claims the flow run, then runs `prefect flow-run execute` in-process.

SIGTERM (an eviction, a drained node) gives the run back, from the first moment on. Once Prefect listens it does so
itself (AwaitingRetry), where the worker asked for that with PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR=reschedule, as it
does for Jobs with a backoff limit of zero. That takes it two seconds, on a busy node ten, in which a container's first
process that has no handler of its own would not even notice the signal. So a handler stands from the beginning, and
replaces this process, whatever it is doing, by one that hands the run back (see etl.attempt). Prefect's own handler
takes its place later: this is why Prefect is not started as another program, which would begin without one.

A node that dies sends no signal; so that Prefect's server can notice, the run's heartbeat comes every 30 seconds, where
PREFECT_FLOWS_HEARTBEAT_FREQUENCY says nothing else.
"""

import os
import signal
import sys
from types import FrameType

# The shortest that Prefect takes; its own default is 180, which finds a dead run after minutes only.
_HEARTBEAT_SECONDS = "30"


def _hand_back(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # kept by the new program: a second signal shall not end it
    os.execv(sys.executable, [sys.executable, "-m", "etl.attempt"])  # noqa: S606 - this very interpreter


def main() -> None:
    """Wait, claim, then execute the run as Prefect does; returns only where there is nothing to execute."""
    if os.environ.get("PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR", "").lower() == "reschedule":
        signal.signal(signal.SIGTERM, _hand_back)
    # Only now: loading these takes longer than all that Python did before.
    from etl.attempt import begin  # noqa: PLC0415

    if not begin():
        return
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", _HEARTBEAT_SECONDS)
    from prefect.cli import app  # noqa: PLC0415 - it reads its settings when it is loaded

    sys.argv = ["prefect", "flow-run", "execute"]
    app()


if __name__ == "__main__":
    main()
