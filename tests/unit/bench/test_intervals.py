"""The arithmetic behind every ratio: right on samples whose answer is known, and honest about its doubt."""

import random
from statistics import median

import pytest

from ...bench.intervals import middle, ratio


def test_a_ratio_of_known_samples() -> None:
    """Medians 6 and 3 have the ratio 2, and samples without spread leave no doubt."""
    found = ratio([6.0, 6.0, 6.0], [3.0, 3.0, 3.0])
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)
    assert ratio([5.0, 6.0, 90.0], [1.0, 3.0, 4.0]).value == 2.0


def test_the_interval_contains_its_value_and_grows_with_spread() -> None:
    """The wider the samples, the wider the doubt."""
    narrow = ratio([9.0, 10.0, 11.0, 10.0, 10.5], [5.0, 5.1, 4.9, 5.0, 5.2])
    wide = ratio([5.0, 10.0, 20.0, 9.0, 12.0], [2.0, 5.0, 9.0, 5.0, 6.0])
    for one in (narrow, wide):
        assert one.low <= one.value <= one.high
    assert wide.high - wide.low > narrow.high - narrow.low


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 200 experiments whose true ratio of medians is 2, the interval holds it in nine of ten at least."""
    chance = random.Random(7)

    def drawn(centre: float) -> list[float]:
        return [chance.lognormvariate(0, 0.3) * centre for _ in range(15)]

    held = sum(
        one.low <= 2 <= one.high for one in (ratio(drawn(2.0), drawn(1.0), seed=n, draws=400) for n in range(200))
    )
    assert held >= 180


def test_the_same_samples_give_the_same_interval() -> None:
    """A report made again says the same."""
    values = [1.0, 4.0, 2.0, 8.0]
    assert middle(values) == middle(values)
    assert middle(values).value == median(values)


def test_without_samples_there_is_no_estimate() -> None:
    """Nothing measured is nothing claimed."""
    with pytest.raises(ValueError, match="no samples"):
        ratio([1.0], [])
