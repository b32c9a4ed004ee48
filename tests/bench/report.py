"""From raw samples to the page: the table of targets, every figure's median, a drawing for each figure of a target."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from . import plots, samples
from .benchmark import Benchmark, Growth, Target
from .intervals import Estimate, middle, ratio
from .samples import Sample, values

# What another page takes over stands between these lines.
BEGIN, END = "<!-- bench: summary -->\n", "<!-- /bench -->\n"

_HEAD = """# How fast, against what

`make bench-report` makes this page from the raw samples under [data](data); `make bench` makes those, and
`make bench NAME=load` those of one benchmark. How it is measured: [tests/bench](../../tests/bench/README.md).

A ratio is that of two medians, ours over the rival's, with its bootstrap 95 % interval. The variants of a benchmark
were measured in one run, in random order, on a machine that others used too: read the ratios, not the seconds.
"""

_SHORT = "\n**This was the short form: it shows that everything runs, and nothing about speed.**\n"

_MILLION = 1_000_000.0
_UNITS = {"_bytes": ("MB", 1 / _MILLION), "_ms": ("ms", 1.0), "_per_second": ("/s", 1.0), "_seconds": ("s", 1.0)}


def write(benchmarks: Mapping[str, Benchmark], data: Path, folder: Path) -> None:
    """Write README.md, summary.md and the drawings of those benchmarks that have samples. Raises FileNotFoundError."""
    found = {
        name: taken
        for name in benchmarks
        if (path := data / f"{name}.jsonl").exists() and (taken := samples.read(path))
    }
    if not found:
        raise FileNotFoundError(f"there are no samples under {data}: run `make bench` first")
    folder.mkdir(parents=True, exist_ok=True)
    table = summary(benchmarks, found)
    (folder / "summary.md").write_text(table)
    short = any(one.short for taken in found.values() for one in taken)
    parts = [_HEAD + (_SHORT if short else ""), table, growth(benchmarks, found)]
    for name, taken in found.items():
        benchmark = benchmarks[name]
        drawings = _draw(benchmark, taken, folder)
        parts += [
            f"## {name}\n",
            f"{benchmark.what}\n",
            *([benchmark.notes.strip() + "\n"] if benchmark.notes else []),
            _medians(benchmark, taken),
            "\n".join(f"![{title}]({path})" for title, path in drawings),
            _origin(taken),
        ]
    (folder / "README.md").write_text("\n".join(part.rstrip() + "\n" for part in parts if part))


def show_summary(page: Path, summary_page: Path) -> None:
    """Put the table as it is now between the lines that mark its place on another page, where it has such lines."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if end:
        page.write_text(f"{before}{BEGIN}{summary_page.read_text()}{END}{after}")


