"""The routes about the service itself: pipelines at a glance, liveness, readiness, metrics."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from orchestrator.api import held, problems
from orchestrator.api.answers import Alive, Dependency, PipelineAnswer, Pipelines, Readiness
from orchestrator.api.parts import WithCaller, WithParts
from orchestrator.errors import OrchestratorError
from orchestrator.ledger import reading

router = APIRouter(tags=["service"])

CHECK_SECONDS = 2.0


@router.get("/api/pipelines", responses=problems.responses(503))
async def pipelines(parts: WithParts, caller: WithCaller) -> Pipelines:
    """The pipelines that the caller may read, each with its schedule, next run and last run.

    From the ledger, so also while Prefect is away.
    """
    names = await caller.readable(parts.pipelines)
    known = await reading.remembered(parts.db)
    last = await reading.last_runs(parts.db, names)
    holds = await reading.holds(parts.db)
    now = datetime.now(UTC)
    answers = []
    for name in names:
        configured = parts.pipelines[name]
        told = known.get(name)
        if told is not None and told.facts.deployment != configured.deployment:
            told = None  # what is remembered is about the deployment this name stood for before
        answers.append(
            PipelineAnswer.of(
                name,
                configured.deployment,
                known=told,
                last=last.get(name),
                held=held.of_pipeline(name, holds, told, parts.commands),
                breaker=parts.prefect.breaker,
                now=now,
            )
        )
    return Pipelines(pipelines=answers)


@router.get("/healthz")
async def healthz() -> Alive:
    """Answered by the event loop all other work runs on, and by nothing else."""
    return Alive()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Runs cannot be accepted now"}})
async def readyz(response: Response, parts: WithParts) -> Readiness:
    """Whether runs can be accepted, and what each dependency says."""
    ahead: float | None = None

    async def ask_database() -> None:
        nonlocal ahead
        ahead = round(await reading.clock_ahead(parts.db), 3)

    database, schema, prefect = await asyncio.gather(
        _checked(ask_database), _checked(parts.check_schema), _checked(parts.prefect.ready)
    )
    ready = database.ok and schema.ok
    if not ready:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        response.headers["Retry-After"] = str(problems.RETRY_SECONDS)
    dependencies: dict[Literal["database", "schema", "prefect"], Dependency]
    dependencies = {"database": database, "schema": schema, "prefect": prefect}
    return Readiness(ready=ready, dependencies=dependencies, database_clock_ahead_seconds=ahead)


async def _checked(check: Callable[[], Awaitable[None]]) -> Dependency:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except OrchestratorError as exc:
        return Dependency(ok=False, detail=str(exc))
    except TimeoutError:
        return Dependency(ok=False, detail=f"no answer within {CHECK_SECONDS:g} s")
    return Dependency(ok=True)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(parts: WithParts) -> Response:
    """Metrics in Prometheus' text format."""
    text = await parts.metrics.text(parts.db, pipelines=list(parts.pipelines), breaker=parts.prefect.breaker)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
