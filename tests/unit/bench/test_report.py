"""From given lines to the table, the page and the drawings."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ...bench import report, samples
from ...bench.benchmark import Benchmark, Growth, Setting, Target, Variant
from ...bench.catalogue import BENCHMARKS
from ...bench.intervals import Estimate
from ...bench.plots import strip
from ...bench.series import order, play


def of(variant: str, **figures: float) -> samples.Sample:
    return samples.Sample(
        benchmark="jump",
        variant=variant,
        figures=figures,
        number=1,
        seed=1,
        short=False,
        at="2026-01-01T00:00:00+00:00",
        revision="abc",
        cores=2,
        load=0.5,
    )


@contextmanager
def opened(setting: Setting) -> Iterator[object]:
    yield lambda variant: {"seconds": 1.0 if variant.ours else 4.0, "peak_bytes": 3e6}


JUMP = Benchmark(
    name="jump",
    what="how long a jump takes",
    variants=(Variant(name="ours", title="this platform", ours=True), Variant(name="rival", title="a rival", most=1)),
    targets=(
        Target(what="time", figure="seconds", of="ours", against="rival", must=0.5, aim=0.2),
        Target(what="memory", figure="peak_bytes", of="ours", must=2e6),
    ),
    growth=(Growth(what="height", figure="peak_bytes", before="rival", after="ours", before_in="walk"),),
    opened=opened,  # type: ignore[arg-type]
    rounds=3,
)


def test_the_table_is_made_from_the_lines() -> None:
    """Ratio, interval, counts and verdict of samples whose answer is known."""
    taken = [of("ours", seconds=1.0, peak_bytes=3e6)] * 3 + [of("rival", seconds=4.0)] * 2
    _, _, time, memory = report.summary({"jump": JUMP}, {"jump": taken}).splitlines()
    assert time == "| time | ≤ 0.50 × | ≤ 0.20 × | 0.25 × | 0.25 … 0.25 | 3, 2 | reached |"
    assert memory == "| memory | ≤ 2 MB |  | 3 MB | 3 … 3 | 3 | **missed** |"


def test_growth_is_told_across_benchmarks() -> None:
    """The figure before may be another benchmark's; a pair that lacks one side has no row."""
    taken = {"jump": [of("ours", peak_bytes=6e6)] * 2, "walk": [of("rival", peak_bytes=3e6)] * 2}
    known = {"jump": JUMP, "walk": JUMP}
    assert "| height | peak, MB | 3 | 6 | 2.00 × | 2.00 … 2.00 |" in report.growth(known, taken)
    assert report.growth(known, {"jump": taken["jump"]}) == ""


def test_what_was_not_measured_says_so() -> None:
    """A target whose rival is missing is no success."""
    _, _, time, _ = report.summary({"jump": JUMP}, {"jump": [of("ours", seconds=1.0, peak_bytes=1)]}).splitlines()
    assert "not measured" in time
    assert "reached" not in time


@pytest.mark.parametrize(
    ("low", "value", "high", "says"),
    [
        (0.1, 0.15, 0.19, "aim reached"),
        (0.1, 0.15, 0.3, "aim reached, by the median"),
        (0.3, 0.4, 0.5, "reached"),
        (0.3, 0.4, 0.6, "reached, by the median"),
        (0.3, 0.6, 0.7, "**missed**"),
    ],
)
def test_a_verdict_is_as_sure_as_its_interval(low: float, value: float, high: float, says: str) -> None:
    """Only an interval wholly on the right side is a plain success."""
    assert report.verdict(JUMP.targets[0], Estimate(value=value, low=low, high=high)) == says


def test_a_lower_bound_is_read_the_other_way() -> None:
    """At least: the interval's low end decides."""
    target = Target(what="rate", figure="per_second", of="ours", against="rival", must=2, least=True)
    assert report.verdict(target, Estimate(value=3, low=2.1, high=4)) == "reached"
    assert report.verdict(target, Estimate(value=3, low=1.9, high=4)) == "reached, by the median"
    assert report.verdict(target, Estimate(value=1.9, low=1, high=4)) == "**missed**"


def test_each_round_has_each_variant_once_in_an_order_of_its_own() -> None:
    """Interleaved, repeatable by its seed, and one that takes long leaves after its samples."""
    variants = tuple(Variant(name=name, title=name, most=2 if name == "c" else None) for name in "abcd")
    played = [one.name for one in order(variants, rounds=6, seed=3)]
    assert played == [one.name for one in order(variants, rounds=6, seed=3)]
    assert played != [one.name for one in order(variants, rounds=6, seed=4)]
    assert sorted(played[:4]) == sorted(played[4:8]) == ["a", "b", "c", "d"]
    assert len({tuple(played[8 + 3 * n : 11 + 3 * n]) for n in range(4)}) > 1
    assert played.count("c") == 2


def test_a_run_leaves_lines_and_the_page_is_made_from_them(tmp_path: Path) -> None:
    """Every sample is a line; the page, its table and its drawings come of the lines alone."""
    play(JUMP, file=tmp_path / "data" / "jump.jsonl", folder=tmp_path / "work", seed=1, rounds=None, short=False)
    taken = samples.read(tmp_path / "data" / "jump.jsonl")
    assert sorted(one.variant for one in taken) == ["ours", "ours", "ours", "rival"]
    report.write({"jump": JUMP}, tmp_path / "data", tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert (tmp_path / "summary.md").read_text() in page
    assert "| this platform | 3 | 1 | 3 |" in page
    for drawing in ("jump-seconds.svg", "jump-peak-bytes.svg"):
        assert f"({drawing})" in page
        assert ET.parse(tmp_path / drawing).getroot().tag.endswith("svg")  # noqa: S314 - a file of ours


def test_without_samples_the_report_says_what_to_do(tmp_path: Path) -> None:
    """No empty page."""
    with pytest.raises(FileNotFoundError, match="run `make bench` first"):
        report.write(BENCHMARKS, tmp_path, tmp_path)


def test_a_drawing_has_a_dot_for_each_sample() -> None:
    """Raw samples, not averages; names that mean something to XML stay names."""
    drawn = ET.fromstring(strip("a < b", "s", {"x & y": (True, [1.0, 2.0, 3.0]), "z": (False, [400.0])}))  # noqa: S314
    assert sum(1 for one in drawn.iter() if one.tag.endswith("circle")) == 4
    assert {"a < b", "x & y", "s, logarithmic"} <= {one.text for one in drawn.iter()}


def test_every_target_names_a_variant_of_its_benchmark() -> None:
    """A typing error would leave a target unmeasured for ever."""
    for benchmark in BENCHMARKS.values():
        names = {one.name for one in benchmark.variants}
        assert {one.of for one in benchmark.targets} | {one.against for one in benchmark.targets} <= names | {None}
