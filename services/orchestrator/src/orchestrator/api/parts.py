"""What the routes work with, handed over by `orchestrator.app`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.api.metrics import Metrics
from orchestrator.errors import UnknownPipeline
from orchestrator.ledger.feed import Feed
from orchestrator.prefect_api import PrefectApi
from orchestrator.settings import Pipeline


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything open while the service runs.

    `wake` tells the dispatcher of a run, `wake_canceller` the canceller of a wish; `check_schema` raises.
    """

    db: AsyncEngine
    prefect: PrefectApi
    pipelines: dict[str, Pipeline]
    metrics: Metrics
    feed: Feed
    wake: Callable[[], None]
    wake_canceller: Callable[[], None]
    check_schema: Callable[[], Awaitable[None]]


def parts(request: Request) -> Parts:
    """The parts of the application that answers `request`."""
    found: Parts = request.app.state.parts
    return found


WithParts = Annotated[Parts, Depends(parts)]


def configured(
    pipeline: Annotated[str, Path(description="A configured pipeline's name", examples=["etl"])], parts: WithParts
) -> Pipeline:
    """The pipeline of that name. Raises UnknownPipeline listing those there are."""
    try:
        return parts.pipelines[pipeline]
    except KeyError:
        known = ", ".join(sorted(parts.pipelines))
        raise UnknownPipeline(f"there is no pipeline {pipeline[:80]!r}; there is: {known}") from None


OfPipeline = Annotated[Pipeline, Depends(configured)]
