"""The composition root: what the service is made of, opened and closed in one block."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import httpx
import pybreaker
import structlog
from fastapi import FastAPI
from kubernetes.aio.client import Configuration
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import kubernetes_api, migrations, prefect_api
from orchestrator.api import artifacts, backfilling, document, events, logs, problems, runs, service
from orchestrator.api.entrance import Entrance
from orchestrator.api.metrics import Metrics
from orchestrator.api.parts import Parts
from orchestrator.api.requests import Requests
from orchestrator.backfills import FAILED
from orchestrator.cancel import Canceller
from orchestrator.diagnosis import Diagnosis
from orchestrator.dispatch import Dispatcher
from orchestrator.doors import Door, Open
from orchestrator.doors.keys import ApiKeys
from orchestrator.doors.rates import Allowed, Rates
from orchestrator.doors.tokens import Tokens
from orchestrator.errors import EngineRefused, KubernetesRefused
from orchestrator.kubernetes_api import reviews
from orchestrator.ledger.acceptance import Acceptor
from orchestrator.ledger.connection import open_ledger
from orchestrator.ledger.events import Seen
from orchestrator.ledger.feed import Feed
from orchestrator.ledger.leadership import Leadership
from orchestrator.ledger.reading import Reader
from orchestrator.page import assembly
from orchestrator.prefect_api import PrefectApi
from orchestrator.prefect_api.announcements import Announcements
from orchestrator.reasons import Commands
from orchestrator.recovery import Recovery
from orchestrator.resilience import Guard, Limits
from orchestrator.settings import Settings
from orchestrator.sync import Sync
from orchestrator.tracing import Tracing, opened

RESTART_SECONDS = 1.0

log = structlog.get_logger(__name__)


class _BreakerLog(pybreaker.CircuitBreakerListener):
    """Every change of the circuit to Prefect, in the log."""

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        log.warning("circuit changed", circuit=cb.name, before=old_state.name, after=new_state.name)


def create_app(
    settings: Settings,
    *,
    kubernetes: Configuration | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    limits: Limits | None = None,
) -> FastAPI:
    """The application. Nothing is opened before its lifespan begins.

    `kubernetes` is how the cluster of the flow runs is reached; `transport` replaces the network to Prefect.
    Raises UnusableKeys where the file of API keys cannot be used.
    """
    keys = ApiKeys(settings.api_keys_file) if settings.auth == "apiKey" and settings.api_keys_file else None
    rates = Rates(
        Allowed(
            reads=settings.reads_per_second,
            writes=settings.writes_per_second,
            refusals=settings.refusals_per_second,
            streams=settings.streams,
            streams_each=settings.streams_per_caller,
        )
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        url = settings.database_url.get_secret_value()
        pipelines = {one.name: one for one in settings.pipelines}
        deployments = {one.name: one.deployment for one in settings.pipelines}
        metrics = Metrics(pipelines)
        handed_over = asyncio.Event()
        commands = Commands(namespace=settings.kubernetes_namespace, prefect_api=settings.prefect_api_url)
        db = open_ledger(url)
        tracing = opened(settings.otlp_endpoint)
        try:
            async with (
                prefect_api.client(settings, transport=transport) as client,
                kubernetes_api.opened(
                    kubernetes,
                    namespace=settings.kubernetes_namespace,
                    guard=Guard(
                        "kubernetes",
                        limits=limits or Limits(),
                        answers=(KubernetesRefused,),
                        listeners=[_BreakerLog()],
                    ),
                    observe=metrics.kubernetes_call,
                ) as cluster,
                _opened(settings, keys=keys, kubernetes=kubernetes, observe=metrics.kubernetes_call) as door,
            ):
                guard = Guard("prefect", limits=limits or Limits(), answers=(EngineRefused,), listeners=[_BreakerLog()])
                prefect = PrefectApi(client, guard, observe=metrics.prefect_call)
                seen = _teller(metrics, tracing, on_end=lambda: dispatcher.wake())  # noqa: PLW0108 -- it is made below
                dispatcher = Dispatcher(
                    db=db,
                    prefect=prefect,
                    deployments=deployments,
                    handed_over=handed_over,
                    tracing=tracing,
                    on_seen=seen,
                )
                recovery = Recovery(
                    db=db,
                    prefect=prefect,
                    kubernetes=cluster,
                    pipelines=pipelines,
                    leads=lambda: sync.leads,
                    on_seen=seen,
                    on_acted=metrics.acted,
                )
                sync = Sync(
                    db=db,
                    prefect=prefect,
                    leadership=Leadership(url),
                    diagnosis=Diagnosis(
                        db=db,
                        prefect=prefect,
                        kubernetes=cluster,
                        commands=commands,
                        query_seconds=settings.worker_query_seconds,
                    ),
                    deployments=deployments,
                    poll_seconds=settings.poll_seconds,
                    handed_over=handed_over,
                    on_seen=seen,
                    on_failure=metrics.sync_failed,
                    on_crash=recovery.wake,
                    max_attempts={one.name: one.max_attempts for one in settings.pipelines},
                )
                feed = Feed(db=db, url=url)
                canceller = Canceller(
                    db=db,
                    prefect=prefect,
                    kubernetes=cluster,
                    grace_seconds=settings.cancel_grace_seconds,
                    deadline_seconds=settings.cancel_deadline_seconds,
                    on_seen=seen,
                    on_acted=metrics.acted,
                )
                app.state.parts = Parts(
                    db=db,
                    acceptor=Acceptor(db),
                    reader=Reader(db),
                    prefect=prefect,
                    pipelines=pipelines,
                    metrics=metrics,
                    tracing=tracing,
                    seen=seen,
                    feed=feed,
                    commands=commands,
                    wake=dispatcher.wake,
                    wake_canceller=canceller.wake,
                    check_schema=_once_at_head(db),
                    entrance=Entrance(door, rates, pipelines=deployments, metrics_open=settings.metrics_open),
                    streams=rates.streams,
                    body_seconds=settings.body_seconds,
                )
                works = {
                    "dispatch": dispatcher.work,
                    "sync": sync.work,
                    "recovery": recovery.work,
                    "cancel": canceller.work,
                    "events": feed.work,
                }
                if keys is not None:
                    works["keys"] = keys.work
                if transport is None:
                    works["announcements"] = Announcements(settings, heard=sync.wake).work
                async with supervised(works):
                    try:
                        yield
                    finally:
                        feed.end()
        finally:
            await db.dispose()
            await tracing.close()

    app = FastAPI(
        title="Pipelines orchestrator",
        version=version("orchestrator"),
        description="Starts runs of pipelines durably and tells what became of them.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # the address in a redirect would be the one that the caller's Host header claims
        redirect_slashes=False,
    )
    for router in (runs.router, events.router, logs.router, artifacts.router, backfilling.router, service.router):
        # not include_router: it would ask each router at each request whether it has new routes, an eighth of an accept
        app.router.routes.extend(router.routes)
    shown = assembly.add(app, settings)
    problems.install(app, shown=shown)
    app.add_middleware(Requests, shown=shown)
    document.complete(app, auth=settings.auth, metrics_open=settings.metrics_open)
    return app


def _teller(metrics: Metrics, tracing: Tracing, *, on_end: Callable[[], None]) -> Callable[[Seen], None]:
    """What hears of every recorded change of a run, whoever recorded it: the log, the metrics, the run's trace.

    `on_end` is called for each run that is over: it makes room for the next of its backfill.
    """

    def tell(change: Seen) -> None:
        log.info("run adopted" if change.before is None else "run changed", **change.told)
        metrics.seen(change)
        if change.ended_at is not None:
            on_end()
        if change.ended_at is not None and change.before is not change.state:
            tracing.record(
                "run",
                parent=change.traceparent,
                began=change.accepted_at,
                ended=change.ended_at,
                error=change.message or str(change.state) if change.state in FAILED else None,
                run_id=str(change.run_id),
                pipeline=change.pipeline,
                correlation_id=change.correlation_id,
                state=str(change.state),
                state_name=change.state_name,
            )

    return tell


@asynccontextmanager
async def _opened(
    settings: Settings, *, keys: ApiKeys | None, kubernetes: Configuration | None, observe: kubernetes_api.Observe
) -> AsyncIterator[Door]:
    """The door that the settings ask for, while the block lasts."""
    if settings.auth != "kubernetes":
        yield keys or Open()
        return
    if kubernetes is None:
        raise AssertionError("the command line finds the cluster before it serves")
    guard = Guard("reviews", limits=reviews.REVIEW_LIMITS, listeners=[_BreakerLog()])
    async with reviews.opened(kubernetes, audience=settings.token_audience, guard=guard, observe=observe) as asked:
        yield Tokens(asked)


@asynccontextmanager
async def supervised(works: Mapping[str, Callable[[], Awaitable[None]]]) -> AsyncIterator[None]:
    """Keep each work going while the block lasts: one that ends is logged and begun again. None dies silently."""
    tasks = [asyncio.create_task(_kept_going(name, work), name=name) for name, work in works.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _kept_going(name: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
            log.error("background work ended by itself", work=name)
        except Exception:
            log.exception("background work failed", work=name)
        await asyncio.sleep(RESTART_SECONDS)


def _once_at_head(db: AsyncEngine) -> Callable[[], Awaitable[None]]:
    """A check of the schema that stays passed: a newer release's migration must not unready the pods it replaces."""
    passed = False

    async def check() -> None:
        nonlocal passed
        if not passed:
            await migrations.check(db)
            passed = True

    return check
