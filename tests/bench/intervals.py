"""Medians and ratios of medians, each with its bootstrap interval."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

DRAWS = 4000
COVERED = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and the interval that covers it in 95 of 100 cases; of one sample alone the interval is that value."""

    value: float
    low: float
    high: float


def middle(values: Sequence[float], *, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """The median."""
    return _estimate(lambda drawn: median(drawn[0]), [values], seed, draws)


def ratio(values: Sequence[float], others: Sequence[float], *, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """The median of the first over the median of the second; both are drawn anew, each from its own samples."""
    return _estimate(lambda drawn: median(drawn[0]) / median(drawn[1]), [values, others], seed, draws)


def _estimate(
    statistic: Callable[[list[Sequence[float]]], float], groups: list[Sequence[float]], seed: int, draws: int
) -> Estimate:
    """The percentile bootstrap: what the statistic is when each group is drawn again from itself, with repetition."""
    if not all(groups):
        raise ValueError("there are no samples to estimate from")
    chance = random.Random(seed)
    drawn = sorted(statistic([chance.choices(group, k=len(group)) for group in groups]) for _ in range(draws))
    tail = round(draws * (1 - COVERED) / 2)
    return Estimate(value=statistic(groups), low=drawn[tail], high=drawn[-1 - tail])
