"""The one place that publishes Prefect artifacts, with the flow run, for people to look at.

An artifact is no part of a run's work: what cannot be published is a warning in the run's log, and neither fails the
run nor has it done again. All are sent at once, over the client that Prefect has open; `prefect.artifacts` is
not needed for that, and its import takes time.
"""

import asyncio
import json
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate

from etl.identity import RunIdentity

# A run must not outlive its work by much when the server is slow.
_WITHIN_SECONDS = 20.0

_REMEDY = (
    "the run's work is done and stays; see that the flow pod reaches the Prefect API at PREFECT_API_URL,"
    " and start the run's day again where its artifacts are wanted"
)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What is shown under a key, which stays the same from run to run: Prefect lists its versions."""

    key: str
    type: Literal["markdown", "table", "image"]
    description: str
    data: str

    @classmethod
    def markdown(cls, key: str, text: str, *, description: str) -> Self:
        """A text in Markdown."""
        return cls(key=key, type="markdown", description=description, data=text)

    @classmethod
    def table(cls, key: str, rows: Sequence[Mapping[str, Any]], *, description: str) -> Self:
        """Rows that have the same columns."""
        return cls(key=key, type="table", description=description, data=json.dumps(rows, ensure_ascii=False))

    @classmethod
    def drawing(cls, key: str, svg: str, *, description: str) -> Self:
        """A drawing, which comes along in its own URL: a page that shows it needs to reach nothing else."""
        url = f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"
        return cls(key=key, type="image", description=description, data=url)


Artifacts = Callable[[], Awaitable[Sequence[Artifact]]]


async def _none() -> Sequence[Artifact]:
    return ()


async def publish(run: RunIdentity, *ready: Artifact, further: Artifacts = _none) -> None:
    """Publish what is ready, and what `further` makes once it is there; never fails."""
    try:
        async with asyncio.timeout(_WITHIN_SECONDS), get_client() as client:
            await asyncio.gather(*(_create(run, one, client) for one in ready), _create_all(run, further, client))
    except Exception as exc:  # noqa: BLE001 - whatever it is, the run's work is done
        _warn(run, "all that were left", exc)


async def _create_all(run: RunIdentity, further: Artifacts, client: PrefectClient) -> None:
    try:
        artifacts = await further()
    except Exception as exc:  # noqa: BLE001 - the same
        _warn(run, "those made from the warehouse", exc)
        return
    await asyncio.gather(*(_create(run, one, client) for one in artifacts))


async def _create(run: RunIdentity, one: Artifact, client: PrefectClient) -> None:
    wanted = ArtifactCreate(
        key=one.key, type=one.type, description=one.description, data=one.data, flow_run_id=run.flow_run_id
    )
    try:
        await client.create_artifact(wanted)
    except Exception as exc:  # noqa: BLE001 - the same
        _warn(run, one.key, exc)


def _warn(run: RunIdentity, what: str, exc: Exception) -> None:
    run.warn("artifact not published", artifact=what, reason=f"{type(exc).__name__}: {exc}", remedy=_REMEDY)
