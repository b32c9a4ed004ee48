"""Removing the Jobs of runs that end from outside: what would still execute a run, and nothing else."""

from collections.abc import Callable, Iterable
from typing import Any

import structlog

from orchestrator.kubernetes_api import KubernetesApi
from orchestrator.workloads import Job

ACTION = "remove_job"

log = structlog.get_logger(__name__)


class Removal:
    """What removes Jobs, counted by pipeline. Finished ones stay until their time: people read their logs."""

    def __init__(self, kubernetes: KubernetesApi, on_acted: Callable[[str, str], None]) -> None:
        """`on_acted(pipeline, action)` is told of each Job that was removed."""
        self._kubernetes = kubernetes
        self._on_acted = on_acted

    async def remove(self, run: Any, jobs: Iterable[Job]) -> None:
        """Remove those of a run's Jobs that are not over.

        Raises:
            KubernetesUnavailable, KubernetesRefused: see KubernetesApi.
        """
        for job in jobs:
            if not job.over and job.deleted_at is None and await self._kubernetes.delete_job(job.name):
                log.warning(
                    "Job removed",
                    job=job.name,
                    run_id=str(run.run_id),
                    pipeline=run.pipeline,
                    correlation_id=run.correlation_id,
                )
                self._on_acted(run.pipeline, ACTION)
