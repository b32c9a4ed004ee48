"""What a benchmark is: variants that do the same thing, ours and rivals, and the targets that compare them.

A new one is a module that builds a Benchmark, and a line in the catalogue. Nothing here knows where it runs: on this
machine or on a cluster.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

# What one sample measured, by the figure's name. A name ends with its unit: _seconds, _bytes, _per_second.
Figures = Mapping[str, float]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to do it.

    Attributes:
        name: what the raw samples call it.
        title: what people read.
        ours: whether it is this platform's.
        most: after so many samples it is left out, because one takes too long; None: always in.
    """

    name: str
    title: str
    ours: bool = False
    most: int | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """A bound on a figure's median, or on its ratio to another variant's.

    Attributes:
        what: the sentence that is promised, without the numbers.
        figure: which figure.
        of, against: variants; without `against` the figure itself is bounded.
        must, aim: the bounds.
        least: whether they are lower bounds.
    """

    what: str
    figure: str
    of: str
    against: str | None = None
    must: float
    aim: float | None = None
    least: bool = False


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How a figure changes as something grows.

    Attributes:
        what: what grows, from what to what.
        figure: which figure.
        before, after: variants.
        before_in: the benchmark that `before` is of; None: this one.
    """

    what: str
    figure: str
    before: str
    after: str
    before_in: str | None = None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a benchmark is given: a folder of its own for what it makes, a seed, whether it shall be short."""

    folder: Path
    seed: int
    short: bool
    say: Say


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """All that is compared in one run.

    Attributes:
        name: as in `make bench NAME=…`.
        what: one sentence for people.
        variants: ours and rivals.
        targets: what must be reached.
        opened: makes everything ready and gives the function that takes one sample of a variant; undoes it afterwards.
        growth: what its variants tell of growing cost.
        rounds: how many samples of each variant are taken.
        notes: what one must know to read the figures.
    """

    name: str
    what: str
    variants: tuple[Variant, ...]
    targets: tuple[Target, ...]
    opened: Callable[[Setting], AbstractContextManager[Callable[[Variant], Figures]]]
    growth: tuple[Growth, ...] = ()
    rounds: int = 10
    notes: str = ""
