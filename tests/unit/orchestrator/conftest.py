"""A migrated ledger for each test, and the application on it, spoken to over ASGI."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeVar

import httpx
import pytest
import structlog
from fastapi import FastAPI
from kubernetes.aio.client import Configuration
from orchestrator import migrations
from orchestrator.app import create_app
from orchestrator.ledger.connection import open_ledger
from orchestrator.resilience import Limits
from orchestrator.settings import Settings
from sqlalchemy.ext.asyncio import AsyncEngine

PIPELINES = json.dumps([{"name": "etl", "deployment": "daily_job/daily-0900"}])

T = TypeVar("T")


class Postgres(Protocol):
    """What these tests use of the session's PostgreSQL."""

    def create_database(self, template: str | None = None) -> str: ...

    def execute(self, sql: str) -> str: ...


async def eventually(look: Callable[[], Awaitable[T | None]], *, within: float, what: str) -> T:
    """Wait for `look` to find something, for `within` seconds at most."""
    deadline = time.monotonic() + within
    while True:
        found = await look()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within:g} s: {what}")
        await asyncio.sleep(0.02)


def settings(database_url: str, prefect_api_url: str = "http://prefect.test/api", **more: Any) -> Settings:
    """Settings as the environment would give them."""
    return Settings.model_validate(
        {"database_url": database_url, "prefect_api_url": prefect_api_url, "pipelines": PIPELINES, "poll_seconds": 0.1}
        | more
    )


@asynccontextmanager
async def answering(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `app` while its lifespan lasts."""
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://orchestrator.test") as client,
    ):
        yield client


Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture(scope="session", autouse=True)
def plain_log() -> None:
    """Events as plain lines, so that what a failed test shows can be read."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
        ]
    )


@pytest.fixture(scope="session")
async def ledger_template(postgres: Postgres) -> str:
    """A migrated, empty ledger to copy."""
    url = postgres.create_database()
    db = open_ledger(url)
    await migrations.upgrade(db, seconds=10)
    await db.dispose()
    return url


@pytest.fixture
def database_url(postgres: Postgres, ledger_template: str) -> str:
    """A migrated, empty ledger of the test's own."""
    return postgres.create_database(ledger_template)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[AsyncEngine]:
    """The test's ledger, opened."""
    engine = open_ledger(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
def serve(database_url: str) -> Serve:
    """`async with serve(transport) as client`: the application on the test's ledger, Prefect played by `transport`."""

    def served(
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        kubernetes: Configuration | None = None,
        limits: Limits | None = None,
        **more: Any,
    ) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        chosen = settings(**({"database_url": database_url} | more))
        return answering(create_app(chosen, kubernetes=kubernetes, transport=transport, limits=limits))

    return served
