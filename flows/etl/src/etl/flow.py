"""The flow `daily_job`: which steps a run takes, in which order, and what Prefect is asked to do for each."""

import asyncio
import time
from contextlib import closing
from dataclasses import asdict
from datetime import date, timedelta
from functools import partial
from typing import Any

import httpx
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.states import Completed
from prefect.tasks import exponential_backoff

from etl import catchup, claim
from etl.announce import announce
from etl.artifacts import Artifact, Artifacts, publish
from etl.breaker import Breaker
from etl.circuit import Circuit, Rule, probe_due
from etl.errors import BadData, CircuitOpen, SourceUnavailable
from etl.extract import Day, fetch_day, open_client
from etl.holding import claimed, outlast
from etl.identity import RunIdentity, default_logical_date, this_run
from etl.load import Loaded, LoadedBy, find_load, keep_day, keep_rejects, load_day
from etl.report import degraded, loaded_already, markdown
from etl.settings import EtlSettings
from etl.showing import of_warehouse
from etl.telemetry import export_spans
from etl.transform import DayTables, require_mostly_good, transform
from etl.transient import is_transient

_EXTRACT_RETRIES = 3
_EXTRACT_TIMEOUT_SECONDS = 120
_TRANSFORM_TIMEOUT_SECONDS = 300
_LOAD_TIMEOUT_SECONDS = 600

# What Prefect needs around a task of a probe, before another run may probe instead.
_PROBE_MARGIN_SECONDS = 30


extract = task(
    name="extract",
    task_run_name="extract-{dataset}",
    description="Fetch one dataset's rows of the day from the source.",
    retries=_EXTRACT_RETRIES,
    retry_jitter_factor=0.5,
    retry_condition_fn=is_transient,
    timeout_seconds=_EXTRACT_TIMEOUT_SECONDS,
    cache_policy=NO_CACHE,
    persist_result=False,
)(fetch_day)

transform_day = task(
    name="transform",
    description="Validate the flights, join the weather, sum up the delays.",
    timeout_seconds=_TRANSFORM_TIMEOUT_SECONDS,
    cache_policy=NO_CACHE,
    persist_result=False,
)(transform)


@task(name="load", timeout_seconds=_LOAD_TIMEOUT_SECONDS, cache_policy=NO_CACHE, persist_result=False)
def load(tables: DayTables, *, loaded_by: LoadedBy, settings: EtlSettings) -> Loaded:
    """Replace the day in the warehouse, or, where too much of it is bad, keep the bad rows and refuse."""
    warehouse_url = settings.warehouse_url.get_secret_value()
    try:
        require_mostly_good(tables, max_rejected_ratio=settings.max_rejected_ratio)
    except BadData:
        keep_rejects(warehouse_url, tables, loaded_by=loaded_by, statement_timeout_seconds=_LOAD_TIMEOUT_SECONDS)
        raise
    return load_day(warehouse_url, tables, loaded_by=loaded_by, statement_timeout_seconds=_LOAD_TIMEOUT_SECONDS)


@task(name="keep", timeout_seconds=_LOAD_TIMEOUT_SECONDS, cache_policy=NO_CACHE, persist_result=False)
def keep(day: date, *, reason: str, loaded_by: LoadedBy, settings: EtlSettings) -> Loaded:
    """Leave the day as an earlier run loaded it and say so in the warehouse; a day never loaded cannot be kept."""
    kept = keep_day(
        settings.warehouse_url.get_secret_value(),
        day,
        loaded_by=loaded_by,
        reason=reason,
        statement_timeout_seconds=_LOAD_TIMEOUT_SECONDS,
    )
    if kept is None:
        raise SourceUnavailable(f"{day} was never loaded, so there is nothing to keep: {reason}")
    return kept


