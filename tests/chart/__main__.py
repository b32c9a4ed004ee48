"""The commands behind `make check-chart` and `make checks-report`.

    python -m tests.chart check
    python -m tests.chart report PREFECT_HELM

PREFECT_HELM is a checkout of github.com/PrefectHQ/prefect-helm whose two charts have their dependencies,
unpacked, in their charts/; one that is off may be missing.
"""

import argparse
import asyncio
from pathlib import Path

from . import report
from .checkers import CHECKERS, CheckerMissing, unexplained
from .conftest import SCENARIOS
from .installed import CHECKED, ours


def main() -> None:
    """Check the chart, or write the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.chart", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="findings without a waiver, and waivers without a finding")
    compared = commands.add_parser("report", help="write docs/checks.md: this chart's findings beside prefect-helm's")
    compared.add_argument("prefect_helm", type=Path)
    arguments = parser.parse_args()
    try:
        if arguments.command == "check":
            check()
        else:
            report.write(arguments.prefect_helm)
    except CheckerMissing as missing:
        raise SystemExit(str(missing)) from missing


def check() -> None:
    """Print what is to be mended or explained; fails if there is anything."""
    shapes = [asyncio.run(ours(SCENARIOS[name])) for name in CHECKED]
    wrong = [line for checker in CHECKERS for line in unexplained(checker, shapes)]
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(f"{', '.join(CHECKERS)}: nothing that tests/chart/waivers.yaml does not explain")  # noqa: T201


if __name__ == "__main__":
    main()
