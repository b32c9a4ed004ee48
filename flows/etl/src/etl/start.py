"""The flow pod's command: `python -m etl.start` claims the flow run and executes it, in one process.

Three things are done at once: a thread reads the run and claims it (etl.attempt) while Prefect is imported, which takes
most of the time until the flow begins, and SIGTERM is heard from the first moment on (etl.ending): it gives the run
back, where the worker asked for that with PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR=reschedule, as it does for Jobs
with a backoff limit of zero. Then the flow runs under Prefect's engine (etl.execution).

So do deployments whose code is in the image, as this project registers them: an entrypoint that is a dotted path. One
that first fetches its code, by pull steps or from a storage, is executed by Prefect's own command in this process.

A node that dies sends no signal; so that Prefect's server can notice, the run's heartbeat comes every 30 seconds, where
PREFECT_FLOWS_HEARTBEAT_FREQUENCY says nothing else.
"""

import atexit
import gc
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from etl.ending import Ending, Reason

if TYPE_CHECKING:
    from etl.attempt import Attempt

_SETTINGS = {
    # The shortest that Prefect takes; its own default is 180, which finds a dead run after minutes only.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # Each of Prefect's clients would first ask for a token that the platform's server does not give.
    "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
}

T = TypeVar("T")


def main() -> NoReturn:
    """Execute the run that the environment names, and end the process."""
    ending = Ending(_finish_early, on_sigterm=_on_sigterm())
    ending.listen()
    # Collecting garbage finds none in what imports make, and takes its time.
    gc.disable()
    from etl import attempt, later, log_lines  # noqa: PLC0415 - only now: loading this takes longer than all before

    for variable, value in _SETTINGS.items():
        os.environ.setdefault(variable, value)
    log_lines.carry(log_lines.UNKNOWN)
    later.put_off()
    beginning = _in_background(attempt.begin)
    import prefect.client.orchestration  # noqa: PLC0415 - most of Prefect, but not what sets up its logging
    import prefect.flows  # noqa: PLC0415

    with later.finishing():
        import prefect.flow_engine  # noqa: F401, PLC0415

    begun = beginning.result()
    if begun is None:
        sys.exit(0)
    mine, deployment = begun
    log_lines.carry_another(mine.run.correlation_id, before=log_lines.UNKNOWN)
    if not _is_in_the_image(deployment):
        gc.enable()
        _become_prefects()
    later.know_blocks()
    _end(_execute(mine, deployment["entrypoint"], ending))


def _execute(mine: "Attempt", entrypoint: str, ending: Ending) -> int:
    """Execute the run, and those that follow it in this pod; the exit status."""
    from etl.execution import Execution  # noqa: PLC0415 - see main
    from etl.succession import Succession  # noqa: PLC0415

    succession = Succession(mine)
    while True:
        with _workspace():
            execution = Execution(mine, entrypoint=entrypoint, ending=ending)
            status = execution.run()
        if not (execution.in_order and succession.goes_on):
            return status
        ending.rest(_finish_early)
        following = succession.next()
        if following is None:
            return status
        mine = following


def _on_sigterm() -> Reason:
    asked = os.environ.get("PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR", "").lower()
    return Reason(asked) if asked in (Reason.RESCHEDULE, Reason.RELINQUISH) else Reason.CRASH


def _finish_early(reason: Reason) -> int:
    """What is done about a run whose flow has not begun."""
    if reason is Reason.RELINQUISH:
        return 1
    from etl.attempt import hand_back  # noqa: PLC0415 - see main

    hand_back()
    return 0


def _in_background(call: Callable[[], T]) -> Future[T]:
    """Not by an executor, at whose threads Python would wait when the process ends."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as exc:  # noqa: BLE001 - SystemExit too; whoever asks for the result gets it
            future.set_exception(exc)

    threading.Thread(target=run, name=call.__name__, daemon=True).start()
    return future


def _is_in_the_image(deployment: dict[str, Any]) -> bool:
    entrypoint = deployment.get("entrypoint") or ""
    fetched = deployment.get("pull_steps") or deployment.get("storage_document_id") or deployment.get("path")
    return "." in entrypoint and ":" not in entrypoint and not fetched


def _become_prefects() -> NoReturn:
    from prefect.cli import app  # noqa: PLC0415

    sys.argv = ["prefect", "flow-run", "execute"]
    app()
    sys.exit(0)


@contextmanager
def _workspace() -> Iterator[None]:
    """Work in a copy of the working directory, as with Prefect's command: in the image nobody may write there.

    The whole file system, where the image names no directory, is not copied.
    """
    origin = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="flow-run-", ignore_cleanup_errors=True) as folder:
        if origin != origin.parent:
            ignored = shutil.ignore_patterns(Path(folder).name)
            shutil.copytree(origin, folder, symlinks=True, dirs_exist_ok=True, ignore=ignored)
        os.chdir(folder)
        sys.path[:] = [folder if entry in ("", str(origin)) else entry for entry in sys.path]
        try:
            yield
        finally:
            os.chdir(origin)
            sys.path[:] = [str(origin) if entry == folder else entry for entry in sys.path]


def _end(status: int) -> NoReturn:
    """End the process at once: what was queued is sent, and Python's own way out takes long to take things apart.

    Threads that the flow left at work are waited for, as Python does.
    """
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.exit(status)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
