"""Taking a run in: from the caller's words to one committed row."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.errors import KeyReused
from orchestrator.ledger.connection import transaction
from orchestrator.ledger.events import append, submission
from orchestrator.ledger.tables import runs
from orchestrator.runs import State


@dataclass(frozen=True, kw_only=True)
class Key:
    """A caller's Idempotency-Key and the digest of what was asked under it."""

    text: str
    digest: str

    @classmethod
    def of(cls, text: str, request: Mapping[str, Any]) -> "Key":
        """The key for `request` as the caller wrote it: defaults, filled in later, change at midnight."""
        canonical = json.dumps(request, sort_keys=True, separators=(",", ":"))
        return cls(text=text, digest=hashlib.sha256(canonical.encode()).hexdigest())


async def known(db: AsyncEngine, pipeline: str, key: Key) -> UUID | None:
    """The run accepted under `key`, None when there is none. Raises KeyReused when it was for another request."""
    query = select(runs.c.run_id, runs.c.request_digest).where(
        runs.c.pipeline == pipeline, runs.c.idempotency_key == key.text
    )
    async with transaction(db) as connection:
        row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    if row.request_digest != key.digest:
        raise KeyReused("this Idempotency-Key was used for another request; send a new key with a new request")
    run_id: UUID = row.run_id
    return run_id


async def accept(
    db: AsyncEngine,
    *,
    pipeline: str,
    logical_date: date,
    parameters: Mapping[str, Any],
    correlation_id: str,
    traceparent: str | None,
    key: Key | None,
) -> tuple[UUID, bool]:
    """Commit a new run; its id and True, or under a key already taken that run's and False. Raises KeyReused."""
    run_id = uuid4()
    new = (
        upsert(runs)
        .values(
            run_id=run_id,
            pipeline=pipeline,
            logical_date=logical_date,
            state=State.SCHEDULED,
            state_name=State.SCHEDULED,
            parameters=dict(parameters),
            origin="api",
            correlation_id=correlation_id,
            traceparent=traceparent,
            idempotency_key=key.text if key else None,
            request_digest=key.digest if key else None,
            # the statement's own time, not the transaction's start: it is the order runs are handed over in
            accepted_at=func.clock_timestamp(),
            next_attempt_at=func.clock_timestamp(),
        )
        .on_conflict_do_nothing(
            index_elements=["pipeline", "idempotency_key"], index_where=runs.c.idempotency_key.is_not(None)
        )
        .returning(runs.c.accepted_at)
    )
    async with transaction(db) as connection:
        accepted_at = (await connection.execute(new)).scalar_one_or_none()
        if accepted_at is not None:
            await append(connection, [submission(run_id, pipeline, accepted_at)])
            return run_id, True
    first = await known(db, pipeline, key) if key else None
    if first is None:
        raise AssertionError("only a taken key keeps a run out, and runs are never deleted")
    return first, False
