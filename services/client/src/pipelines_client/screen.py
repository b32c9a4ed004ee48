"""What people and programs see: data on stdout, for programs as JSON; everything else on stderr."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

WIDE = 10_000  # a table is as wide as it has to be
COLOURS = {
    "Completed": "green",
    "Degraded": "yellow",
    "Failed": "red",
    "Crashed": "red",
    "Cancelled": "dim",
    "Cancelling": "dim",
    "Running": "cyan",
}
RESET = "\033[0m"
CODES = {"bold": "\033[1m", "dim": "\033[2m", "red": "\033[31m", "green": "\033[32m", "yellow": "\033[33m"}
# What could move the cursor or set a title: text from elsewhere is shown, never obeyed.
CONTROLS = {code: "�" for code in (*range(32), *range(127, 160)) if code not in {9, 10}}


def plain(text: str) -> str:
    """Text from elsewhere, fit for a terminal."""
    return text.translate(CONTROLS)


def coloured(stream: TextIO, *, wanted: bool) -> bool:
    """Whether a stream is for eyes that see colours (https://no-color.org)."""
    return wanted and stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Screen:
    """The two streams of one command."""

    def __init__(self, *, as_json: bool = False, colours: bool = True) -> None:
        """`as_json`: for a program. `colours`: False turns them off also where they could be seen."""
        self.as_json = as_json
        self._colours = colours

    @cached_property
    def out(self) -> "Console":
        """Where people read data."""
        return self._console(sys.stdout, width=WIDE)

    @cached_property
    def err(self) -> "Console":
        """Where people read what goes on."""
        return self._console(sys.stderr)

    def _console(self, stream: TextIO, *, width: int | None = None) -> "Console":
        from rich.console import Console  # noqa: PLC0415 -- who wants JSON, or only help, does not wait for it

        sees = coloured(stream, wanted=self._colours)
        return Console(
            file=stream,
            no_color=not sees,
            force_terminal=stream.isatty(),
            width=width,
            highlight=False,
            emoji=False,
            soft_wrap=True,
        )

    def note(self, text: str) -> None:
        """Something that goes on, in a line on stderr."""
        sys.stderr.write(f"{plain(text)}\n")
        sys.stderr.flush()

    def error(self, text: str, *, hint: str | None = None) -> None:
        """What went wrong and what to do, on stderr."""
        begun = "\033[1;31merror:\033[0m" if coloured(sys.stderr, wanted=self._colours) else "error:"
        sys.stderr.write(f"{begun} {plain(text)}\n")
        if hint:
            sys.stderr.write(f"  {plain(hint)}\n")

    def show(self, document: "BaseModel", human: Callable[[], None]) -> None:
        """The command's data: the document for a program, else whatever `human` prints."""
        if self.as_json:
            self.document(document.model_dump(mode="json", by_alias=True))
        else:
            human()
        sys.stdout.flush()

    def document(self, told: Any) -> None:
        """JSON, to be read also by people."""
        sys.stdout.write(json.dumps(told, indent=2, ensure_ascii=False) + "\n")

    def row(self, document: "BaseModel") -> None:
        """One line of JSON, of a stream of them."""
        sys.stdout.write(document.model_dump_json(by_alias=True) + "\n")
        sys.stdout.flush()

    def line(self, text: str = "", *, style: str = "") -> None:
        """A line of data."""
        self.out.print(plain(text), style=style or None, markup=False)

    def styled(self, text: str, style: str = "") -> None:
        """A line of data, shown at once: without what `line` loads to draw."""
        code = CODES.get(style, "") if coloured(sys.stdout, wanted=self._colours) else ""
        sys.stdout.write(f"{code}{plain(text)}{RESET if code else ''}\n")
        sys.stdout.flush()

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], *, state: int | None = None) -> None:
        """Rows under their columns' names; `state` is the number of a column to colour by what it says.

        Nothing is cut: a terminal that is too narrow wraps.
        """
        from rich.table import Table  # noqa: PLC0415 -- as above
        from rich.text import Text  # noqa: PLC0415 -- as above

        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            cells = enumerate(map(plain, row))
            table.add_row(*(Text(cell, style=style_of(cell) if number == state else "") for number, cell in cells))
        self.out.print(table, soft_wrap=False)


def style_of(state: str) -> str:
    """The colour of a state, which also says itself in words."""
    return next((colour for word, colour in reversed(COLOURS.items()) if word in state), "")


def moment(at: datetime | None) -> str:
    """A time where this machine is, with its zone."""
    return at.astimezone().isoformat(sep=" ", timespec="seconds") if at else "-"


def seconds(milliseconds: int | None) -> str:
    """How long something took."""
    if milliseconds is None:
        return "-"
    whole = round(milliseconds / 1000)
    if whole < 60:
        return f"{milliseconds / 1000:.1f} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
