"""Whether a request comes in: decided by its method, path, headers and address, before its body is read.

In this order: the head's size, the probes (always open), a browser's foreign page, the credential, how often its holder
comes, what the holder may do. Who proves a name is counted under it and not by address, so that callers behind one
address do not stand in each other's way; requests that prove nothing are counted by address and all together.
"""

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import Scope

from orchestrator.doors import SAFE_METHODS, Anonymous, Asked, Caller, Door, browsing, unknown_pipeline
from orchestrator.doors.rates import Rates, address
from orchestrator.errors import Forbidden, HeadTooLarge, InvalidRequest, Unauthenticated

PROBES = frozenset({"/healthz", "/readyz"})
METRICS = "/metrics"

MOST_HEADERS = 100
HEAD_BYTES = 32 * 1024
MOST_PARAMETERS = 64


class Entrance:
    """The door, the rates and what is always open, for one application."""

    def __init__(self, door: Door, rates: Rates, *, pipelines: Iterable[str], metrics_open: bool) -> None:
        self._door = door
        self._rates = rates
        self._pipelines = list(pipelines)
        self._always_open = PROBES | {METRICS} if metrics_open else PROBES

    async def admit(self, scope: Scope, headers: Headers) -> Caller:
        """Who calls. What they may do is `permit`'s to say.

        Raises HeadTooLarge, InvalidRequest, Unauthenticated, TooManyRequests, DoorUnavailable, Forbidden.
        """
        _measure(scope)
        if scope["path"] in self._always_open:
            return Anonymous()
        _refuse_foreign_pages(scope["method"], headers)
        if browsing.is_open(scope["path"]):
            return Anonymous()
        session = browsing.session(headers) if browsing.is_page(scope["path"]) else None
        return await self._admitted(scope, headers, session)

    async def sign_in(self, scope: Scope, credential: str) -> tuple[Caller, str]:
        """Whose credential a browser's form sends, and what its cookie holds from now on. Raises as `admit` does."""
        headers = Headers({"authorization": f"Bearer {credential.strip()}"})
        caller = await self._admitted(scope, headers, None)
        return caller, self._door.session(headers)

    async def _admitted(self, scope: Scope, headers: Headers, session: str | None) -> Caller:
        doubt = self._rates.doubt(address(scope.get("client")))
        try:
            if session is not None:
                caller = await self._door.resume(session, doubt=doubt.pay)
            else:
                caller = await self._door.admit(headers, doubt=doubt.pay)
        except Unauthenticated:
            doubt.pay()
            raise
        doubt.refund()
        return caller

    async def may(self, caller: Caller, method: str, path: str) -> bool:
        """Whether the caller may do that of the API, for a page that offers it. Raises DoorUnavailable."""
        try:
            return await caller.may(Asked.of(method, path))
        except Forbidden:
            return False

    async def permit(self, caller: Caller, scope: Scope) -> None:
        """Return where the caller may do what is asked for, now.

        Raises TooManyRequests, Forbidden, DoorUnavailable, and UnknownPipeline for one they may not know of.
        """
        if scope["path"] in self._always_open:
            return
        asked = Asked.of(scope["method"], browsing.in_the_api(scope["method"], scope["path"]))
        self._rates.count(counted(caller, scope), write=asked.method not in SAFE_METHODS)
        if browsing.is_open(scope["path"]):
            return
        if not await caller.may(asked):
            raise await unknown_pipeline(asked.pipeline or "", caller=caller, pipelines=self._pipelines)


def counted(caller: Caller, scope: Scope) -> str:
    """Under which name a caller's requests and streams are counted."""
    return caller.name if caller.known else address(scope.get("client"))


def _measure(scope: Scope) -> None:
    """Refuse a head that is larger than any of ours could be."""
    headers = scope["headers"]
    size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    size += sum(len(name) + len(value) + 4 for name, value in headers)
    if len(headers) > MOST_HEADERS or size > HEAD_BYTES:
        raise HeadTooLarge(f"a request here has {MOST_HEADERS} headers and {HEAD_BYTES} bytes before its body at most")
    if scope["query_string"].count(b"&") >= MOST_PARAMETERS:
        raise InvalidRequest(f"there are more than {MOST_PARAMETERS} query parameters; no route takes as many")


def _refuse_foreign_pages(method: str, headers: Headers) -> None:
    """A page of another site, open in a browser that reaches this service, must not start runs in its user's name."""
    if method not in SAFE_METHODS and headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
        raise Forbidden(
            "a browser sent this for a page of another site; call from a page of this service, or from a program"
        )
