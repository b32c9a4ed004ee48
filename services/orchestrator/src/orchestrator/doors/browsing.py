"""A browser's requests: which paths are pages, which right of the API each takes, and the cookie it is signed in by.

The cookie counts on pages alone. The API never looks at it, so that no other site's page can use it there.
"""

import time

from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from orchestrator.doors import SAFE_METHODS

HOME = "/"
LIVE = "/live"
SIGN_IN = "/sign-in"
SIGN_OUT = "/sign-out"
STATIC = "/static/"
OF_PIPELINES = "/pipelines/"

COOKIE = "pipelines_session"
SESSION_SECONDS = 12 * 3600

_FIXED = frozenset({HOME, LIVE, SIGN_IN, SIGN_OUT})


def is_page(path: str) -> bool:
    """Whether a path belongs to the pages, not to the API."""
    return path in _FIXED or path.startswith((OF_PIPELINES, STATIC))


def is_open(path: str) -> bool:
    """Whether a page is for those too who have not signed in: nothing on it is about a pipeline."""
    return path in {SIGN_IN, SIGN_OUT} or path.startswith(STATIC)


def in_the_api(method: str, path: str) -> str:
    """The path of the API whose right a request takes: a page's own has none, so that one right is one right."""
    if not is_page(path):
        return path
    if not path.startswith(OF_PIPELINES):
        return "/api/pipelines"
    name, _, rest = path.removeprefix(OF_PIPELINES).partition("/")
    return f"/api/{name}/runs" if method in SAFE_METHODS else f"/api/{name}/{rest}"


def session(headers: Headers) -> str | None:
    """What the browser's cookie holds; None where it has none, or sends a credential besides."""
    if "authorization" in headers or "x-api-key" in headers:
        return None
    return cookie_parser(headers.get("cookie", "")).get(COOKIE) or None


def cookie(value: str, *, secure: bool) -> str:
    """The Set-Cookie header that signs a browser in, or out by an empty value.

    It cannot be read by scripts and is sent to pages of this host alone. `secure`: by https alone.
    """
    seconds = SESSION_SECONDS if value else 0
    only = "; Secure" if secure else ""
    return f"{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{only}"


def expiry(now: float | None = None) -> int:
    """Until when a session begun now lasts, in seconds of the epoch."""
    return int(now if now is not None else time.time()) + SESSION_SECONDS
