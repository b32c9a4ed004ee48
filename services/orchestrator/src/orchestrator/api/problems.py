"""How an error becomes an answer: RFC 9457 problem documents, one status for each class of error."""

import math
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import Scope

from orchestrator import errors

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5  # what a 503 asks for when nobody knows better
WAITING = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})  # they say for how long

STATUS: dict[type[errors.OrchestratorError], HTTPStatus] = {
    errors.InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.KeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.HeadTooLarge: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.BodyTooSlow: HTTPStatus.REQUEST_TIMEOUT,
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.TooManyRequests: HTTPStatus.TOO_MANY_REQUESTS,
    errors.DoorUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.UnknownPipeline: HTTPStatus.NOT_FOUND,
    errors.UnknownRun: HTTPStatus.NOT_FOUND,
    errors.RunOver: HTTPStatus.CONFLICT,
    errors.UnknownBackfill: HTTPStatus.NOT_FOUND,
    errors.PlanChanged: HTTPStatus.CONFLICT,
    errors.BackfillOver: HTTPStatus.CONFLICT,
    errors.DeploymentMissing: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.EngineUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.EngineRefused: HTTPStatus.BAD_GATEWAY,
    errors.EngineConfused: HTTPStatus.BAD_GATEWAY,
    errors.KubernetesUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.KubernetesRefused: HTTPStatus.BAD_GATEWAY,
    errors.LedgerUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.SchemaMismatch: HTTPStatus.SERVICE_UNAVAILABLE,
}

TITLE: dict[type[errors.OrchestratorError], str] = {
    errors.InvalidRequest: "The request is not valid",
    errors.KeyReused: "The idempotency key belongs to another request",
    errors.HeadTooLarge: "The request's headers are too large",
    errors.BodyTooLarge: "The request body is too large",
    errors.BodyTooSlow: "The request body came too slowly",
    errors.Unauthenticated: "A credential is needed",
    errors.Forbidden: "This is not allowed",
    errors.TooManyRequests: "Too many requests",
    errors.DoorUnavailable: "Callers cannot be told apart now",
    errors.UnknownPipeline: "There is no such pipeline",
    errors.UnknownRun: "There is no such run",
    errors.RunOver: "The run is over",
    errors.UnknownBackfill: "There is no such backfill",
    errors.PlanChanged: "The plan has changed",
    errors.BackfillOver: "The backfill is cancelled",
    errors.DeploymentMissing: "The pipeline is not registered in Prefect",
    errors.EngineUnavailable: "Prefect cannot be reached",
    errors.EngineRefused: "Prefect refused",
    errors.EngineConfused: "Prefect answered something unknown",
    errors.KubernetesUnavailable: "Kubernetes cannot be reached",
    errors.KubernetesRefused: "Kubernetes refused",
    errors.LedgerUnavailable: "The database cannot be reached",
    errors.SchemaMismatch: "The database's schema does not fit",
}


Shown = Callable[[Scope, JSONResponse], Response]


class Fault(BaseModel):
    """One thing wrong with a request."""

    where: str = Field(examples=["body.logical_date"])
    what: str = Field(examples=["Input should be a valid string"])


class Problem(BaseModel):
    """An RFC 9457 problem document."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "urn:pipelines:problem:unknown-pipeline",
                "title": "There is no such pipeline",
                "status": 404,
                "detail": "there is no pipeline 'elt'; there is: etl",
                "instance": "/api/elt/start",
                "correlation_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            }
        }
    )

    type: str = Field(description="Which problem, as a stable name")
    title: str
    status: int
    detail: str = Field(description="What is wrong here, and what to do about it")
    instance: str = Field(description="The path that was asked")
    correlation_id: str
    faults: list[Fault] | None = Field(
        default=None, description="Each thing wrong with the request, where there are several"
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem answers of a route, for its OpenAPI description."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def schemas() -> dict[str, Any]:
    """The schemas that `responses` points to."""
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**problem.pop("$defs"), "Problem": problem}


def answer(
    status: int,
    *,
    kind: str,
    title: str,
    detail: str,
    path: str,
    correlation_id: str,
    retry_after: float | None = None,
    challenge: str | None = None,
    faults: list[Fault] | None = None,
) -> JSONResponse:
    """A problem document as a response."""
    document = Problem(
        type=f"urn:pipelines:problem:{kind}",
        title=title,
        status=status,
        detail=detail,
        instance=path,
        correlation_id=correlation_id,
        faults=faults,
    )
    headers = {}
    if challenge is not None:
        headers["WWW-Authenticate"] = challenge
    if status in WAITING:
        headers["Retry-After"] = str(math.ceil(retry_after or RETRY_SECONDS))
    return JSONResponse(document.model_dump(exclude_none=True), status, headers=headers, media_type=MEDIA_TYPE)


def of(error: errors.OrchestratorError, *, path: str, correlation_id: str) -> JSONResponse:
    """The answer to an error of the tree."""
    kind = type(error)
    faults = None
    if isinstance(error, errors.PlanChanged):
        faults = [Fault(where=where, what=what) for where, what in error.differences]
    return answer(
        STATUS[kind],
        kind=_kebab(kind.__name__),
        title=TITLE[kind],
        detail=str(error),
        path=path,
        correlation_id=correlation_id,
        retry_after=error.retry_after,
        challenge=error.challenge if isinstance(error, errors.Unauthenticated) else None,
        faults=faults,
    )


def internal(*, path: str, correlation_id: str) -> JSONResponse:
    """The answer to a mistake of ours. What it was is in the log alone."""
    return answer(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        kind="internal",
        title="The orchestrator made a mistake",
        detail=f"this is a fault of the service; its log has the details under correlation id {correlation_id}",
        path=path,
        correlation_id=correlation_id,
    )


def install(app: FastAPI, *, shown: Shown) -> None:
    """Let every error of `app`, the framework's own included, be answered with a problem document.

    `shown` makes a page of it where a page was asked for.
    """

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, errors.OrchestratorError)  # noqa: S101 -- registered for this class only
        document = of(error, path=request.url.path, correlation_id=request.state.correlation_id)
        return shown(request.scope, document)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 -- registered for this class only
        faults = [Fault(where=".".join(map(str, one["loc"])), what=one["msg"]) for one in error.errors()]
        detail = "; ".join(f"{one.where}: {one.what}" for one in faults[:3])
        media = request.headers.get("content-type", "")
        if any(one.where.startswith("body") for one in faults) and "json" not in media:
            detail += "; send the body as JSON with Content-Type: application/json"
        document = answer(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            kind="invalid-request",
            title=TITLE[errors.InvalidRequest],
            detail=detail,
            path=request.url.path,
            correlation_id=request.state.correlation_id,
            faults=faults,
        )
        return shown(request.scope, document)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 -- registered for this class only
        phrase = HTTPStatus(error.status_code).phrase
        path = request.url.path
        allowed = (error.headers or {}).get("Allow")
        detail = {
            404: f"there is nothing at {path}; /openapi.json lists what there is",
            405: f"{path} does not take {request.method}; it takes {allowed}",
        }.get(error.status_code, str(error.detail))
        response = answer(
            error.status_code,
            kind=_kebab(phrase.title().replace(" ", "")),
            title=phrase,
            detail=detail,
            path=request.url.path,
            correlation_id=request.state.correlation_id,
        )
        response.headers.update(error.headers or {})
        return shown(request.scope, response)

    app.add_exception_handler(errors.OrchestratorError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _kebab(name: str) -> str:
    return "".join(f"-{char.lower()}" if char.isupper() else char for char in name).lstrip("-")
