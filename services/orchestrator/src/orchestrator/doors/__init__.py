"""Who calls, and what of which pipeline they may do: the words for it. Each kind of door is a module beside this.

A door is asked before a request's body is read, so it judges by method, path and headers alone.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from starlette.datastructures import Headers

from orchestrator.errors import UnknownPipeline

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Action(StrEnum):
    """What can be done with a pipeline."""

    READ = "read"
    START = "start"
    CANCEL = "cancel"
    BACKFILL = "backfill"


_BY_SEGMENT = {str(one): one for one in (Action.START, Action.CANCEL, Action.BACKFILL)}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a request asks for. `pipeline` is None where it is about none.

    `action` is None where no route does that to a pipeline: it then takes every right, so that a route nobody thought
    of here is closed, not open.
    """

    method: str
    path: str
    pipeline: str | None
    action: Action | None

    @classmethod
    def of(cls, method: str, path: str) -> "Asked":
        """What a method on a path means: reading is what changes nothing, else the path's third part says it."""
        parts = path.split("/")[1:]
        about = parts[1] if len(parts) > 2 and parts[0] == "api" else None
        if method in SAFE_METHODS or about is None:
            action: Action | None = Action.READ
        else:
            action = _BY_SEGMENT.get(parts[2])
        return cls(method=method, path=path, pipeline=about, action=action)


class Caller(Protocol):
    """Somebody the door knows by name, or nobody in particular."""

    @property
    def name(self) -> str:
        """How logs and the ledger call them."""

    @property
    def known(self) -> bool:
        """Whether the name was proved; else the address is all that tells callers apart."""

    async def may(self, asked: Asked) -> bool:
        """Whether they may; False also means that they may not know of the pipeline.

        Raises Forbidden where they may know of it, or where nothing was looked up that could be told.
        """

    async def readable(self, pipelines: Iterable[str]) -> list[str]:
        """Those of the pipelines that they may read, in the same order."""


class Door(Protocol):
    """One way of telling callers apart."""

    async def admit(self, headers: Headers, *, doubt: Callable[[], None]) -> Caller:
        """The caller whose credential the headers carry.

        `doubt` is called before another service is asked about a credential; it raises TooManyRequests where too many
        proved worthless. Raises Unauthenticated, and DoorUnavailable where the credential cannot be checked now.
        """

    def session(self, headers: Headers) -> str:
        """What a browser's cookie holds from now on, whose credential in these headers was good."""

    async def resume(self, session: str, *, doubt: Callable[[], None]) -> Caller:
        """The caller whose browser sends that. Raises as `admit` does."""


@dataclass(frozen=True)
class Anonymous:
    """The caller where no door is: anybody who can reach the service, with every right."""

    name: str = "anonymous"
    known: bool = False

    async def may(self, asked: Asked) -> bool:
        """Everything."""
        return True

    async def readable(self, pipelines: Iterable[str]) -> list[str]:
        """All of them."""
        return list(pipelines)


class Open:
    """No door: the network decides who gets here."""

    async def admit(self, headers: Headers, *, doubt: Callable[[], None]) -> Caller:
        """Whoever it is; a credential is not even looked at."""
        return Anonymous()

    def session(self, headers: Headers) -> str:
        """Nothing: nobody has to sign in."""
        return ""

    async def resume(self, session: str, *, doubt: Callable[[], None]) -> Caller:
        """Whoever it is."""
        return Anonymous()


async def unknown_pipeline(name: str, *, caller: Caller, pipelines: Iterable[str]) -> UnknownPipeline:
    """The one answer to a pipeline that is not there and to one that the caller may not know of."""
    known = ", ".join(sorted(await caller.readable(pipelines))) or "none that you may read"
    return UnknownPipeline(f"there is no pipeline {name[:80]!r}; there is: {known}")
