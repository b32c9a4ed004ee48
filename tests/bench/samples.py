"""The raw samples: one JSON line each, written as soon as it was measured."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Sample(BaseModel):
    """One measurement of one variant. `number` is its place in the run, `load` the machine's load before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark: str
    variant: str
    figures: dict[str, float]
    number: int
    seed: int
    short: bool
    at: str
    revision: str
    cores: int
    load: float


def add(path: Path, sample: Sample) -> None:
    """Append a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(sample.model_dump_json() + "\n")


def read(path: Path) -> list[Sample]:
    """Every sample of a file, in the order of measuring."""
    return [Sample.model_validate_json(line) for line in path.read_text().splitlines()]


def values(samples: Iterable[Sample], variant: str, figure: str) -> list[float]:
    """A figure of one variant, of the samples that have it."""
    return [one.figures[figure] for one in samples if one.variant == variant and figure in one.figures]