async def _extract_both(settings: EtlSettings, day: date, correlation_id: str, *, retries: int) -> tuple[Day, Day]:
    async with open_client(
        str(settings.source_url), timeout_seconds=settings.request_timeout_seconds, correlation_id=correlation_id
    ) as client:
        patient = extract.with_options(
            retries=retries, retry_delay_seconds=exponential_backoff(settings.retry_backoff_seconds)
        )
        flights = asyncio.create_task(patient(client, "flights", day))
        weather = asyncio.create_task(patient(client, "weather", day))
        # Both are awaited to their end, so that the client is not closed under the one that is still trying.
        await asyncio.gather(flights, weather, return_exceptions=True)
        return flights.result(), weather.result()


# Prefect opens the run's span before it calls the flow: that this module is imported is the last moment before.
export_spans()


@flow(name="daily_job", persist_result=False)
async def daily_job(logical_date: date | None = None) -> State[Any]:
    """Load one day of flights, with the weather at each departure, into the warehouse.

    While the source is given up (see etl.breaker), a day that was loaded before stays as it is: the run ends Completed,
    named Degraded. Once the source is back, such days are loaded again by runs of their own (see etl.catchup).

    Args:
        logical_date: The day to load. Default: the day before the run's scheduled start, in the deployment's timezone.
    """
    settings = EtlSettings()
    run = this_run()
    day = logical_date or await default_logical_date()
    run.log("start", logical_date=day.isoformat())
    ended = await _nothing_owed(run, day, settings) if run.catches_up else None
    if ended is None:
        ended = await outlast(
            run, partial(_execute, run, day, settings), within_seconds=settings.warehouse_wait_seconds
        )
    await _provide_catch_up(run, day, settings)
    return ended


async def _nothing_owed(run: RunIdentity, day: date, settings: EtlSettings) -> State[Any] | None:
    """The end of a catch-up run whose day another run has loaded in the meantime; None while it is to be loaded."""
    by = await catchup.made_good_by(settings.warehouse_url.get_secret_value(), day)
    if by is None:
        return None
    run.log("nothing to catch up", loaded_by=str(by))
    return Completed(message=f"nothing to catch up: {day} was loaded by run {by} in the meantime")


async def _execute(run: RunIdentity, day: date, settings: EtlSettings) -> State[Any]:
    async with claimed(run, day, settings.warehouse_url.get_secret_value()) as mine:
        loading = await run.loading(mine)
        found = find_load(
            settings.warehouse_url.get_secret_value(),
            day,
            loaded_by=loading,
            statement_timeout_seconds=_LOAD_TIMEOUT_SECONDS,
        )
        if found is not None:
            return await _leave(run, day, found, settings)
        try:
            loaded = await _load_from_source(run, day, loading, settings)
        except CircuitOpen as exc:
            return await _degrade(run, day, loading, settings, reason=str(exc))
        # The orchestrator tells a state's message: who asks for the run's status reads what it did.
        return Completed(message=f"{day}: {loaded.rows} rows loaded, {loaded.rejected} rejected")


async def _load_from_source(run: RunIdentity, day: date, loading: LoadedBy, settings: EtlSettings) -> Loaded:
    started = time.monotonic()
    async with _breaker(run, settings).passing() as admission:
        # A probe asks once: retries would fall on a source that is just getting up.
        retries = 0 if admission.probe else _EXTRACT_RETRIES
        flights, weather = await _extract_both(settings, day, run.correlation_id, retries=retries)
    run.log(
        "extract",
        flights=flights.rows.height,
        weather=weather.rows.height,
        record_date=flights.record_date.isoformat(),
        seconds=_since(started),
    )

    started = time.monotonic()
    with closing(flights), closing(weather):
        tables = transform_day(flights, weather, logical_date=day)
    run.log("transform", good=tables.flights.height, rejected=tables.rejects.height, seconds=_since(started))

    started = time.monotonic()
    with closing(tables):
        loaded = load(tables, loaded_by=loading, settings=settings)
    run.log("load", **asdict(loaded), seconds=_since(started))

    report = _report(markdown(tables, loaded), f"Flights of {day}: counts and worst delays")
    await publish(run, report, further=_shown(day, settings, without_weather=tables.without_weather))
    return loaded


