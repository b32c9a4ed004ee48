"""What one scenario found out, as the raw samples keep it: each run asked for, and everything that became of it.

Times are seconds since the scenario began. The side without an orchestrator has no ledger rows: a run is known there by
Prefect's id.
"""

from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

SideName = Literal["ours", "stock"]

# Prefect's names and ours are the same words; over is over on both sides.
OVER = frozenset({"Completed", "Failed", "Crashed", "Cancelled"})


class Fact(BaseModel):
    """Something observed; never changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Attempt(Fact):
    """One request to start a run. `status` is empty where no answer came; `run_id` is what the answer promised."""

    at: float
    status: int | None = None
    run_id: str | None = None
    error: str | None = None


class Event(Fact):
    """A change that the ledger recorded, known by its id."""

    id: int
    state: str
    at: float


class Row(Fact):
    """A ledger row."""

    run_id: str
    state: str
    state_name: str = ""
    message: str | None = None
    flow_run_id: str | None = None
    accepted_at: float
    dispatched_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    events: tuple[Event, ...] = ()


class Seen(Fact):
    """A state that Prefect recorded."""

    state: str
    name: str = ""
    at: float


class FlowRun(Fact):
    """A flow run as Prefect's database has it."""

    flow_run_id: str
    state: str
    message: str | None = None
    processes: int = 0
    states: tuple[Seen, ...] = ()


class Job(Fact):
    """A Kubernetes Job; `active` counts its pods that are not over."""

    name: str
    flow_run_id: str
    created_at: float
    active: int = 0


class Effect(Fact):
    """A row of the effects table, which no unique key guards. Degraded: the day was kept, nothing was loaded."""

    run_id: str
    flow_run_id: str
    rows: int
    at: float
    degraded: bool = False


class Day(Fact):
    """What the loaded table holds of a run's day, and what the newest load of that day said it wrote."""

    rows: int
    loaded: int


class Case(Fact):
    """One run that was asked for under one key, and all that is known of it."""

    key: str
    day: date
    attempts: tuple[Attempt, ...]
    rows: tuple[Row, ...] = ()
    flow_runs: tuple[FlowRun, ...] = ()
    jobs: tuple[Job, ...] = ()
    effects: tuple[Effect, ...] = ()
    table: Day | None = None

    @property
    def promised(self) -> tuple[str, ...]:
        """The run ids that answers promised; one, unless something is wrong; none, where nobody said yes."""
        return tuple(dict.fromkeys(one.run_id for one in self.attempts if one.run_id))


class Strays(Fact):
    """What belongs to no run that anybody asked for."""

    flow_runs: tuple[FlowRun, ...] = ()
    jobs: tuple[Job, ...] = ()
    effects: tuple[Effect, ...] = ()


class Scenario(Fact):
    """One fault on one side: what was done when. `at_injection` counts the runs by state at that moment."""

    side: SideName
    fault: str
    seed: int
    runs: int
    rate: float
    within: float  # how long the runs were given, in seconds
    revision: str
    date: date
    injected_at: float
    healed_at: float
    ended_at: float
    at_injection: dict[str, int]
    victims: tuple[str, ...] = ()
    measured: dict[str, float] = {}
    notes: tuple[str, ...] = ()


class Sample(Fact):
    """A scenario with its runs: one file of raw samples."""

    scenario: Scenario
    cases: tuple[Case, ...]
    strays: Strays = Strays()

    def save(self, path: Path) -> None:
        """Write JSON lines: the scenario, what strayed, then one line a run."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lines: Iterable[Fact] = (self.scenario, self.strays, *self.cases)
        path.write_text("".join(f"{line.model_dump_json(exclude_defaults=True)}\n" for line in lines))

    @classmethod
    def load(cls, path: Path) -> "Sample":
        """Read what `save` wrote."""
        scenario, strays, *cases = path.read_text().splitlines()
        return cls(
            scenario=Scenario.model_validate_json(scenario),
            strays=Strays.model_validate_json(strays),
            cases=tuple(Case.model_validate_json(line) for line in cases),
        )
