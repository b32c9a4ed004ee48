"""The command behind `make bench` and `make bench-report`.

    python -m tests.bench run [--names "load start"] [--short] [--rounds 10] [--seed 1]
    python -m tests.bench report

A run leaves the raw samples of each benchmark in a file of its own, in place of those of the run before, and then
writes the report. The short form, and any run that names another folder, leave docs/bench alone.
"""

import argparse
import sys
from pathlib import Path

from . import report
from .catalogue import BENCHMARKS
from .machine import Unready
from .series import ROOT, play, say

DOCS = ROOT / "docs" / "bench"
SHORT = ROOT / ".local" / "bench" / "short"


def main() -> None:
    """Measure, or write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        epilog="\n".join(f"{one.name:10} {one.what}" for one in BENCHMARKS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure, then write the report")
    run.add_argument("--names", default="", help="benchmarks, separated by spaces; all of them by default")
    run.add_argument("--seed", type=int, default=1, help="of the order and of generated data")
    run.add_argument("--rounds", type=int, help="samples of each variant; by default as the benchmark has it")
    run.add_argument("--short", action="store_true", help="two rounds of little work: that it runs, not how fast")
    write = commands.add_parser("report", help="write the page, its table and drawings from the raw samples")
    for command in (run, write):
        command.add_argument("--folder", type=Path, help="where samples and page are kept; default docs/bench")
    arguments = parser.parse_args()
    short = arguments.command == "run" and arguments.short
    folder: Path = arguments.folder or (SHORT if short else DOCS)
    try:
        if arguments.command == "run":
            _run(arguments, folder)
        report.write(BENCHMARKS, folder / "data", folder)
    except (FileNotFoundError, Unready) as exc:
        sys.exit(f"{exc}")
    if folder == DOCS:
        report.show_summary(ROOT / "README.md", folder / "summary.md")
    sys.stdout.write((folder / "summary.md").read_text())
    say(f"the page: {folder / 'README.md'}")


def _run(arguments: argparse.Namespace, folder: Path) -> None:
    names = arguments.names.split() or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise Unready(f"there is no benchmark {', '.join(unknown)}: {', '.join(BENCHMARKS)}")
    for name in names:
        play(
            BENCHMARKS[name],
            file=folder / "data" / f"{name}.jsonl",
            folder=ROOT / ".local" / "bench" / name,
            seed=arguments.seed,
            rounds=arguments.rounds,
            short=arguments.short,
        )


if __name__ == "__main__":
    main()