def _report(text: str, description: str) -> Artifact:
    return Artifact.markdown("daily-job", text, description=description)


def _shown(
    day: date, settings: EtlSettings, *, without_weather: int | None = None, degraded: str | None = None
) -> Artifacts:
    warehouse_url = settings.warehouse_url.get_secret_value()
    return partial(of_warehouse, warehouse_url, day, without_weather=without_weather, degraded=degraded)


def _breaker(run: RunIdentity, settings: EtlSettings) -> Breaker:
    rule = Rule(
        failures_to_open=settings.breaker_failures,
        window=timedelta(seconds=settings.breaker_window_seconds),
        open_for=timedelta(seconds=settings.breaker_open_seconds),
        probe_for=timedelta(seconds=_EXTRACT_TIMEOUT_SECONDS + _PROBE_MARGIN_SECONDS),
    )

    async def changed(before: Circuit, after: Circuit) -> None:
        run.log("breaker", before=before.state, after=after.state, generation=after.generation, reason=after.reason)
        await announce(breaker)

    breaker = Breaker(warehouse_url=settings.warehouse_url.get_secret_value(), rule=rule, listener=changed)
    return breaker


async def _leave(run: RunIdentity, day: date, found: Loaded, settings: EtlSettings) -> State[Any]:
    """The end of a run whose earlier attempt loaded the day and did not live to say so."""
    run.log("load", **asdict(found))
    report = _report(loaded_already(day, found), f"Flights of {day}: loaded by an earlier attempt")
    await publish(run, report, further=_shown(day, settings))
    return Completed(message=f"{day} was already loaded by an earlier attempt of this run: {found.rows} flights")


async def _degrade(run: RunIdentity, day: date, loading: LoadedBy, settings: EtlSettings, *, reason: str) -> State[Any]:
    kept = keep(day, reason=reason, loaded_by=loading, settings=settings)
    run.log("degraded", **asdict(kept), reason=reason)
    report = _report(degraded(day, kept, reason), f"Flights of {day}: degraded, an earlier load was kept")
    await publish(run, report, further=_shown(day, settings, degraded=reason))
    return Completed(name="Degraded", message=f"{day} keeps the {kept.rows} flights loaded before: {reason}")


async def _provide_catch_up(run: RunIdentity, day: date, settings: EtlSettings) -> None:
    """Have degraded days loaded again: all that are owed while the circuit is closed, else by a probe in due time.

    The circuit is read after this run's own row was written: whoever closes it later finds that row. What fails here
    does not fail the run, whose day is as it should be; the next success makes up for it.
    """
    if run.deployment_id is None:
        run.log("no catch-up", reason="the flow was called without a deployment, which is what would run it again")
        return
    warehouse_url = settings.warehouse_url.get_secret_value()
    try:
        breaker = _breaker(run, settings)
        circuit = await breaker.read()
        if circuit.opened_at is None:
            for made in await catchup.make_good(
                warehouse_url, deployment_id=run.deployment_id, at_most=settings.catch_up_runs
            ):
                run.log("catch-up", **{name: str(value) for name, value in asdict(made).items()})
            return
        longest = timedelta(seconds=settings.probe_longest_pause_seconds)
        due = probe_due(circuit, breaker.rule, longest=longest) if longest else None
        if due is not None and await catchup.made_good_by(warehouse_url, day) is None:
            probing = await catchup.provide_probe(
                run.deployment_id, day, degraded_run_id=run.run_id, circuit=circuit, due=due
            )
            run.log("probe provided", flow_run_id=str(probing), due=due.isoformat())
    except (httpx.HTTPError, PrefectException, *claim.UNREACHABLE) as exc:
        run.log("no catch-up", reason=f"{type(exc).__name__}: {exc}")


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)
