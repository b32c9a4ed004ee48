"""What a line of a run's log is, the order of lines, and which of a log that still grows have been told.

Nothing here does I/O.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

# Several processes write one log, each sends its lines in pieces every two seconds: an earlier line may come later.
LATE = timedelta(seconds=10)


class Level(StrEnum):
    """How much a line matters, as Python's logging calls it."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"

    @property
    def number(self) -> int:
        """The least number of this level."""
        return _NUMBERS[self]

    @classmethod
    def of(cls, number: int) -> "Level":
        """The level that a number belongs to; one below all is the lowest."""
        return max((one for one in cls if one.number <= number), key=lambda one: one.number, default=cls.DEBUG)


_NUMBERS = {level: 10 * place for place, level in enumerate(Level, start=1)}


@dataclass(frozen=True, order=True)
class Place:
    """Where a line stands in its log."""

    at: datetime
    id: UUID


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a run's log; its message may be many lines of text."""

    id: UUID
    at: datetime
    level: Level
    logger: str
    message: str
    task_run_id: UUID | None = None

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.at, self.id)


class Followed:
    """What a follower of a log has been told: each line once, also one that came late."""

    def __init__(self, after: Place | None = None) -> None:
        """What stands up to `after` was told before, by somebody else."""
        self._after = after
        self._told: dict[UUID, datetime] = {}
        self.place = after

    @property
    def since(self) -> Place | None:
        """From where to look again for lines that came late; None: from the beginning."""
        return Place(self.place.at - LATE, UUID(int=0)) if self.place else None

    def new(self, lines: Iterable[Line]) -> list[tuple[Line, Place]]:
        """Those of the lines that were not told yet; they count as told.

        Each comes with the place after which a follower goes on that got this line last.
        """
        found: list[tuple[Line, Place]] = []
        for line in sorted(lines, key=lambda one: one.place):
            if line.id not in self._told and (self._after is None or line.place > self._after):
                self.place = line.place if self.place is None else max(self.place, line.place)
                self._told[line.id] = line.at
                found.append((line, self.place))
        if found and self.place is not None:
            oldest = self.place.at - LATE
            self._told = {line_id: at for line_id, at in self._told.items() if at >= oldest}
        return found
