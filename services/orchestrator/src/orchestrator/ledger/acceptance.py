"""Taking runs in: from the callers' words to committed rows."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Select, bindparam, column, func, insert, literal, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.errors import KeyReused
from orchestrator.ledger.connection import autocommit, repeatable
from orchestrator.ledger.tables import run_events, runs
from orchestrator.ledger.together import Together
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
    async with autocommit(db) as connection:
        row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    if row.request_digest != key.digest:
        raise KeyReused("this Idempotency-Key was used for another request; send a new key with a new request")
    run_id: UUID = row.run_id
    return run_id


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A run that somebody asks for, checked and complete."""

    run_id: UUID = field(default_factory=uuid4)
    pipeline: str
    logical_date: date
    parameters: Mapping[str, Any]
    correlation_id: str
    traceparent: str | None
    key: Key | None


class Acceptor:
    """Takes runs in: those that wait at one moment are committed together, and each is answered after its commit.

    Most of what an accept costs is waiting for the disk, once a commit, however many rows are in it.
    """

    def __init__(self, db: AsyncEngine) -> None:
        self._db = db
        self._commits: Together[Wish, bool] = Together(self._commit)

    async def accept(self, wish: Wish) -> tuple[UUID, bool]:
        """Commit a new run; its id and True, or under a key already taken that run's and False.

        Raises KeyReused, and LedgerUnavailable where it may not have been committed.
        """
        if await self._commits.ask(wish):
            return wish.run_id, True
        first = await known(self._db, wish.pipeline, wish.key) if wish.key else None
        if first is None:
            raise AssertionError("only a taken key keeps a run out, and runs are never deleted")
        return first, False

    async def _commit(self, wishes: Sequence[Wish]) -> list[bool]:
        """Commit those whose key is free, in this order; for each whether it was."""
        # twice does no harm: the ids are the same, so what was committed is found and not made again
        return await repeatable(lambda: self._insert(wishes))

    async def _insert(self, wishes: Sequence[Wish]) -> list[bool]:
        rows = [
            {
                "run_id": str(wish.run_id),
                "pipeline": wish.pipeline,
                "logical_date": wish.logical_date.isoformat(),
                "parameters": dict(wish.parameters),
                "correlation_id": wish.correlation_id,
                "traceparent": wish.traceparent,
                "idempotency_key": wish.key.text if wish.key else None,
                "request_digest": wish.key.digest if wish.key else None,
            }
            for wish in wishes
        ]
        async with autocommit(self._db) as connection:
            made = set((await connection.execute(_INSERT, {"rows": rows})).scalars())
            if len(made) < len(wishes):  # a key was taken, or these were committed and nobody heard of it
                left = [wish.run_id for wish in wishes if wish.run_id not in made]
                made |= set((await connection.execute(select(runs.c.run_id).where(runs.c.run_id.in_(left)))).scalars())
        return [wish.run_id in made for wish in wishes]


def _inserting() -> Select[Any]:
    """One statement for any number of runs and their first events: a transaction in one round trip.

    They come as one JSON document, so that its plan is the same for all. What it gives are the runs that were made; the
    events, of which nobody reads, are written after that, as the lock which keeps all events in order asks for.
    """
    wished = (
        func.jsonb_to_recordset(bindparam("rows", type_=JSONB))
        .table_valued(*(column(name, runs.c[name].type) for name in _WISHED))
        .render_derived(with_types=True)
    )
    told = {
        "state": literal(str(State.SCHEDULED)),
        "state_name": literal(str(State.SCHEDULED)),
        "origin": literal("api"),
        # the row's own time, not the transaction's start: it is the order runs are handed over in
        "accepted_at": func.clock_timestamp(),
        "next_attempt_at": func.clock_timestamp(),
    }
    made = (
        upsert(runs)
        .from_select([*_WISHED, *told], select(*(wished.c[name] for name in _WISHED), *told.values()))
        .on_conflict_do_nothing()  # of the key, or of the run's own id
        .returning(runs.c.run_id, runs.c.pipeline, runs.c.accepted_at)
        .cte("made")
    )
    first = {
        "run_id": made.c.run_id,
        "pipeline": made.c.pipeline,
        "at": made.c.accepted_at,
        "kind": literal("submitted"),
        "state": literal(str(State.SCHEDULED)),
        "state_name": literal(str(State.SCHEDULED)),
    }
    events = insert(run_events).from_select([*first], select(*first.values())).cte("events")
    return select(made.c.run_id).add_cte(events)


_WISHED = (
    "run_id",
    "pipeline",
    "logical_date",
    "parameters",
    "correlation_id",
    "traceparent",
    "idempotency_key",
    "request_digest",
)
_INSERT = _inserting()
