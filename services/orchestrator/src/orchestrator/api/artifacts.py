"""The route that shows what a run left for people: the artifacts that Prefect keeps of it."""

from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from orchestrator.api import problems
from orchestrator.api.answers import RUN_ID
from orchestrator.api.parts import OfPipeline, WithParts
from orchestrator.api.runs import unknown
from orchestrator.artifacts import Artifact
from orchestrator.prefect_api import artifacts

router = APIRouter(prefix="/api/{pipeline}", tags=["runs"])


class ArtifactAnswer(BaseModel):
    """One artifact, as the flow left it."""

    id: UUID
    key: str | None
    type: str = Field(description="Prefect's word: markdown, table, image, progress, or another")
    description: str | None
    data: Any = Field(description="What the flow gave: text, for a table its rows, for an image its URL")
    at: datetime | None = Field(description="When it was last changed")

    @classmethod
    def of(cls, artifact: Artifact) -> "ArtifactAnswer":
        """The answer about one artifact."""
        return cls(**vars(artifact))


class ArtifactsOfRun(BaseModel):
    """What a run left, oldest first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "run_id": RUN_ID,
                    "flow_run_id": "6a1cf4d1-0e73-4a7e-9d0c-5b9d7a0e9b52",
                    "artifacts": [
                        {
                            "id": "8d1f6a0a-5e2f-4a47-93ab-0f7c6f3b6d10",
                            "key": "daily-job",
                            "type": "markdown",
                            "description": "Flights of 2026-03-01: counts and worst delays",
                            "data": "896 rows loaded, 0 rejected",
                            "at": "2026-03-02T08:00:41.100Z",
                        }
                    ],
                }
            ]
        }
    )

    run_id: UUID
    flow_run_id: UUID | None
    artifacts: list[ArtifactAnswer]


@router.get("/artifacts/{run_id}", responses=problems.responses(404, 422, 502, 503))
async def of_run(run_id: UUID, pipeline: OfPipeline, parts: WithParts) -> ArtifactsOfRun:
    """The artifacts of a run; none while Prefect does not have the run yet. While Prefect is away the answer is 503."""
    row = await parts.reader.run(pipeline.name, run_id)
    if row is None:
        raise unknown(pipeline, run_id)
    found = await artifacts.of_run(parts.prefect, row.flow_run_id) if row.flow_run_id is not None else []
    return ArtifactsOfRun(
        run_id=run_id, flow_run_id=row.flow_run_id, artifacts=[ArtifactAnswer.of(one) for one in found]
    )
