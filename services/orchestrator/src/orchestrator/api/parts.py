"""What the routes work with, handed over by `orchestrator.app`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.api.entrance import Entrance
from orchestrator.api.metrics import Metrics
from orchestrator.doors import Caller, unknown_pipeline
from orchestrator.doors.rates import Streams
from orchestrator.errors import DeploymentMissing
from orchestrator.ledger import following
from orchestrator.ledger.acceptance import Acceptor
from orchestrator.ledger.events import Seen
from orchestrator.ledger.feed import Feed
from orchestrator.ledger.reading import Reader
from orchestrator.prefect_api import PrefectApi
from orchestrator.reasons import Commands
from orchestrator.runs import Facts
from orchestrator.settings import Pipeline
from orchestrator.tracing import Tracing


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything open while the service runs.

    `seen` is told of every recorded change of a run. `wake` tells the dispatcher of a run, `wake_canceller` the
    canceller of a wish; `check_schema` raises.
    """

    db: AsyncEngine
    acceptor: Acceptor
    reader: Reader
    prefect: PrefectApi
    pipelines: dict[str, Pipeline]
    metrics: Metrics
    tracing: Tracing
    seen: Callable[[Seen], None]
    feed: Feed
    commands: Commands
    wake: Callable[[], None]
    wake_canceller: Callable[[], None]
    check_schema: Callable[[], Awaitable[None]]
    entrance: Entrance
    streams: Streams
    body_seconds: float


# Asynchronous, because FastAPI would call each in a thread of its own else.
async def parts(request: Request) -> Parts:
    """The parts of the application that answers `request`."""
    found: Parts = request.app.state.parts
    return found


WithParts = Annotated[Parts, Depends(parts)]


async def caller(request: Request) -> Caller:
    """Who the entrance let in."""
    found: Caller = request.state.caller
    return found


WithCaller = Annotated[Caller, Depends(caller)]


async def configured(
    request: Request, pipeline: Annotated[str, Path(description="A configured pipeline's name", examples=["etl"])]
) -> Pipeline:
    """The pipeline of that name. Raises UnknownPipeline listing those that the caller may read."""
    known = (await parts(request)).pipelines
    try:
        return known[pipeline]
    except KeyError:
        raise await unknown_pipeline(pipeline, caller=await caller(request), pipelines=known) from None


OfPipeline = Annotated[Pipeline, Depends(configured)]


async def facts_of(pipeline: Pipeline, parts: Parts) -> Facts:
    """The deployment's facts from the ledger, from Prefect where it was never seen or was missing at the last look."""
    known = await parts.reader.remembered(pipeline.name)
    if known and known.missing_since is None and known.facts.deployment == pipeline.deployment:
        return known.facts
    facts = await parts.prefect.deployment(pipeline.deployment)
    if facts is None:
        raise DeploymentMissing(
            f"Prefect has no deployment {pipeline.deployment}; run the registration (python -m etl.deploy, in the "
            "cluster the chart's registration Job) and start the run again",
            retry_after=30,
        )
    await following.note_pipeline(parts.db, pipeline.name, facts, ())
    return facts
