"""The command `pipelines`: errors as a line and an exit code."""

import os
import sys
from collections.abc import Sequence

from pipelines_client import complete
from pipelines_client.command import app
from pipelines_client.errors import ClientError, Code
from pipelines_client.screen import Screen

# Options of the command itself, which people write where they come to their mind.
ANYWHERE = frozenset({"--url", "--context", "--namespace", "-n"})
NO_COLOR = "--no-color"


def ordered(arguments: Sequence[str]) -> list[str]:
    """The same arguments, those of the command itself first."""
    first: list[str] = []
    rest: list[str] = []
    left = list(arguments)
    while left:
        one = left.pop(0)
        if one == "--":
            return [*first, *rest, one, *left]
        if one in ANYWHERE and left:
            first += [one, left.pop(0)]
        elif one == NO_COLOR or (one.partition("=")[0] in ANYWHERE and "=" in one):
            first.append(one)
        else:
            rest.append(one)
    return [*first, *rest]


def main() -> None:
    """Exit status: see errors.Code."""
    arguments = sys.argv[1:]
    if not complete.asked():
        arguments = ordered(arguments)
    # a character that the terminal cannot show must not end the command
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr] # they are text files here
    try:
        app(args=arguments, prog_name="pipelines")
    except ClientError as exc:
        Screen(colours=NO_COLOR not in arguments).error(str(exc), hint=exc.hint)
        sys.exit(exc.code)
    except BrokenPipeError:
        # whoever read our output has seen enough; Python's own last flush must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Code.ERROR)


if __name__ == "__main__":
    main()
