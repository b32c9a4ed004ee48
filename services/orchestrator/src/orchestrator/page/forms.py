"""A form that comes back: whether a page of ours was filled in, by the one it was shown to, and what it says.

Two things are asked of it. The browser says that a page of this host sent it; and it carries a token that only such a
page holds, signed with what every replica shares, for the caller and the session that it was shown to, for some hours.
"""

import hashlib
import hmac
import time
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request

from orchestrator.doors import Caller, browsing
from orchestrator.errors import Forbidden, InvalidRequest

TOKEN = "token"  # noqa: S105 -- the name of a form's field
MOST_FIELDS = 20
MEDIA = "application/x-www-form-urlencoded"


class Forms:
    """Signs and checks forms. Nothing is kept of those that were shown."""

    def __init__(self, shared: str) -> None:
        """`shared`: a secret that all replicas have; what is signed with is derived from it."""
        self._key = hashlib.sha256(f"forms of the page\0{shared}".encode()).digest()

    def token(self, caller: Caller, session: str | None, *, now: float | None = None) -> str:
        """What each form shown to a caller carries."""
        until = f"{browsing.expiry(now):x}"
        return f"{until}.{self._signature(until, caller, session)}"

    async def read(self, request: Request) -> Mapping[str, str]:
        """The fields of a form that is ours. Raises Forbidden, and InvalidRequest for what is no form."""
        refuse_foreign(request.headers)
        fields = await fields_of(request)
        until, _, signature = fields.get(TOKEN, "").partition(".")
        caller: Caller = request.state.caller
        expected = self._signature(until, caller, browsing.session(request.headers))
        if not hmac.compare_digest(expected.encode(), signature.encode()) or int(until, 16) < time.time():
            raise Forbidden("this form is too old, or was shown to somebody else; load its page again and repeat")
        return fields

    def _signature(self, until: str, caller: Caller, session: str | None) -> str:
        told = f"{until}\0{caller.name}\0{session or ''}"
        return hmac.new(self._key, told.encode(), hashlib.sha256).hexdigest()


def refuse_foreign(headers: Headers) -> None:
    """Refuse a form that no page of this host sent, by what the browser says of it. Raises Forbidden."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        ours = site == "same-origin"
    else:
        # http:// to another machine: browsers say where a form comes from by this alone
        origin = urlsplit(headers.get("origin", ""))
        ours = bool(origin.netloc) and origin.netloc.lower() == headers.get("host", "").lower()
    if not ours:
        raise Forbidden(
            "this form does not come from a page of this service, as far as the browser says; open the page and repeat"
        )


async def fields_of(request: Request) -> Mapping[str, str]:
    """The fields of a form, each once. Raises InvalidRequest."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA:
        raise InvalidRequest(f"a form is sent as {MEDIA}; programs use the API below /api")
    try:
        pairs = parse_qsl(
            (await request.body()).decode(),
            keep_blank_values=True,
            strict_parsing=True,
            max_num_fields=MOST_FIELDS,
            errors="strict",
        )
    except ValueError as exc:
        raise InvalidRequest("the form cannot be read; load its page again and repeat") from exc
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise InvalidRequest("a field stands twice in the form; load its page again and repeat")
    return {name: value.replace("\r\n", "\n").strip() for name, value in fields.items()}
