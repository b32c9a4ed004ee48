"""Plays a benchmark: its variants in random order, round by round, each sample written down at once."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from . import samples
from .benchmark import Benchmark, Setting, Variant
from .samples import Sample

ROOT = Path(__file__).parents[2]
SHORT_ROUNDS = 2


def say(text: str) -> None:
    """A line of progress."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def order(variants: tuple[Variant, ...], *, rounds: int, seed: int) -> Iterator[Variant]:
    """Which variant is measured next: each once a round, in an order of its own, so that drift meets all alike."""
    chance = random.Random(seed)
    for number in range(rounds):
        due = [one for one in variants if one.most is None or number < one.most]
        chance.shuffle(due)
        yield from due


def play(benchmark: Benchmark, *, file: Path, folder: Path, seed: int, rounds: int | None, short: bool) -> None:
    """Measure, and leave the samples in `file`, which is begun anew."""
    file.unlink(missing_ok=True)
    wanted = rounds or (min(SHORT_ROUNDS, benchmark.rounds) if short else benchmark.rounds)
    todo = list(order(benchmark.variants, rounds=wanted, seed=seed))
    titles = {one.name: one.title for one in benchmark.variants}
    say(f"== {benchmark.name}: {benchmark.what} ({len(todo)} samples, seed {seed}{', short' if short else ''})")
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with benchmark.opened(Setting(folder=folder, seed=seed, short=short, say=say)) as take:
        for number, variant in enumerate(todo, 1):
            load = os.getloadavg()[0]
            figures = dict(take(variant))
            samples.add(
                file,
                Sample(
                    benchmark=benchmark.name,
                    variant=variant.name,
                    figures=figures,
                    number=number,
                    seed=seed,
                    short=short,
                    at=datetime.now(UTC).isoformat(timespec="seconds"),
                    revision=_revision(),
                    cores=os.cpu_count() or 1,
                    load=round(load, 2),
                ),
            )
            told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            spent = time.monotonic() - begun
            say(f"  {number:3} of {len(todo)}, {spent:5.0f} s: {titles[variant.name]}: {told}")


def _revision() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"
