"""Flows that behave as flows of a team's may; the tests of a run's process deploy them.

What happens in one is written down as a line of the file MARKS.
"""

import asyncio
import ctypes
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task

FOREVER = 600.0


def mark(word: str) -> None:
    """Write down that something happened."""
    with Path(os.environ["MARKS"]).open("a") as marks:
        marks.write(f"{word}\n")


def note(word: str) -> Any:
    """A hook of a flow that writes down its word, the run's id, and the state's name."""

    def hook(_flow: Any, flow_run: Any, state: Any) -> None:
        mark(f"{word} {flow_run.id} {state.name}")

    return hook


async def anote(_flow: Any, _flow_run: Any, state: Any) -> None:
    """The same, as a coroutine."""
    await asyncio.sleep(0)
    mark(f"asynchronous {state.name}")


def fail_to_note(*_: Any) -> None:
    """A hook that fails."""
    raise ValueError("no hook")


HOOKS: dict[str, Any] = {
    "on_cancellation": [fail_to_note, note("cancellation"), anote],
    "on_crashed": [note("crashed")],
    "on_failure": [note("failure")],
}


def block_in_c() -> None:
    """Wait in C for ever, without Python's lock; no signal ends it."""
    libc = ctypes.CDLL(None)
    mutex = ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    mark("blocked")
    libc.pthread_mutex_lock(mutex)


@flow(name="sleeping", persist_result=False, **HOOKS)
def sleeping(seconds: float = FOREVER) -> None:
    """Sleep, and clean up."""
    mark("begun")
    try:
        time.sleep(seconds)
    finally:
        mark("cleaned up")


@flow(name="awaiting", persist_result=False, **HOOKS)
async def awaiting(seconds: float = FOREVER) -> None:
    """The same on an event loop."""
    mark("begun")
    try:
        await asyncio.sleep(seconds)
    finally:
        mark("cleaned up")


@flow(name="blocking", persist_result=False, **HOOKS)
def blocking() -> None:
    """Be where no signal reaches."""
    block_in_c()


@flow(name="ablocking", persist_result=False, **HOOKS)
async def ablocking() -> None:
    """The same on an event loop, which then does nothing else."""
    block_in_c()


@flow(name="exiting", persist_result=False, **HOOKS)
def exiting() -> None:
    """Call sys.exit."""
    sys.exit(3)


@flow(name="starving", persist_result=False, **HOOKS)
def starving() -> None:
    """Run out of memory as Python sees it."""
    raise MemoryError("out of it")


@flow(name="asking", persist_result=False, **HOOKS)
def asking(number: int) -> None:
    """Need a parameter."""
    mark(f"got {number}")


@task
def count(number: int) -> int:
    """A task."""
    get_run_logger().info("counted %d", number)
    return number


@flow(name="telling", persist_result=False)
def telling(lines: int = 1) -> int:
    """Log much, and run a task, just before the end."""
    log = get_run_logger()
    for line in range(lines):
        log.info("line %d", line)
    return count(lines)


@flow(name="stepping", persist_result=False)
def stepping() -> None:
    """Take steps, each a task, for ever."""
    mark("begun")
    for number in range(int(FOREVER)):
        count(number)
        time.sleep(0.5)


@flow(name="generating", persist_result=False)
def generating() -> Iterator[int]:
    """Yield."""
    yield 1
    mark("generated")


@flow(name="agenerating", persist_result=False)
async def agenerating() -> AsyncIterator[int]:
    """Yield asynchronously."""
    yield 1
    mark("generated")


@flow(name="writing", persist_result=False)
def writing() -> None:
    """Read a file of the image's working directory, and write one there."""
    mark(Path("given.txt").read_text())
    Path("written.txt").write_text("written")
    logging.getLogger(__name__).info("written")


@flow(name="forking", persist_result=False)
def forking() -> None:
    """Work with processes of its own, each a fork of this one, and end them by SIGTERM, as leaving the block does."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        mark(str(sum(pool.map(abs, range(-3, 3)))))
    time.sleep(2)
    mark("ended")


NO_FLOW = "no flow"
