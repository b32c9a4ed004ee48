"""The command behind `make test-faults` and `make faults-report`.

    python -m tests.faults run [--faults "worker-sigkill eviction"] [--sides "ours stock"] [--runs 50] [--seed 1]
    python -m tests.faults report

Each fault, side and seed makes one file of raw samples; the report adds up the seeds. A sample that is there already,
with as many runs, is not played again; remove its file, or ask for it with --again.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

from .catalogue import FAULTS
from .checker import Broken, judge
from .facts import Sample
from .fault import Fault
from .kits import ProxyKit, clear_leftovers
from .ours import Ours
from .report import show_summary, write
from .scenario import Load, play, revision_of, say
from .side import Side
from .stock.side import Stock

ROOT = Path(__file__).parents[2]
DATA = ROOT / "docs" / "faults" / "data"

# Seconds after the last run was asked for and the fault was over, until a run that is not over counts as stuck.
WITHIN = 300.0


def main() -> None:
    """Play scenarios, or write the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="play scenarios on the cluster that CLUSTER names")
    run.add_argument("--faults", default="", help="names, separated by spaces; all of them by default")
    run.add_argument("--sides", default="ours stock")
    run.add_argument("--runs", type=int, default=50)
    run.add_argument("--rate", type=float, default=0.3, help="runs a second, on average")
    run.add_argument("--seed", type=int, default=1)
    run.add_argument("--within", type=float, default=WITHIN, help="seconds until a run counts as stuck")
    run.add_argument("--data", type=Path, default=DATA)
    run.add_argument("--again", action="store_true", help="also what was played before")
    report = commands.add_parser("report", help="write docs/faults and the README's summary from the raw samples")
    report.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    if arguments.command == "report":
        write(arguments.data, DATA.parent)
        show_summary(ROOT / "README.md", DATA.parent / "summary.md")
        return
    faults = _chosen(arguments.faults)
    load = Load(runs=arguments.runs, rate=arguments.rate, seed=arguments.seed, within=arguments.within)
    broken = False
    # Whoever stops a series gets the side back as it was: what is in place is taken away on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for name in arguments.sides.split():
        todo = [
            fault
            for fault in faults
            if name in fault.sides and (arguments.again or not _is_played(arguments.data, name, fault, load))
        ]
        if todo:
            broken |= asyncio.run(_play_all(_side(name), todo, load, arguments.data))
    sys.exit(1 if broken else 0)


async def _play_all(side: Side, faults: list[Fault], load: Load, data: Path) -> bool:
    """Play one after the other; whether this platform broke a promise."""
    broken = False
    kit: ProxyKit | None = None
    side.open()
    try:
        await asyncio.to_thread(clear_leftovers, side)
        for number, fault in enumerate(faults, 1):
            say(f"== {side.name}: {fault.title} ({number} of {len(faults)})")
            try:
                kit = await asyncio.to_thread(_exchanged, kit, fault, side)
                sample = await play(side, fault, load, kit=kit, revision=revision_of(ROOT))
            except Exception:  # noqa: BLE001 - the next fault has its own chance; the command fails in the end
                traceback.print_exc()
                say(f"{side.name} {fault.name}: not played to its end; evidence: {_evidence(side, fault)}")
                broken = True
                continue
            sample.save(_path(data, side.name, fault, load.seed))
            verdict = judge(sample)
            say(
                f"{side.name} {fault.name}: asked {verdict.asked}, accepted {verdict.accepted}, once {verdict.once},"
                f" explained {verdict.explained}, "
                + ", ".join(f"{kind} {verdict.runs(kind)}" for kind in (Broken.LOST, Broken.DOUBLED, Broken.STUCK))
                + f"; {sample.scenario.ended_at:.0f} s"
            )
            for violation in verdict.violations:
                say(f"  {violation}")
            if verdict.violations and side.name == "ours":
                broken = True
                say(f"  evidence: {_evidence(side, fault)}")
    finally:
        if kit is not None:
            kit.remove()
        side.close()
    return broken


def _exchanged(kit: ProxyKit | None, fault: Fault, side: Side) -> ProxyKit | None:
    """The kit that a fault needs, put in place of the one that is there."""
    if type(kit) is fault.kit or (kit is None and fault.kit is None):
        return kit
    if kit is not None:
        kit.remove()
    if fault.kit is None:
        return None
    wanted = fault.kit(side)
    try:
        wanted.install()
    except BaseException:
        wanted.remove()
        raise
    return wanted


def _side(name: str) -> Side:
    cluster = os.environ.get("CLUSTER", "pipelines")
    if name == "ours":
        return Ours(cluster=cluster, namespace=os.environ.get("NAMESPACE", "pipelines"))
    if name == "stock":
        return Stock(cluster=cluster, namespace="stock")
    raise SystemExit(f"there is no side {name!r}: ours or stock")


def _chosen(names: str) -> list[Fault]:
    unknown = [name for name in names.split() if name not in FAULTS]
    if unknown:
        raise SystemExit(f"there is no fault {', '.join(unknown)}: {', '.join(FAULTS)}")
    return [FAULTS[name] for name in names.split()] or list(FAULTS.values())


def _path(data: Path, side: str, fault: Fault, seed: int) -> Path:
    return data / side / f"{fault.name}-{seed}.jsonl"


def _is_played(data: Path, side: str, fault: Fault, load: Load) -> bool:
    path = _path(data, side, fault, load.seed)
    return path.exists() and Sample.load(path).scenario.runs >= load.runs


def _evidence(side: Side, fault: Fault) -> Path:
    """What the cluster looks like now, in a file."""
    path = ROOT / ".local" / "faults" / f"{side.name}-{fault.name}-{datetime.now(UTC):%H%M%S}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "CLUSTER": side.cluster, "NAMESPACE": side.namespace}
    with path.open("w") as file:
        subprocess.run([ROOT / "k8s" / "diagnose"], env=environment, stdout=file, stderr=file, check=False)
    return path


if __name__ == "__main__":
    main()
