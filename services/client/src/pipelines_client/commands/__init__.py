"""What each command does, a module each. `pipelines_client.command` imports the one that is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines_client.screen import Screen

if TYPE_CHECKING:
    from pipelines_client.api import Api
    from pipelines_client.place import Wanted


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a command works with."""

    api: "Api"
    screen: Screen


@contextmanager
def session(wanted: "Wanted", screen: Screen) -> Iterator[Session]:
    """The API, found and connected, while the block lasts."""
    from pipelines_client.place import Found  # noqa: PLC0415 -- the doctor's first line does not wait for it

    with Found(wanted=wanted, say=screen.note).api() as api:
        yield Session(api=api, screen=screen)
