"""What a check is: a stable id, what is true where it passes, how to look, and what to do where it does not.

An id of the reasons why a run does not go on (PL001 …), or the name of an alert, is that very reason or alert; what is
neither has an id from PL300 on.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pipelines_client.doctor.sights import Sights

REASON = re.compile(r"PL[01]\d\d")
OWN = re.compile(r"PL3\d\d")
REASONS = "services/orchestrator/README.md#why-a-run-does-not-go-on-or-ended"
PAGE = "docs/troubleshooting.md"
RUNBOOKS = "docs/runbooks"


class Result(StrEnum):
    """What became of a check. Skipped: another check, without which it says nothing, did not pass."""

    SUCCESS = "success"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


class Side(StrEnum):
    """What a category looks at."""

    MACHINE = "machine"
    CLUSTER = "cluster"
    SERVICE = "service"


class When(StrEnum):
    """Whether a check is about what is installed, about what is to be installed (--pre), or both."""

    INSTALLED = "installed"
    BEFORE = "before"
    BOTH = "both"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check found wrong. `names` fill in its command; `command` replaces that."""

    what: str
    warning: bool = False
    names: Mapping[str, object] = field(default_factory=dict)
    command: str | None = None


Look = Callable[[Sights], Finding | None]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that should be true.

    `meaning` is what it means where it is not, `command` the command to paste then, with {names} of the finding, and
    `here` that for a platform on this machine, where it is another.
    `needs`: ids of the checks without which this one says nothing. `seconds`: how long its look may take.
    """

    id: str
    description: str
    meaning: str
    command: str
    look: Look
    here: str | None = None
    needs: tuple[str, ...] = ()
    when: When = When.INSTALLED
    seconds: float = 5.0

    @property
    def see(self) -> str:
        """Where more is written about it."""
        if REASON.fullmatch(self.id):
            return REASONS
        if OWN.fullmatch(self.id):
            return f"{PAGE}#{self.id.lower()}"
        return f"{RUNBOOKS}/{self.id}.md"


@dataclass(frozen=True, kw_only=True)
class Category:
    """Checks of one kind, in the order in which they are shown."""

    name: str
    about: str
    side: Side
    checks: tuple[Check, ...]


class NotApplicable(Exception):
    """There is nothing that the check could be about here."""
