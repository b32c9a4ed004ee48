"""Refusals as RFC 9457 problem documents, whatever part of the service refused."""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from source.errors import (
    BadPageError,
    NoRecordsError,
    NotAcceptableError,
    NotJsonError,
    RepeatedParameterError,
    SourceError,
)

MEDIA_TYPE = "application/problem+json"
PHRASES: Mapping[int, str] = {status.value: status.phrase for status in HTTPStatus}
STATUS: Mapping[type[SourceError], int] = {
    NoRecordsError: 404,
    NotAcceptableError: 406,
    NotJsonError: 415,
    BadPageError: 422,
    RepeatedParameterError: 422,
}
# Where pydantic's own words do not say what to do.
WORDS: Mapping[str, str] = {
    "extra_forbidden": "is not known here: remove it",
    "missing": "is required: add it",
    "json_invalid": "here the body stops being JSON: check quotes and brackets",
}


class Problem(BaseModel):
    """What went wrong and what to do about it."""

    type: str = "about:blank"
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["there are no records for 29 February; ask for another day"])


def problem(status: int, detail: str, *, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer that says `detail` with `status`."""
    body = Problem(title=PHRASES.get(status, "Error"), status=status, detail=detail).model_dump()
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def documented(*statuses: int) -> dict[int | str, dict[str, object]]:
    """OpenAPI's description of the refusals a call can answer with."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {status: {"description": PHRASES[status], "content": content} for status in statuses}


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem document."""
    app.add_exception_handler(SourceError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _broken)


# Starlette calls a handler with its own kind of error only, but types the argument as any Exception.
async def _refused(_: Request, exc: Exception) -> JSONResponse:
    vary = {"Vary": "Accept"} if isinstance(exc, NotAcceptableError) else None
    return problem(next(STATUS[kind] for kind in type(exc).mro() if kind in STATUS), str(exc), headers=vary)


async def _invalid(_: Request, exc: Exception) -> JSONResponse:
    errors = exc.errors() if isinstance(exc, RequestValidationError) else []
    told = (f"{'.'.join(str(step) for step in e['loc'])}: {WORDS.get(e['type'], e['msg'])}" for e in errors)
    return problem(422, "; ".join(told))


async def _no_route(request: Request, exc: Exception) -> JSONResponse:
    if not isinstance(exc, HTTPException):
        raise exc
    details = {
        404: f"there is nothing at {request.url.path}: /openapi.json lists the calls",
        405: f"{request.url.path} does not take {request.method}: the Allow header lists what it takes",
    }
    return problem(exc.status_code, details.get(exc.status_code, str(exc.detail)), headers=exc.headers)


async def _broken(_: Request, __: Exception) -> JSONResponse:
    return problem(500, "the service failed on this request: its log says why")
