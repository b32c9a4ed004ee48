"""The door of Kubernetes: a bearer token is reviewed by the cluster, and RBAC says which paths its user may call.

Rights are those of `nonResourceURLs`: the request's path under `/orchestrator`, and its method as the verb. Not the
bare path: by default any user of a cluster may `get` its own `/api/*` (the ClusterRole system:discovery). Nobody is let
in on trust: while the cluster does not answer, only those come in whose token and right were confirmed seconds ago.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers

from orchestrator.doors import Asked, Caller
from orchestrator.doors.credentials import bearer, digest, worthless
from orchestrator.doors.memory import Memory
from orchestrator.errors import Forbidden
from orchestrator.kubernetes_api.reviews import Reviews, User

GOOD_SECONDS = 10.0
BAD_SECONDS = 2.0
REMEMBERED = 4096
PREFIX = "/orchestrator"
SCRAPED = "/metrics"  # as it is everywhere: what scrapes a cluster has this right already
HOW = "send a token that the cluster knows as `Authorization: Bearer TOKEN`, such as one from `kubectl create token`"

Rights = Memory[tuple[User, str, str], bool]


@dataclass(frozen=True, kw_only=True)
class TokenHolder:
    """A caller by a token of the cluster."""

    user: User
    reviews: Reviews
    rights: Rights
    known: bool = True

    @property
    def name(self) -> str:
        """As Kubernetes calls them: a service account is `system:serviceaccount:NAMESPACE:NAME`."""
        return self.user.name

    async def may(self, asked: Asked) -> bool:
        """Whether RBAC has it. Raises Forbidden, for a pipeline that is there and for one that is not."""
        verb, path = asked.method.lower(), _right(asked.path)
        if await self._may(verb, path):
            return True
        what = f"{asked.action} in the pipeline {asked.pipeline}" if asked.pipeline and asked.action else "do this"
        raise Forbidden(
            f"{self.name} may not {what}; bind it to a ClusterRole that has the verb {verb} "
            f"on the nonResourceURL {path[:200]}"
        )

    async def readable(self, pipelines: Iterable[str]) -> list[str]:
        """Those whose runs RBAC lets them list."""
        names = list(pipelines)
        allowed = await asyncio.gather(*(self._may("get", _right(f"/api/{name}/runs")) for name in names))
        return [name for name, may in zip(names, allowed, strict=True) if may]

    async def _may(self, verb: str, path: str) -> bool:
        key = (self.user, verb, path)
        return await self.rights.recall(key, lambda: self.reviews.allowed(self.user, verb=verb, path=path))


def _right(path: str) -> str:
    """The path that RBAC is asked about."""
    return path if path == SCRAPED else f"{PREFIX}{path}"


class Tokens:
    """What the cluster said of tokens and of rights, for some seconds; of a token its digest alone is kept."""

    def __init__(self, reviews: Reviews, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._reviews = reviews
        self._users: Memory[bytes, User | None] = Memory(
            lambda user: user is not None,
            good_seconds=GOOD_SECONDS,
            bad_seconds=BAD_SECONDS,
            most=REMEMBERED,
            clock=clock,
        )
        self._rights: Rights = Memory(
            bool, good_seconds=GOOD_SECONDS, bad_seconds=BAD_SECONDS, most=REMEMBERED, clock=clock
        )

    async def admit(self, headers: Headers, *, doubt: Callable[[], None]) -> Caller:
        """Whoever the cluster says the token is."""
        token = bearer(headers, how=HOW)
        user = await self._users.recall(digest(token), lambda: self._reviews.user(token), before=doubt)
        if user is None:
            raise worthless(HOW)
        return TokenHolder(user=user, reviews=self._reviews, rights=self._rights)

    def session(self, headers: Headers) -> str:
        """The token itself, which the cluster is to be asked about each time; it ends by its own time."""
        return bearer(headers, how=HOW)

    async def resume(self, session: str, *, doubt: Callable[[], None]) -> Caller:
        """As for one that a header carries."""
        return await self.admit(Headers({"authorization": f"Bearer {session}"}), doubt=doubt)