def summary(benchmarks: Mapping[str, Benchmark], found: Mapping[str, Sequence[Sample]]) -> str:
    """A row for each target of the benchmarks that were measured."""
    lines = ["| what | must reach | aim | measured | 95 % | samples | |", "|---|--:|--:|--:|--:|--:|---|"]
    for name, taken in found.items():
        for target in benchmarks[name].targets:
            mine = values(taken, target.of, target.figure)
            others = values(taken, target.against, target.figure) if target.against else None
            if not mine or others == []:
                cells = [bound(target, target.must), bound(target, target.aim), "not measured", "", "", ""]
            else:
                estimate = ratio(mine, others) if others else middle(mine)
                counts = f"{len(mine)}" if others is None else f"{len(mine)}, {len(others)}"
                interval = f"{_shown(target, estimate.low)} … {_shown(target, estimate.high)}"
                cells = [
                    bound(target, target.must),
                    bound(target, target.aim),
                    _shown(target, estimate.value, unit=True),
                    interval,
                    counts,
                    verdict(target, estimate)
                    if min(map(len, (mine, others or mine))) > 1
                    else "one sample: no verdict",
                ]
            lines.append(f"| {target.what} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def growth(benchmarks: Mapping[str, Benchmark], found: Mapping[str, Sequence[Sample]]) -> str:
    """How cost grows: a row for each pair of variants that was measured; empty where none was."""
    lines = []
    for name, taken in found.items():
        for one in benchmarks[name].growth:
            before = values(found.get(one.before_in or name, ()), one.before, one.figure)
            after = values(taken, one.after, one.figure)
            if before and after:
                lines.append(f"| {one.what} | {_head(one.figure)} | {_grown(one, before, after)} |")
    if not lines:
        return ""
    head = [
        "## How cost grows\n",
        "| what grows | figure | before | after | ratio | 95 % |",
        "|---|---|--:|--:|--:|--:|",
    ]
    return "\n".join([*head, *lines]) + "\n"


def _grown(one: Growth, before: Sequence[float], after: Sequence[float]) -> str:
    factor = _unit(one.figure)[1]
    estimate = ratio(after, before)
    medians = (plots.short(middle(values).value * factor) for values in (before, after))
    return " | ".join([*medians, f"{estimate.value:.2f} ×", f"{estimate.low:.2f} … {estimate.high:.2f}"])


def verdict(target: Target, estimate: Estimate) -> str:
    """What is to be said of a target: by the whole interval where it is on one side of the bound, else with doubt."""
    for limit, reached in ((target.aim, "aim reached"), (target.must, "reached")):
        if limit is None:
            continue
        worst, value = (estimate.low if target.least else estimate.high), estimate.value
        if _keeps(target, worst, limit):
            return reached
        if _keeps(target, value, limit):
            return f"{reached}, by the median"
    return "**missed**"


def bound(target: Target, limit: float | None) -> str:
    """A bound as the table has it."""
    return "" if limit is None else f"{'≥' if target.least else '≤'} {_shown(target, limit, unit=True)}"


def _keeps(target: Target, value: float, limit: float) -> bool:
    return value >= limit if target.least else value <= limit


def _shown(target: Target, value: float, *, unit: bool = False) -> str:
    if target.against:
        return f"{value:.2f}{' ×' if unit else ''}" if value < 10 else f"{value:.1f}{' ×' if unit else ''}"
    name, factor = _unit(target.figure)
    text = f"{value * factor:.0f}" if value * factor >= 100 else f"{value * factor:.3g}"
    return f"{text} {name}".rstrip() if unit else text


def _unit(figure: str) -> tuple[str, float]:
    return next((unit for ending, unit in _UNITS.items() if figure.endswith(ending)), ("", 1.0))


def _medians(benchmark: Benchmark, taken: Sequence[Sample]) -> str:
    figures = list(dict.fromkeys(figure for one in taken for figure in one.figures))
    lines = [
        f"| | samples | {' | '.join(_head(figure) for figure in figures)} |",
        "|---|--:|" + "--:|" * len(figures),
    ]
    for variant in benchmark.variants:
        cells = []
        for figure in figures:
            mine = values(taken, variant.name, figure)
            cells.append(plots.short(middle(mine).value * _unit(figure)[1]) if mine else "")
        count = sum(one.variant == variant.name for one in taken)
        if count:
            lines.append(f"| {variant.title} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _head(figure: str) -> str:
    name, _ = _unit(figure)
    return f"{_plain(figure)}, {name}" if name and name != "/s" else f"{_plain(figure)} a second" if name else figure


def _plain(figure: str) -> str:
    ending = next((ending for ending in _UNITS if figure.endswith(ending)), "")
    return figure.removesuffix(ending).replace("_", " ") or "wall"


def _draw(benchmark: Benchmark, taken: Sequence[Sample], folder: Path) -> list[tuple[str, str]]:
    drawings = []
    for figure in dict.fromkeys(target.figure for target in benchmark.targets):
        name, factor = _unit(figure)
        rows = {
            variant.title: (variant.ours, [value * factor for value in mine])
            for variant in benchmark.variants
            if (mine := values(taken, variant.name, figure))
        }
        if not rows:
            continue
        title = f"{benchmark.name}: {_plain(figure)}"
        path = f"{benchmark.name}-{figure.replace('_', '-')}.svg"
        (folder / path).write_text(plots.strip(title, f"{_plain(figure)}{name}" if name == "/s" else name, rows))
        drawings.append((title, path))
    return drawings


def _origin(taken: Sequence[Sample]) -> str:
    loads = [one.load for one in taken]
    return (
        f"{len(taken)} samples, seed {taken[0].seed}, commit {taken[-1].revision}, {taken[0].at[:10]},"
        f" {taken[0].cores} cores; the machine's load before a sample was {min(loads):.1f} to {max(loads):.1f}."
    )
