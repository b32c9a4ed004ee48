"""What a page says where something is refused: the words of the API's problem document, and where to sign in."""

import json
from http import HTTPStatus

from fastapi import Response
from fastapi.responses import JSONResponse
from starlette.requests import Request
from starlette.types import Scope

from orchestrator.doors import browsing
from orchestrator.page.rendering import Pages

CARRIED = ("retry-after", "www-authenticate", "allow")


def shown(scope: Scope, document: JSONResponse) -> Response:
    """The same answer as a page where one was asked for; the document itself to whoever calls the API."""
    if not browsing.is_page(scope["path"]):
        return document
    pages: Pages = scope["app"].state.pages
    problem = json.loads(bytes(document.body))
    status = HTTPStatus(document.status_code)
    signs_in = status is HTTPStatus.UNAUTHORIZED and pages.auth != "none"
    template = "sign-in.html" if signs_in else "problem.html"
    page = pages.render(template, Request(scope), status=status, problem=problem)
    for name in CARRIED:
        if name in document.headers:
            page.headers[name] = document.headers[name]
    return page
