"""The one place that reads and writes the warehouse's table `delay_models`: a row a training, one of them in use.

Like a load of the daily job, a training's row is written in one transaction that checks the run's fence, and once: what
an earlier attempt of the run committed, and Prefect did not hear of, is found.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from hashlib import sha256
from typing import TYPE_CHECKING

from etl.claim import SUPERSEDED_BY, connected, lost
from etl.load import LoadedBy

from delay_model.comparing import Errors
from delay_model.days import Days

if TYPE_CHECKING:
    import asyncpg

# Whoever decides which model is in use holds this advisory lock until the transaction ends.
_LOCK = 0x64656C61795F6D  # "delay_m"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A model of the table."""

    id: int
    logical_date: date
    model: bytes


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a training found out. `better_than`: the model it was compared with, which was in use; None where none was.

    `is_better`: it is to be used, as long as that one is in use.
    """

    logical_date: date
    days: Days
    rows: int
    metrics: Mapping[str, Errors]
    importances: Mapping[str, float]
    model: bytes
    is_better: bool
    better_than: int | None
    note: str


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is in the table of a training."""

    id: int
    in_use: bool
    note: str
    by_earlier_attempt: bool = False


async def read_in_use(warehouse_url: str) -> Stored | None:
    """The model in use, if there is one.

    Raises:
        OSError, asyncpg's errors: see etl.claim.UNREACHABLE.
    """
    async with connected(warehouse_url) as connection:
        row = await connection.fetchrow("SELECT id, logical_date, model FROM delay_models WHERE in_use")
    return Stored(**dict(row)) if row is not None else None


async def find(warehouse_url: str, *, trained_by: LoadedBy) -> Kept | None:
    """What an earlier attempt of this run committed without Prefect hearing of it, if anything.

    Raises:
        OSError, asyncpg's errors: see etl.claim.UNREACHABLE.
    """
    async with connected(warehouse_url) as connection:
        return await _unheard(connection, trained_by)


async def keep(warehouse_url: str, training: Training, *, trained_by: LoadedBy) -> Kept | None:
    """Write the training down and, where it is better, put its model into use; all of it or nothing.

    None, and nothing is written: another model than the one it was compared with is in use by now.
    A model of an earlier logical date than the one in use is never put into use.

    Raises:
        ClaimLost: a later attempt of this run has claimed it; nothing was written.
        OSError, asyncpg's errors: see etl.claim.UNREACHABLE; nothing was written.
    """
    claim = trained_by.claim
    async with connected(warehouse_url) as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        # Only now: whoever held the lock before may have written under a later claim.
        newer = await connection.fetchrow(SUPERSEDED_BY, claim.fence, claim.flow_run_id, None)
        if newer is not None:
            raise lost(claim, tuple(newer), logical_date=None)
        found = await _unheard(connection, trained_by)
        if found is not None:
            return found
        present = await connection.fetchrow("SELECT id, logical_date FROM delay_models WHERE in_use")
        if training.is_better and (present["id"] if present else None) != training.better_than:
            return None
        newer_in_use = present is not None and present["logical_date"] > training.logical_date
        note = f"{training.note}; the model in use is of a later date" if newer_in_use else training.note
        in_use = training.is_better and not newer_in_use
        if in_use:
            await connection.execute("UPDATE delay_models SET in_use = false WHERE in_use")
        row_id = await _insert(connection, training, trained_by, in_use=in_use, note=note)
    return Kept(id=row_id, in_use=in_use, note=note)


async def _insert(
    connection: "asyncpg.Connection", training: Training, trained_by: LoadedBy, *, in_use: bool, note: str
) -> int:
    metrics = {name: asdict(errors) for name, errors in training.metrics.items()}
    row = {
        "run_id": trained_by.run_id,
        "flow_run_id": trained_by.claim.flow_run_id,
        "fence": trained_by.claim.fence,
        "correlation_id": trained_by.correlation_id,
        "logical_date": training.logical_date,
        "first_day": training.days.first,
        "held_out_from": training.days.held_out_from,
        "last_day": training.days.last,
        "days": training.days.number,
        "rows": training.rows,
        "metrics": json.dumps(metrics),
        "importances": json.dumps(training.importances),
        "model": training.model,
        "checksum": sha256(training.model).hexdigest(),
        "in_use": in_use,
        "note": note,
    }
    places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    statement = f"INSERT INTO delay_models ({', '.join(row)}) VALUES ({places}) RETURNING id"  # noqa: S608 - names of ours
    return int(await connection.fetchval(statement, *row.values()))


async def _unheard(connection: "asyncpg.Connection", trained_by: LoadedBy) -> Kept | None:
    row = await connection.fetchrow(
        "SELECT id, in_use, note FROM delay_models WHERE run_id = $1 ORDER BY id OFFSET $2 LIMIT 1",
        trained_by.run_id,
        trained_by.completions,
    )
    return Kept(**dict(row), by_earlier_attempt=True) if row is not None else None
