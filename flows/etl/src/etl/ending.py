"""Who ends a flow pod's process before its flow has ended, and how: SIGTERM, or a cancellation.

Either interrupts the main thread, which raises TerminationSignal wherever it is, so that the flow can clean up. A main
thread that is in C code for long (COPY, polars) hears of no signal. So there is a thread that does: Python's signal
handler, in C, writes each signal's number to a pipe, which the thread reads. It gives the main thread a while to stop,
then carries out itself what is to be done, and ends the process. Only what holds Python's lock all the time defeats it.

Until the flow begins there is nothing to clean up, and the thread acts at once, whatever the main thread is importing.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from types import FrameType
from typing import NoReturn

# With what follows it, the last words of a run (see etl.attempt), it must fit into the 30 seconds of a pod's end.
STOP_WITHIN_SECONDS = 10.0


class Reason(StrEnum):
    """Why the process is to end: the first three are what PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR may ask for."""

    RESCHEDULE = "reschedule"
    RELINQUISH = "relinquish"
    CRASH = "crash"
    CANCEL = "cancel"


class Ending:
    """The process's one way to end early. All but `cancel` and `reason` are the main thread's to call."""

    def __init__(self, finish: Callable[[Reason], int], *, on_sigterm: Reason) -> None:
        """What SIGTERM means is `on_sigterm`. `finish` carries an ending out and gives the process's exit status."""
        self.finish = finish
        self._on_sigterm = on_sigterm
        self._reason: Reason | None = None
        self._interruptible = False
        self._stop: Callable[[], BaseException] | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._signals, self._notify = os.pipe()

    @property
    def reason(self) -> Reason | None:
        """Why the process is ending, if it is."""
        return self._reason

    def listen(self) -> None:
        """Hear SIGTERM from now on.

        Where it is to crash the run it ends the process as ever, until the flow begins: there is nothing to report.
        """
        os.set_blocking(self._notify, False)
        signal.set_wakeup_fd(self._notify, warn_on_full_buffer=False)
        if self._on_sigterm is not Reason.CRASH:
            signal.signal(signal.SIGTERM, self.interrupt)
        os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=self._wait, name="ending", daemon=True).start()

    def begin(self, stop: Callable[[], BaseException]) -> None:
        """From now on the main thread is interrupted by what `stop` makes; never returns where it is to end already."""
        with self._lock:
            signal.signal(signal.SIGTERM, self.interrupt)
            self._stop = stop
            self._interruptible = True
            ending = self._reason is not None
        if ending:
            self._leave()

    def over(self) -> Reason | None:
        """The flow has stopped, and the main thread is not interrupted any more; why it is to end, if it is.

        Who gets a reason here has to finish. Never returns where the thread is doing that.
        """
        self._interruptible = False
        with self._lock:
            reason, late = self._reason, self._over.is_set()
            self._over.set()
        if late:
            self._leave()
        return reason

    def rest(self, finish: Callable[[Reason], int]) -> None:
        """The flow is over, and another may begin: until then an ending is carried out by `finish`, at once.

        Never returns where the process is to end already.
        """
        with self._lock:
            self.finish = finish
            self._stop = None
            self._over.clear()
            reason = self._reason
        if reason is not None:
            leave(finish, reason)

    def cancel(self) -> None:
        """End the process because the run was cancelled; any thread may call this."""
        self._reason = self._reason or Reason.CANCEL
        self._tell_thread()

    def interrupt(self, _number: int, _frame: FrameType | None = None) -> None:
        """The handler of SIGTERM, in the main thread; interrupts it once: a second signal shall not hinder its end."""
        if not self._interruptible or self._stop is None:
            return
        self._interruptible = False
        self._reason = self._reason or self._on_sigterm
        self._tell_thread()
        raise self._stop()

    def _forget(self) -> None:
        """Without this, SIGTERM to a process that the flow forked would be written to the pipe, and end the run."""
        signal.set_wakeup_fd(-1)
        if signal.getsignal(signal.SIGTERM) == self.interrupt:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _tell_thread(self) -> None:
        # Not by the signal alone: an event loop of the flow's own may have taken the pipe of signals for itself.
        with suppress(BlockingIOError):
            os.write(self._notify, bytes([signal.SIGTERM]))

    def _wait(self) -> None:
        while os.read(self._signals, 1)[0] != signal.SIGTERM:
            pass
        with self._lock:
            self._reason = self._reason or self._on_sigterm
            begun = self._stop is not None
        if begun:
            # Where the signal came a moment before the flow began, or none came, this is the one that interrupts.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            self._over.wait(STOP_WITHIN_SECONDS)
        with self._lock:
            if self._over.is_set():  # the main thread finishes
                return
            self._over.set()
        leave(self.finish, self._reason)

    def _leave(self) -> NoReturn:
        while True:  # the process ends meanwhile
            time.sleep(1)


def leave(finish: Callable[[Reason], int], reason: Reason) -> NoReturn:
    """Carry out an ending, and end the process without Python's own way out, which would wait for a blocked thread."""
    status = 1
    try:
        status = finish(reason)
    except SystemExit as exc:
        sys.stderr.write(f"{exc.code}\n")
    except BaseException:  # noqa: BLE001 - whatever it is, the process has to end
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
