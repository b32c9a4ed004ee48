"""A recovery on a test's ledger, over both wires, and what its tests look at."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from orchestrator import remedies
from orchestrator.ledger.events import Seen
from orchestrator.ledger.tables import pipelines, run_events, runs
from orchestrator.recovery import Recovery
from orchestrator.settings import Pipeline
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from .cluster import ClusterWire, speaking_to
from .test_dispatch import prefect_on
from .test_sync import Follow
from .wire import DEPLOYMENT, PrefectWire

PIPELINE = Pipeline(name="etl", deployment=DEPLOYMENT)


class Watched:
    """A recovery under test, what it did and what it told."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.acted: list[str] = []
        self.recovery: Recovery

    async def look(self) -> None:
        await self.recovery.look()


Recovering = Callable[..., AbstractAsyncContextManager[Watched]]


@pytest.fixture
def recovering(db: AsyncEngine) -> Recovering:
    """`async with recovering(wire, cluster=…, max_attempts=…)`: on the test's ledger, with those policies."""

    @asynccontextmanager
    async def opened(wire: PrefectWire, cluster: ClusterWire | None = None, **policy: Any) -> AsyncIterator[Watched]:
        watched = Watched()
        if not wire.pools:
            wire.add_pool()
        for flow_run in wire.flow_runs.values():
            flow_run["work_pool_name"] = "pipelines"
        async with prefect_on(wire) as prefect, speaking_to(cluster) as kubernetes:
            watched.recovery = Recovery(
                db=db,
                prefect=prefect,
                kubernetes=kubernetes,
                pipelines={"etl": PIPELINE.model_copy(update=policy)},
                leads=lambda: True,
                on_seen=watched.seen.append,
                on_acted=lambda pipeline, action: watched.acted.append(action),
            )
            yield watched

    return opened


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No patience: what is missing at one look is acted upon at the next."""
    for name in ("LOST_AFTER", "NEVER_BEGAN_AFTER", "WORKER_TIME", "UNSEEN_WORKER_TIME"):
        monkeypatch.setattr(remedies, name, timedelta(0))


async def following(follow: Follow, wire: PrefectWire, attempts: int = 3) -> Any:
    """What the sync would write down now, for a pipeline with so many attempts."""
    async with follow(wire, max_attempts={"etl": attempts}) as watching:
        await watching.look()
        return watching


async def age(db: AsyncEngine, **ago: timedelta) -> None:
    """As if the moments in these columns of every run lay so far back."""
    async with db.begin() as connection:
        await connection.execute(update(runs).values({name: func.now() - long for name, long in ago.items()}))


async def heard_of(db: AsyncEngine) -> None:
    """Prefect has told of the pipeline all along."""
    async with db.begin() as connection:
        await connection.execute(update(pipelines).values(seen_at=func.now(), watched_at=func.now()))


async def messages(db: AsyncEngine, run_id: UUID) -> list[tuple[str, str, str | None]]:
    async with db.begin() as connection:
        event = run_events.c
        query = select(event.state, event.state_name, event.message).where(event.run_id == run_id)
        changes = query.where(event.reason.is_(None), event.kind != "submitted").order_by(event.id)
        return [tuple(row) for row in await connection.execute(changes)]


def requests(wire: PrefectWire) -> int:
    return sum(one.url.path.endswith("/set_state") for one in wire.requests)
