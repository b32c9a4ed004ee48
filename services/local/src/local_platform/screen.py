"""What people watch in the terminal: steps with their times, log lines by part, failures with evidence."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from local_platform.errors import PartFailed, PlatformError

_LOG_LINES = 25


class Screen:
    """Progress on a terminal as a spinner, elsewhere as plain lines."""

    def __init__(self, console: Console, errors: Console) -> None:
        self.console = console
        self.errors = errors

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show a step while it lasts, and its time in seconds once it succeeded."""
        started = time.monotonic()
        with self.console.status(f"{title} …"):
            yield
        self.console.print(f"[green]✓[/] {title} [dim]{time.monotonic() - started:.1f} s[/]")

    def event(self, seconds: float, text: str) -> None:
        """What happened to the run, and when."""
        self.console.print(f"  {seconds:5.1f} s  {escape(text)}", highlight=False, soft_wrap=True)

    def line(self, part: str, text: str) -> None:
        """One log line of a part."""
        self.console.print(f"[cyan]{part:>14}[/] {escape(text)}", highlight=False, soft_wrap=True)

    def failure(self, error: PlatformError) -> None:
        """Which part failed, and the end of its log."""
        self.errors.print(f"[bold red]failed[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        if isinstance(error, PartFailed) and error.log is not None and error.log.exists():
            self.errors.print(f"the end of {error.log}:", highlight=False, soft_wrap=True)
            for text in error.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]:
                self.errors.print(f"  {escape(text)}", highlight=False, soft_wrap=True)
