"""The OpenAPI document: the routes as FastAPI describes them, and what every one of them has in common."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from orchestrator.api import problems
from orchestrator.api.entrance import METRICS, PROBES
from orchestrator.doors.credentials import API_KEY

HEADERS: dict[str, Any] = {
    "X-Correlation-ID": {
        "description": "The request's own, else the trace id of its traceparent, else a new one",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
    }
}
SECONDS = {"type": "integer", "minimum": 1}
RETRY: dict[str, Any] = {
    "Retry-After": {"description": "Seconds until it is worth another try", "required": True, "schema": SECONDS}
}
CHALLENGE: dict[str, Any] = {
    "WWW-Authenticate": {"description": "RFC 6750's challenge", "required": True, "schema": {"type": "string"}}
}
ANYWHERE = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
)
BEARER = {"type": "http", "scheme": "bearer"}
SCHEMES: dict[str, dict[str, Any]] = {
    "none": {},
    "apiKey": {
        "bearer": BEARER | {"description": "A key of this service"},
        "key": {"type": "apiKey", "in": "header", "name": API_KEY.title(), "description": "A key of this service"},
    },
    "kubernetes": {"bearer": BEARER | {"description": "A token that the cluster's API server knows"}},
}


PIPELINE = {"pipeline": "$request.path.pipeline"}
RUN = PIPELINE | {"run_id": "$response.body#/run_id"}
BACKFILL = PIPELINE | {"backfill_id": "$response.body#/backfill_id"}
# Where an answer leads: by method and path, and the status that has what is needed there.
LINKS: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    ("/api/{pipeline}/start", "202"): {
        "status": {"path": "/api/{pipeline}/status/{run_id}", "method": "get", "parameters": RUN},
        "cancel": {"path": "/api/{pipeline}/cancel/{run_id}", "method": "post", "parameters": RUN},
    },
    ("/api/{pipeline}/backfill", "202"): {
        "progress": {
            "path": "/api/{pipeline}/backfill/{backfill_id}",
            "method": "get",
            "parameters": BACKFILL,
        },
    },
}


def complete(app: FastAPI, *, auth: str, metrics_open: bool) -> None:
    """Let the application's document say what holds for all its routes: problems, headers, and the door that is on."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = described()
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(problems.schemas())
            if SCHEMES[auth]:
                components["securitySchemes"] = SCHEMES[auth]
            always_open = PROBES | {METRICS} if metrics_open else PROBES
            for path, item in document["paths"].items():
                for operation in item.values():
                    _tell(operation, auth=auth, is_open=path in always_open, changes="post" in item)
            for (path, status), links in LINKS.items():
                document["paths"][path]["post"]["responses"][status]["links"] = {
                    name: {
                        "operationId": document["paths"][link["path"]][link["method"]]["operationId"],
                        "parameters": link["parameters"],
                    }
                    for name, link in links.items()
                }
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way to extend its document


def _tell(operation: dict[str, Any], *, auth: str, is_open: bool, changes: bool) -> None:
    statuses = [*ANYWHERE]
    if not is_open:
        statuses.append(HTTPStatus.TOO_MANY_REQUESTS)
        if auth != "none":
            statuses += [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.SERVICE_UNAVAILABLE]
            operation["security"] = [{name: []} for name in SCHEMES[auth]]
        elif changes:
            statuses.append(HTTPStatus.FORBIDDEN)  # a browser's page of another site
    answers = operation["responses"]
    for status, told in problems.responses(*statuses).items():
        answers.setdefault(str(status), told)
    for status, told in answers.items():
        headers = told.setdefault("headers", {})
        headers |= HEADERS
        if status in {"429", "503"}:
            headers |= RETRY
        if status == "401":
            headers |= CHALLENGE
