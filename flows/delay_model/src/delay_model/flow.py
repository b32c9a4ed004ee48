"""The flow `delay_model`: which steps a training takes, and what Prefect is asked to do for each."""

import time
from datetime import date
from functools import partial
from typing import Annotated, Any

from etl.artifacts import publish
from etl.holding import claimed, outlast
from etl.identity import RunIdentity, default_logical_date, this_run
from etl.load import LoadedBy
from etl.telemetry import export_spans
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from delay_model import days as loaded_days
from delay_model import store
from delay_model.comparing import Comparison, compare
from delay_model.days import Days
from delay_model.ensemble import Ensemble
from delay_model.errors import ModelUnreadable
from delay_model.settings import ModelSettings
from delay_model.showing import artifacts
from delay_model.training import Trained, train

_READ_TIMEOUT_SECONDS = 300
_TRAIN_TIMEOUT_SECONDS = 1800

read_days = task(
    name="read",
    description="Read the last loaded days before the logical date.",
    timeout_seconds=_READ_TIMEOUT_SECONDS,
    cache_policy=NO_CACHE,
    persist_result=False,
)(loaded_days.read)

train_model = task(
    name="train",
    description="Fit a model on the days before those held out.",
    timeout_seconds=_TRAIN_TIMEOUT_SECONDS,
    cache_policy=NO_CACHE,
    persist_result=False,
)(train)


# Prefect opens the run's span before it calls the flow: that this module is imported is the last moment before.
export_spans()


@flow(name="delay_model", persist_result=False)
async def delay_model(
    logical_date: date | None = None,
    least_days: Annotated[int, Field(ge=5, le=loaded_days.WINDOW)] = 60,
) -> State[Any]:
    """Train a model of departure delay on the last 90 days before a date, and use it where it is better.

    It is judged on the newest seventh of the days, which it was not fitted on, beside a plain baseline and the model in
    use: better than both, it takes that one's place. All trainings are in the warehouse's table delay_models.

    Args:
        logical_date: The day before which the days lie. Default: the day before the run's scheduled start, in the
            deployment's timezone.
        least_days: How many of the 90 days must be loaded for a training, 5 to 90.
    """
    settings = ModelSettings()
    run = this_run()
    day = logical_date or await default_logical_date()
    run.log("start", logical_date=day.isoformat())
    work = partial(_execute, run, day, least_days, settings)
    kept = await outlast(run, work, within_seconds=settings.warehouse_wait_seconds)
    decided = "in use now" if kept.in_use else "not put into use"
    return Completed(message=f"model {kept.id} of {day}, {decided}: {kept.note}")


async def _execute(run: RunIdentity, day: date, least_days: int, settings: ModelSettings) -> store.Kept:
    warehouse_url = settings.warehouse_url.get_secret_value()
    # No date of its own: a training writes no day, and must not take one from a load (see etl.claim).
    async with claimed(run, None, warehouse_url) as mine:
        trained_by = await run.loading(mine)
        found = await store.find(warehouse_url, trained_by=trained_by)
        if found is not None:
            run.log("trained already", model=found.id, in_use=found.in_use)
            return found
        started = time.monotonic()
        days = read_days(warehouse_url, day, least_days=least_days, statement_timeout_seconds=_READ_TIMEOUT_SECONDS)
        told = {"first": str(days.first), "held_out_from": str(days.held_out_from), "last": str(days.last)}
        run.log("read", days=days.number, rows=days.flights.height, **told, seconds=_since(started))
        started = time.monotonic()
        trained = train_model(days)
        run.log("train", trees=len(trained.model.trees), seconds=_since(started))
        kept, comparison = await _decide(run, day, days, trained, trained_by=trained_by, warehouse_url=warehouse_url)
        await publish(run, *artifacts(days, comparison, trained.importances, note=kept.note))
        return kept


async def _decide(
    run: RunIdentity, day: date, days: Days, trained: Trained, *, trained_by: LoadedBy, warehouse_url: str
) -> tuple[store.Kept, Comparison]:
    """Compare and write down, anew where another training has put its model into use meanwhile."""
    while True:
        in_use = await store.read_in_use(warehouse_url)
        comparison = compare(days, trained.model, in_use=_readable(run, in_use))
        training = store.Training(
            logical_date=day,
            days=days,
            rows=days.flights.height,
            metrics=comparison.metrics,
            importances=trained.importances,
            model=trained.model.to_bytes(),
            is_better=comparison.is_better,
            better_than=in_use.id if in_use else None,
            note=comparison.verdict,
        )
        kept = await store.keep(warehouse_url, training, trained_by=trained_by)
        if kept is not None:
            run.log("keep", model=kept.id, in_use=kept.in_use, note=kept.note)
            return kept, comparison
        run.log("compare again", reason="another model was put into use meanwhile")


def _readable(run: RunIdentity, in_use: store.Stored | None) -> Ensemble | None:
    if in_use is None:
        return None
    try:
        return Ensemble.from_bytes(in_use.model)
    except ModelUnreadable as exc:
        run.warn(
            "model in use is left out of the comparison",
            model=in_use.id,
            reason=str(exc),
            remedy="nothing is to be done: one that is better than the baseline takes its place",
        )
        return None


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)
