"""What is asked of Prefect about the artifacts of a flow run."""

import json
from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter

from orchestrator.artifacts import Artifact
from orchestrator.prefect_api import PrefectApi
from orchestrator.prefect_api.shapes import read

MOST = 50  # artifacts of a run that are asked for


class _Artifact(BaseModel):
    id: UUID
    key: str | None = None
    type: str | None = None
    description: str | None = None
    data: Any = None
    created: AwareDatetime | None = None
    updated: AwareDatetime | None = None

    def told(self) -> Artifact:
        return Artifact(
            id=self.id,
            key=self.key,
            type=self.type or "",
            description=self.description,
            data=_read(self.data) if self.type == "table" else self.data,
            at=self.updated or self.created,
        )


ARTIFACTS = TypeAdapter(Annotated[list[_Artifact], Field(max_length=MOST)])


async def of_run(prefect: PrefectApi, flow_run: UUID) -> list[Artifact]:
    """The artifacts that a flow run, or one of its tasks, left, oldest first; the latest ones where there are many."""
    body = {"artifacts": {"flow_run_id": {"any_": [str(flow_run)]}}, "sort": "CREATED_DESC", "limit": MOST}
    told = read(ARTIFACTS, await prefect.ask("artifacts", "POST", "/artifacts/filter", body))
    return [one.told() for one in reversed(told)]


def _read(data: Any) -> Any:
    """A table is sent as text that holds JSON; what is none stays as it is."""
    if not isinstance(data, str):
        return data
    try:
        return json.loads(data)
    except ValueError:
        return data
