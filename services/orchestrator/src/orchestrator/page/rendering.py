"""How a page is made: templates, compiled once each; the files beside them, by the hash of their content; the headers.

Every address on a page is relative to it, so that it works under whatever path a proxy puts before it.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from fastapi import Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request

from orchestrator.artifacts import table
from orchestrator.doors import browsing
from orchestrator.page import calendar, markdown
from orchestrator.page.forms import Forms
from orchestrator.settings import Settings

HERE = Path(__file__).parent
MEDIA = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    # a form's Origin would be hidden by no-referrer
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
}
KEPT = {"Cache-Control": "public, max-age=31536000, immutable"}
LONGEST_CELL = 300


class Pages:
    """All that pages are made with, for one application."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is compiled yet: an orchestrator starts sooner without."""
        self.auth = settings.auth
        self.prefect_ui = settings.prefect_ui_url
        self.forms = Forms(settings.database_url.get_secret_value())

    @property
    def static(self) -> Mapping[str, tuple[bytes, str]]:
        """The files beside the templates, by name: content and media type."""
        return _files()[1]

    def render(
        self, template: str, request: Request, *, status: HTTPStatus = HTTPStatus.OK, **context: Any
    ) -> Response:
        """One page. `root` on it leads to `/`; `token` is what its forms carry."""
        caller = getattr(request.state, "caller", None)
        session = browsing.session(request.headers)
        told = {
            "root": root(request),
            "auth": self.auth,
            "caller": caller,
            "signed_in": session is not None and self.auth != "none" and caller is not None and caller.known,
            "token": self.forms.token(caller, session) if caller is not None else "",
            "now": datetime.now(UTC),
        }
        text = _templates().get_template(template).render(told | context)
        return Response(text, status_code=status, headers=HEADERS, media_type="text/html")


@cache
def _files() -> tuple[Mapping[str, str], Mapping[str, tuple[bytes, str]]]:
    """The name under which each file is served, and what is under it."""
    served: dict[str, tuple[bytes, str]] = {}
    names: dict[str, str] = {}
    for file in sorted((HERE / "static").iterdir()):
        body = file.read_bytes()
        name = f"{file.stem}.{hashlib.sha256(body).hexdigest()[:12]}{file.suffix}"
        names[file.name] = name
        served[name] = (body, MEDIA[file.suffix])
    return names, served


@cache
def _templates() -> Environment:
    """The templates, each compiled when it is first used, once for all applications of a process."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals |= {"static": _files()[0], "words": calendar.WORDS, "picture": markdown.picture}
    environment.filters |= {
        "moment": moment,
        "ago": ago,
        "seconds": calendar.seconds,
        "pretty": pretty,
        "short": short,
        "markdown": markdown.rendered,
        "tabled": table,
    }
    environment.tests |= {"picture": lambda url: bool(markdown.DRAWN.fullmatch(str(url)))}
    return environment


def root(request: Request) -> str:
    """The way from the page to `/`."""
    path = request.scope.get("raw_path") or request.scope["path"].encode()
    return "../" * (path.split(b"?")[0].count(b"/") - 1) or "./"


def moment(at: datetime | None, zone: ZoneInfo | None = None) -> Markup:
    """A moment in a timezone, UTC where none is given."""
    if at is None:
        return Markup("–")
    there = at.astimezone(zone or UTC)
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(), f"{there:%Y-%m-%d %H:%M:%S %Z}")


def ago(at: datetime, now: datetime) -> str:
    """How long ago, or in how long, in its largest unit."""
    left = (at - now).total_seconds()
    amount = abs(left)
    for name, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if amount >= size:
            said = f"{amount / size:.0f} {name}"
            break
    else:
        said = f"{amount:.0f} s"
    return f"in {said}" if left > 0 else f"{said} ago"


def pretty(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)


def short(value: Any) -> str:
    """A cell of a table as text."""
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}…"
