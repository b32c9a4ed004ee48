"""The table of models: one in use, replaced by a better one alone, whoever trains at the same time."""

import asyncio
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import asyncpg
import pytest
from delay_model import store
from delay_model.comparing import Errors, compare
from delay_model.days import Days
from delay_model.ensemble import Ensemble
from delay_model.features import Usual
from delay_model.showing import artifacts
from delay_model.store import Training
from etl.claim import claim_date
from etl.errors import ClaimLost
from etl.load import LoadedBy

from .conftest import LOGICAL_DATE, somebody

GOOD = Errors(mean_absolute=11.0, root_mean_square=27.0, within_15=0.84)
PLAIN = Errors(mean_absolute=12.0, root_mean_square=28.0, within_15=0.82)


async def fetch(warehouse: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(warehouse)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


def found_out(days: Days, *, better: bool = True, than: int | None = None, day: date = LOGICAL_DATE) -> Training:
    """What a training found out, and against which model."""
    return Training(
        logical_date=day,
        days=days,
        rows=days.flights.height,
        metrics={"new": GOOD, "baseline": PLAIN},
        importances={"distance": 1.0},
        model=b"{}",
        is_better=better,
        better_than=than,
        note="judged",
    )


async def test_a_training_is_written_down(warehouse: str, few: Days) -> None:
    """Its run, its days, its figures and the model's bytes; the first one that beats the baseline is used."""
    by = await somebody(warehouse)
    kept = await store.keep(warehouse, found_out(few), trained_by=by)
    assert kept == store.Kept(id=1, in_use=True, note="judged")
    [row] = await fetch(
        warehouse,
        "SELECT run_id, fence, logical_date, first_day, held_out_from, last_day, days, rows, in_use,"
        " metrics -> 'new' ->> 'mean_absolute', importances ->> 'distance', model,"
        " checksum = encode(sha256(model), 'hex') FROM delay_models",
    )
    last = LOGICAL_DATE - timedelta(days=1)
    assert row[:6] == (by.run_id, by.claim.fence, LOGICAL_DATE, last - timedelta(days=20), few.held_out_from, last)
    assert row[6:] == (21, few.flights.height, True, "11.0", "1.0", b"{}", True)
    assert await store.read_in_use(warehouse) == store.Stored(id=1, logical_date=LOGICAL_DATE, model=b"{}")


async def test_a_worse_model_replaces_none(warehouse: str, few: Days) -> None:
    """It is written down all the same, with why."""
    await store.keep(warehouse, found_out(few), trained_by=await somebody(warehouse))
    kept = await store.keep(warehouse, found_out(few, better=False, than=1), trained_by=await somebody(warehouse))
    assert kept is not None
    assert not kept.in_use
    assert await fetch(warehouse, "SELECT id, in_use FROM delay_models ORDER BY id") == [(1, True), (2, False)]


async def test_a_better_model_replaces_the_one_it_was_compared_with(warehouse: str, few: Days) -> None:
    """In one transaction: at no time are there two, or none."""
    await store.keep(warehouse, found_out(few), trained_by=await somebody(warehouse))
    await store.keep(warehouse, found_out(few, than=1), trained_by=await somebody(warehouse))
    assert await fetch(warehouse, "SELECT id, in_use FROM delay_models ORDER BY id") == [(1, False), (2, True)]


async def test_of_two_trainings_at_once_one_is_in_use(warehouse: str, few: Days) -> None:
    """Each found itself better than what was in use; the second is told to compare anew, and has written nothing."""
    runs = [await somebody(warehouse) for _ in range(4)]
    kept = await asyncio.gather(*(store.keep(warehouse, found_out(few), trained_by=run) for run in runs))
    [first] = [one for one in kept if one is not None]
    assert await fetch(warehouse, "SELECT id, in_use FROM delay_models") == [(first.id, True)]
    losers = [run for run, one in zip(runs, kept, strict=True) if one is None]
    again = await asyncio.gather(
        *(store.keep(warehouse, found_out(few, better=False, than=first.id), trained_by=run) for run in losers)
    )
    assert [one.in_use for one in again if one] == [False] * 3
    assert await fetch(warehouse, "SELECT count(*), count(*) FILTER (WHERE in_use) FROM delay_models") == [(4, 1)]


async def test_a_training_of_an_earlier_date_replaces_no_later_model(warehouse: str, few: Days) -> None:
    """An old week trained again is better by its own days, which are not today's."""
    await store.keep(warehouse, found_out(few), trained_by=await somebody(warehouse))
    old = found_out(few, than=1, day=LOGICAL_DATE - timedelta(days=7))
    kept = await store.keep(warehouse, old, trained_by=await somebody(warehouse))
    assert kept is not None
    assert (kept.in_use, kept.note) == (False, "judged; the model in use is of a later date")


async def again(warehouse: str, run: LoadedBy, *, completions: int = 0) -> LoadedBy:
    """The same run, executed once more after Prefect called it Completed that often."""
    claim = await claim_date(warehouse, flow_run_id=run.claim.flow_run_id, run_id=run.run_id, logical_date=None)
    return replace(run, claim=claim, completions=completions)


async def test_an_attempt_after_a_commit_that_nobody_heard_of_writes_nothing(warehouse: str, few: Days) -> None:
    """Its row is found; who asks for the run again after its end gets a second training."""
    run = await somebody(warehouse)
    assert await store.find(warehouse, trained_by=run) is None
    kept = await store.keep(warehouse, found_out(few), trained_by=run)
    assert kept is not None
    second = await again(warehouse, run)
    assert await store.find(warehouse, trained_by=second) == replace(kept, by_earlier_attempt=True)
    assert await store.keep(warehouse, found_out(few, than=1), trained_by=second) == replace(
        kept, by_earlier_attempt=True
    )
    asked_for = await again(warehouse, run, completions=1)
    assert await store.find(warehouse, trained_by=asked_for) is None
    assert await store.keep(warehouse, found_out(few, than=1), trained_by=asked_for) is not None
    assert await fetch(warehouse, "SELECT count(*) FROM delay_models") == [(2,)]


async def test_an_older_claim_writes_nothing(warehouse: str, few: Days) -> None:
    """A process that was given up for dead wakes up after the run's next attempt began."""
    older = await somebody(warehouse)
    await again(warehouse, older)
    with pytest.raises(ClaimLost, match="the run was claimed by a later attempt"):
        await store.keep(warehouse, found_out(few), trained_by=older)
    assert await fetch(warehouse, "SELECT count(*) FROM delay_models") == [(0,)]


async def test_a_training_takes_no_day_from_a_load(warehouse: str) -> None:
    """It claims itself alone: a load of the same logical date that is going on stays the date's holder."""
    day = await somebody(warehouse)
    loading = await claim_date(
        warehouse, flow_run_id=day.claim.flow_run_id, run_id=day.run_id, logical_date=LOGICAL_DATE
    )
    training = await somebody(warehouse)
    assert training.claim.fence > loading.fence
    superseding = f"SELECT 1 FROM claims WHERE fence > {loading.fence} AND logical_date = '{LOGICAL_DATE}'"
    assert await fetch(warehouse, superseding) == []


def test_a_model_is_compared_with_the_one_in_use(few: Days) -> None:
    """By the same flights: two that say the same are equally good, and then neither is better."""
    usual = Usual(of_all=0.0, of={name: {} for name in ("carrier", "origin", "dest", "hour")})
    on_time, late = (Ensemble(start=start, usual=usual, trees=()) for start in (-2.0, 90.0))
    comparison = compare(few, on_time, in_use=on_time)
    assert comparison.in_use == comparison.new
    assert not comparison.is_better
    assert not compare(few, late, in_use=None).is_better
    shown = artifacts(few, compare(few, late, in_use=on_time), {"distance": 0.7, "weekday": 0.3}, note="kept")
    assert [(one.key, one.type) for one in shown] == [
        ("delay-model-metrics", "table"),
        ("delay-model-importances", "image"),
        ("delay-model-calibration", "image"),
    ]
    assert '"model": "in use"' in shown[0].data
