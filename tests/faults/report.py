"""From raw samples to the report: a row a fault, both sides beside each other, and the recovery times as measured."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from .catalogue import FAULTS
from .checker import Broken, Verdict, judge
from .facts import Sample, SideName
from .fault import Fault

Samples = Mapping[str, Sequence[Sample]]  # by the fault's name

# What another page takes over of the report stands between these lines.
BEGIN, END = "<!-- faults: summary -->\n", "<!-- /faults -->\n"

_NAMES: Mapping[SideName, str] = {"ours": "this platform", "stock": "stock Prefect"}
_COUNTED = (Broken.LOST, Broken.DOUBLED, Broken.STUCK)

_HEAD = """# Faults, and what became of every run

`make faults-report` makes this page from the raw samples under [data](data); `make test-faults` makes those. What is
done, how, and what each word means: [tests/faults](../../tests/faults/README.md).

Every run was asked for at a steady rate with seeded gaps, under a key of its own; the fault came while runs were
accepted, pending, running and loading. **once**: exactly one effect. **explained**: no effect, and the run's end says
why. **lost**: no effect and no reason. **doubled**: more than one effect. **stuck**: not over when its time was up,
which is told below and counts from the last run asked for and the end of the fault. **other**: any other broken
promise, such as a ledger that disagrees with Prefect.
"""


def load(data: Path, side: SideName) -> dict[str, list[Sample]]:
    """Every sample of a side, by fault, in the order of their seeds."""
    found: dict[str, list[Sample]] = defaultdict(list)
    for path in sorted((data / side).glob("*.jsonl")):
        sample = Sample.load(path)
        found[sample.scenario.fault].append(sample)
    return found


def show_summary(page: Path, summary_page: Path) -> None:
    """Put the summary as it is now between the lines that mark its place on another page."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{page} has no place for the summary: write {BEGIN.strip()} and {END.strip()} into it")
    page.write_text(f"{before}{BEGIN}{summary_page.read_text()}{END}{after}")


def write(data: Path, folder: Path) -> None:
    """Write README.md, the whole report, and summary.md, the table that other pages take over."""
    ours, stock = load(data, "ours"), load(data, "stock")
    (folder / "summary.md").write_text(summary(ours, stock))
    parts = [
        _HEAD,
        "## Summary\n",
        summary(ours, stock),
        "## By fault\n",
        _table(ours, stock),
        "## Recovery, in seconds\n",
        _recovery(ours, stock),
        _waits(ours, stock),
        "## What each scenario met\n",
        _met(ours, stock),
        "## Every broken promise\n",
        _violations(ours, stock),
    ]
    (folder / "README.md").write_text("\n".join(part.rstrip() + "\n" for part in parts))


