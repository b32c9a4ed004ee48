"""Slots of deployments' concurrency limits that no run holds any more: found, and given back.

Prefect counts a slot up when a worker takes a run and down when the run ends, under a lease. A server that is replaced
meanwhile loses the lease and may count one run twice; nothing counts it down again, and under a limit reached so
the deployment's runs wait for ever.
"""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog

from orchestrator.prefect_api import PrefectApi, pools
from orchestrator.runs import State

EVERY = timedelta(seconds=60)
# Prefect gives back by itself what a lease still stands for, five minutes after its holder was last heard of.
LEASES_END_AFTER = timedelta(minutes=6)
HOLDING = frozenset({State.PENDING, State.RUNNING, State.CANCELLING})

log = structlog.get_logger(__name__)


class Slots:
    """What the leader remembers of each deployment's slots without a holder."""

    def __init__(self, prefect: PrefectApi) -> None:
        self._prefect = prefect
        self._looked_at: datetime | None = None
        self._leaked: dict[UUID, tuple[datetime, int]] = {}

    async def look(self, deployments: Collection[UUID]) -> dict[UUID, int]:
        """Give back what has had no holder for too long; how many slots of which deployment.

        Raises:
            EngineUnavailable, EngineRefused, EngineConfused: see PrefectApi.
        """
        now = datetime.now(UTC)
        if self._looked_at is not None and now - self._looked_at < EVERY:
            return {}
        self._looked_at = now
        limits = await pools.limits(self._prefect)
        limited = {one: limits[name] for one in deployments if (name := limit_of(one)) in limits}
        if not limited:
            self._leaked.clear()
            return {}
        # whoever begins or ends while this is asked is taken for a holder all the while
        holders = await self._holders(limited)
        limits = await pools.limits(self._prefect)
        for deployment, ids in (await self._holders(limited)).items():
            holders[deployment] |= ids
        freed: dict[UUID, int] = {}
        for deployment in limited:
            limit = limits.get(limit_of(deployment))
            spare = limit.active - len(holders[deployment]) if limit else 0
            since, least = self._leaked.get(deployment, (now, spare))
            least = min(least, spare)
            if least <= 0:
                self._leaked.pop(deployment, None)
            elif now - since < LEASES_END_AFTER:
                self._leaked[deployment] = since, least
            else:
                await pools.release(self._prefect, limit_of(deployment), least)
                self._leaked.pop(deployment)
                freed[deployment] = least
                log.warning("slots given back that no run holds", deployment_id=str(deployment), slots=least)
        return freed

    async def _holders(self, deployments: Collection[UUID]) -> dict[UUID, set[UUID]]:
        holders: dict[UUID, set[UUID]] = {one: set() for one in deployments}
        for flow_run in await self._prefect.active(deployments):
            if flow_run.state in HOLDING and flow_run.deployment_id in holders:
                holders[flow_run.deployment_id].add(flow_run.flow_run_id)
        return holders


def limit_of(deployment: UUID) -> str:
    """The name of a deployment's own concurrency limit."""
    return f"deployment:{deployment}"
