"""Which faults are set, and which of them the next request meets."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

DataPath = Literal["/flights", "/weather", "/airlines", "/airports", "/planes"]
DATA_PATHS: tuple[DataPath, ...] = ("/flights", "/weather", "/airlines", "/airports", "/planes")


class Aim(BaseModel):
    """Which requests a fault is for."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    count: int | None = Field(None, ge=1, description="how many requests it considers; without it, until cleared")
    rate: float = Field(1.0, ge=0, le=1, description="the share of the considered requests it hits")
    seed: int | None = Field(None, description="makes the choices of `rate` repeatable")
    paths: list[DataPath] = Field(
        default_factory=lambda: list(DATA_PATHS), min_length=1, description="by default every path that serves data"
    )


class StatusFault(Aim):
    """Answers with an error status."""

    kind: Literal["status"]
    status: int = Field(ge=400, le=599)
    retry_after: int | None = Field(None, ge=0, le=86_400, description="seconds, sent as Retry-After")


class LatencyFault(Aim):
    """Waits before the answer, whatever the answer is."""

    kind: Literal["latency"]
    seconds: float = Field(gt=0, le=600)


class DropFault(Aim):
    """Closes the connection without an answer."""

    kind: Literal["drop"]


class TruncateFault(Aim):
    """Promises the whole body and closes the connection in the middle of it; an empty body stays whole."""

    kind: Literal["truncate"]


class GarbageFault(Aim):
    """Answers 200 with bytes that are neither NDJSON nor Arrow."""

    kind: Literal["garbage"]


Ending = StatusFault | DropFault | TruncateFault | GarbageFault
Fault = Annotated[Ending | LatencyFault, Field(discriminator="kind")]


def _shape(body: Any) -> str:
    return "list" if isinstance(body, list) else "fault"


FaultOrFaults = Annotated[
    Annotated[Fault, Tag("fault")] | Annotated[list[Fault], Field(max_length=100), Tag("list")], Discriminator(_shape)
]


class FaultReport(BaseModel):
    """One fault that is set and what it has done so far."""

    fault: Fault
    seen: int = Field(description="requests it considered")
    hits: int = Field(description="requests it hit")
    remaining: int | None = Field(description="requests it will still consider; null: until cleared")


class FaultReports(BaseModel):
    """Everything that is set, in the order given."""

    faults: list[FaultReport]


@dataclass(frozen=True)
class Verdict:
    """What happens to one request: a delay in seconds, then an ending, or the ordinary answer where there is none."""

    delay: float
    ending: Ending | None
    kinds: tuple[str, ...]


@dataclass
class _Armed:
    fault: Ending | LatencyFault
    seen: int = 0
    hits: int = 0
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.fault.seed)  # noqa: S311 - simulates failures, protects nothing

    def hit(self, path: str) -> bool:
        spent = self.fault.count is not None and self.seen >= self.fault.count
        if spent or path not in self.fault.paths:
            return False
        self.seen += 1
        hit = self.chance.random() < self.fault.rate
        self.hits += hit
        return hit

    def report(self) -> FaultReport:
        remaining = None if self.fault.count is None else self.fault.count - self.seen
        return FaultReport(fault=self.fault, seen=self.seen, hits=self.hits, remaining=remaining)


class FaultBoard:
    """The faults of this process.

    Every method runs to its end without giving way to another request, so counts and choices stay exact under
    concurrent requests as long as all of them are served by one event loop, as they are here.
    """

    def __init__(self) -> None:
        self._armed: list[_Armed] = []

    def set(self, faults: Sequence[Ending | LatencyFault]) -> None:
        """Replace what is set; an empty sequence clears."""
        self._armed = [_Armed(fault) for fault in faults]

    def report(self) -> FaultReports:
        """What is set and how often each has hit."""
        return FaultReports(faults=[armed.report() for armed in self._armed])

    def judge(self, path: str) -> Verdict:
        """What the next request to `path` meets.

        Delays add up. Of the other faults the first to hit decides, and those behind it do not see the request: a list
        of counted faults plays out as a script.
        """
        delays = [a.fault for a in self._armed if isinstance(a.fault, LatencyFault) and a.hit(path)]
        ending = next((a.fault for a in self._armed if not isinstance(a.fault, LatencyFault) and a.hit(path)), None)
        kinds = tuple(fault.kind for fault in (*delays, ending) if fault is not None)
        return Verdict(delay=sum(fault.seconds for fault in delays), ending=ending, kinds=kinds)
