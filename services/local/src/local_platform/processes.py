"""Parts as child processes: started with a log file each, watched, and stopped together in reverse order."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

from local_platform.errors import PartFailed

_GRACE_SECONDS = 15.0

Echo = Callable[[str, str], None]


class Processes:
    """The running parts. Use as an async context manager: leaving the block stops every part.

    Their ids are kept in a file, so that parts which outlived a killed parent are stopped before new ones start.
    """

    def __init__(self, state: Path, *, echo: Echo | None = None) -> None:
        self._logs = state / "logs"
        self._record = state / "processes.json"
        self._echo = echo
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._readers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Processes":
        self._logs.mkdir(parents=True, exist_ok=True)
        self._stop_survivors()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for part in reversed(list(self._running)):
            await self._stop(part)
        await asyncio.gather(*self._readers)
        self._record.unlink(missing_ok=True)

    def log(self, part: str) -> Path:
        """Where a part's output goes."""
        return self._logs / f"{part}.log"

    async def start(self, part: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a part that is to keep running."""
        self._running[part] = await self._spawn(part, command, environment)
        self._remember()

    async def run(self, part: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run a command to its end.

        Raises:
            PartFailed: it ended with another status than 0.
        """
        process = await self._spawn(part, command, environment)
        try:
            status = await process.wait()
        finally:
            if process.returncode is None:
                _signal(process, signal.SIGKILL)
        if status != 0:
            raise PartFailed(part, f"ended with status {status}", self.log(part))

    def check(self) -> None:
        """Do nothing while every part runs.

        Raises:
            PartFailed: one has ended.
        """
        for part, process in self._running.items():
            if process.returncode is not None:
                raise PartFailed(part, f"ended with status {process.returncode}", self.log(part))

    async def _spawn(
        self, part: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # Ctrl-C reaches this process alone, which then stops the parts in order.
            start_new_session=True,
        )
        log = self.log(part).open("wb")
        self._readers.append(asyncio.create_task(self._keep_output(part, process, log)))
        return process

    async def _keep_output(self, part: str, process: asyncio.subprocess.Process, log: IO[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        with log:
            while chunk := await process.stdout.read(65536):
                log.write(chunk)
                log.flush()
                if self._echo is not None:
                    for line in chunk.decode(errors="replace").splitlines():
                        self._echo(part, line)

    async def _stop(self, part: str) -> None:
        process = self._running.pop(part)
        _signal(process, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), _GRACE_SECONDS)
        except TimeoutError:
            pass
        finally:
            # Also what the part itself started and left behind.
            _signal(process, signal.SIGKILL)
        await process.wait()

    def _remember(self) -> None:
        alive = [process.pid for process in self._running.values() if process.returncode is None]
        self._record.write_text(json.dumps({pid: psutil.Process(pid).create_time() for pid in alive}))

    def _stop_survivors(self) -> None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            for pid, created in json.loads(self._record.read_text()).items():
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    if psutil.Process(int(pid)).create_time() == created:
                        os.killpg(int(pid), signal.SIGKILL)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Signal a part and its children: each part leads a process group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
