"""Everything that can go wrong on purpose, and the exit code that each ends the command with.

ClientError             1
  Misused               2   an argument that cannot be, or one that is missing
  Declined              3   somebody was asked and said no, or nobody was there to be asked
  TimedOut              3   what was waited for did not come in time
  NotAllowed            4   no credential, or one that may not do this
  NotFound              1   no such pipeline, run, backfill or day
  Refused               1   the API said no; `kind` is the problem's stable name
  Unreachable           1   nothing answers, or not in time
  Confused              1   what answers does not speak like the API
"""

from collections.abc import Sequence
from enum import IntEnum


class Code(IntEnum):
    """What the command's exit code means."""

    OK = 0
    ERROR = 1
    USAGE = 2
    DECLINED = 3
    NOT_ALLOWED = 4
    RUN_FAILED = 5
    STILL_RUNNING = 8
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """In a sentence."""
        return _MEANINGS[self]


_MEANINGS = {
    Code.OK: "Done; where a run was asked about, it is Completed.",
    Code.ERROR: "Something failed; stderr says what and what to do about it.",
    Code.USAGE: "The command line is wrong.",
    Code.DECLINED: "You said no, nobody was there to say yes (--yes does), or --timeout is over.",
    Code.NOT_ALLOWED: "The API wants a credential, or yours does not allow this.",
    Code.RUN_FAILED: "The run, or a run of the backfill, ended Failed, Crashed or Cancelled.",
    Code.STILL_RUNNING: "The run is not over yet.",
    Code.INTERRUPTED: "Ctrl-C. What was started goes on.",
}


class ClientError(Exception):
    """Base of the tree. `str(error)` says what is wrong; `hint` is what to do, a command where there is one."""

    code = Code.ERROR

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(what)
        self.hint = hint


class Misused(ClientError):
    """An argument cannot be what it should be, or one is missing."""

    code = Code.USAGE


class Declined(ClientError):
    """Somebody was asked and said no, or nobody was there to be asked."""

    code = Code.DECLINED


class TimedOut(ClientError):
    """What was waited for did not come in time."""

    code = Code.DECLINED


class NotAllowed(ClientError):
    """No credential, or one that may not do this."""

    code = Code.NOT_ALLOWED


class NotFound(ClientError):
    """There is no such pipeline, run, backfill or day."""


class Refused(ClientError):
    """The API understood and said no. `kind` is the problem's stable name, `faults` each thing that is wrong.

    `passing`: the same may be answered later.
    """

    def __init__(self, what: str, *, kind: str, faults: Sequence[str] = (), passing: bool = False) -> None:
        super().__init__(what)
        self.kind = kind
        self.faults = faults
        self.passing = passing


class Unreachable(ClientError):
    """Nothing answers at the address, or not in time."""


class Confused(ClientError):
    """What answers does not speak like the API."""