def summary(ours: Samples, stock: Samples) -> str:
    """A row a side over all faults."""
    lines = [
        "| | faults | runs accepted | exactly one effect | ended and said why | lost | doubled | stuck |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for side, samples in (("ours", ours), ("stock", stock)):
        verdicts = [judge(sample) for several in samples.values() for sample in several]
        accepted, once, explained = (
            sum(getattr(one, name) for one in verdicts) for name in ("accepted", "once", "explained")
        )
        faults = sum(name != "none" for name in samples)
        broken = " | ".join(_counted(_sum(verdicts, kind)) for kind in _COUNTED)
        lines.append(f"| {_NAMES[side]} | {faults} | {accepted} | {once} | {explained} | {broken} |")
    return "\n".join(lines) + "\n"


def _waits(ours: Samples, stock: Samples) -> str:
    """How long runs wait for their start with no fault: what of a recovery is the load's, not the fault's."""
    told = []
    for side, samples in (("ours", ours), ("stock", stock)):
        waits = [wait for sample in samples.get("none", ()) for wait in _starts(sample)]
        if waits:
            told.append(
                f"{_NAMES[side]} {statistics.median(waits):.0f} s at the median and {max(waits):.0f} s at worst"
            )
    if not told:
        return ""
    return (
        "The node holds few flow pods at once, so a backlog goes at the pace of the load. With no fault at all a run"
        f" waited for its start, from its acceptance: {'; '.join(told)}.\n"
    )


def _starts(sample: Sample) -> Iterator[float]:
    """Seconds from each run's acceptance to its first Running."""
    for case in sample.cases:
        accepted = [row.accepted_at for row in case.rows] or [one.at for one in case.attempts if one.run_id]
        running = [seen.at for run in case.flow_runs for seen in run.states if seen.state == "Running"]
        if accepted and running:
            yield min(running) - min(accepted)


def _table(ours: Samples, stock: Samples) -> str:
    columns = "accepted | once | explained | lost | doubled | stuck | other"
    lines = [f"| fault | {columns} | stock: {columns} |", "|---|" + "--:|" * 14]
    for fault in _played(ours, stock):
        cells = [_cells(fault, "ours", ours), _cells(fault, "stock", stock)]
        lines.append(f"| {fault.title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cells(fault: Fault, side: SideName, samples: Samples) -> str:
    if side not in fault.sides:
        return " | ".join(["–"] * 7)
    verdicts = [judge(sample) for sample in samples.get(fault.name, ())]
    if not verdicts:
        return " | ".join(["not played", *[""] * 6])
    other = len(
        {(one.broken, one.key) for verdict in verdicts for one in verdict.violations if one.broken not in _COUNTED}
    )
    counts = [
        str(sum(one.accepted for one in verdicts)),
        str(sum(one.once for one in verdicts)),
        str(sum(one.explained for one in verdicts)),
        *(_counted(_sum(verdicts, kind)) for kind in _COUNTED),
        _counted(other),
    ]
    return " | ".join(counts)


def _recovery(ours: Samples, stock: Samples) -> str:
    lines = [
        "| fault | what is timed | median | worst | times | stock: median | worst | times |",
        "|---|---|" + "--:|" * 6,
    ]
    for fault in _played(ours, stock):
        if not fault.recovery_of:
            continue
        cells = []
        for side, samples in (("ours", ours), ("stock", stock)):
            times = [time for sample in samples.get(fault.name, ()) for time in fault.recovery(sample)]
            if times:
                cells.append(f"{statistics.median(times):.1f} | {max(times):.1f} | {len(times)}")
            else:
                cells.append("– | – | 0" if side in fault.sides else "– | – | –")
        lines.append(f"| {fault.title} | {fault.recovery_of} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _met(ours: Samples, stock: Samples) -> str:
    lines = [
        "| fault | side | seed | runs | met | hit | lasted, s | in all, s | given, s | commit | date |",
        "|---|---|--:|--:|---|--:|--:|--:|--:|---|---|",
    ]
    for fault in _played(ours, stock):
        for samples in (ours, stock):
            for sample in samples.get(fault.name, ()):
                one = sample.scenario
                states = ", ".join(f"{count} {state}" for state, count in sorted(one.at_injection.items()) if count)
                cells = (
                    fault.title,
                    _NAMES[one.side],
                    one.seed,
                    one.runs,
                    states + "".join(f"; {note}" for note in one.notes),
                    len(one.victims),
                    f"{one.healed_at - one.injected_at:.0f}",
                    f"{one.ended_at:.0f}",
                    f"{one.within:.0f}",
                    one.revision,
                    one.date,
                )
                lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _violations(ours: Samples, stock: Samples) -> str:
    lines = []
    for side, samples in (("ours", ours), ("stock", stock)):
        found = [one for several in samples.values() for sample in several for one in judge(sample).violations]
        lines.append(f"**{_NAMES[side]}**: {len(found) or 'none'}.\n")
        lines += [f"- {one}" for one in found]
        lines.append("")
    return "\n".join(lines) + "\n"


def _played(ours: Samples, stock: Samples) -> Iterable[Fault]:
    return [fault for fault in FAULTS.values() if fault.name in ours or fault.name in stock]


def _sum(verdicts: Iterable[Verdict], kind: Broken) -> int:
    return sum(verdict.runs(kind) for verdict in verdicts)


def _counted(number: int) -> str:
    return f"**{number}**" if number else "0"
