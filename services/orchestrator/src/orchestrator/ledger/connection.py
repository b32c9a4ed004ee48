"""How the ledger is reached, and which of the database's errors mean that it is not there now."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from orchestrator.errors import LedgerUnavailable

CONNECT_SECONDS = 5
STATEMENT_SECONDS = 10
MOST_CONNECTIONS = 16
UNUSED_SECONDS = 60

# What PostgreSQL says when it is away, starting, stopping, full, or not the database we were promised.
UNAVAILABLE_CLASSES = frozenset({"08", "28", "3D", "53", "57", "58"})
LOCKED = "55P03"
NO_TABLES = frozenset({"42P01", "42703", "3F000"})
# How it says that it ends this connection, and would take another: an administrator, a crash, nobody used it.
CUT = frozenset({"57P01", "57P02", "57P05"})
# What asyncpg raises; the last where a connection ends at the very moment at which it is used.
DRIVER = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
FAILURES = (OSError, *DRIVER, DBAPIError, PoolTimeout, InvalidRequestError)
# What SQLAlchemy's pool says where a connection made in place of a lost one is lost too; any other is our mistake.
LOST_AGAIN = "This connection is closed"

A = TypeVar("A")
_untried: ContextVar[bool] = ContextVar("untried", default=False)


async def connect(
    url: str, *, statement_seconds: float | None = STATEMENT_SECONDS, more: Mapping[str, str] | None = None
) -> Any:
    """One asyncpg connection by a libpq-style URL, `?host=/socket/dir` and sslmode included.

    A statement that takes longer than `statement_seconds` is given up; None lets it take its time. `more` are further
    settings of the session.
    """
    return await asyncpg.connect(
        url,
        timeout=CONNECT_SECONDS,
        command_timeout=statement_seconds,
        # a peer that vanished without a word is noticed in seconds, not hours: its locks are someone else's then;
        # keepalives find it while nothing is on its way, the user timeout while an answer is
        server_settings={
            "application_name": "orchestrator",
            "tcp_keepalives_idle": "3",
            "tcp_keepalives_interval": "2",
            "tcp_keepalives_count": "2",
            "tcp_user_timeout": "7000",
            "timezone": "UTC",
            **(more or {}),
        },
    )


def open_ledger(
    url: str, *, statement_seconds: float | None = STATEMENT_SECONDS, unused_seconds: float = UNUSED_SECONDS
) -> AsyncEngine:
    """The pool of connections to the ledger; nothing is connected yet. The caller disposes of it.

    PostgreSQL closes those that nobody has used for `unused_seconds`, each a process of its own there; 0: none.
    """
    unused = {"idle_session_timeout": str(round(unused_seconds * 1000))}
    db = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: connect(url, statement_seconds=statement_seconds, more=unused),
        # none beyond those that are kept: an extra one would be opened and closed for each request of a busy moment
        pool_size=MOST_CONNECTIONS,
        max_overflow=0,
        pool_timeout=CONNECT_SECONDS,
        pool_use_lifo=True,
    )
    event.listen(db.sync_engine, "checkout", _try_it)
    return db


def _try_it(_: Any, __: Any, checked_out: Any) -> None:
    """Find out that a connection was lost before it is used: the pool then makes anew this one and all others.

    SQLAlchemy's pool_pre_ping does so within a transaction, by three questions for one.
    """
    if _untried.get():
        return
    try:
        await_only(checked_out.driver_connection.execute("SELECT 1"))
    except (OSError, *DRIVER) as exc:
        raise InvalidatePoolError from exc


@asynccontextmanager
async def autocommit(db: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection whose statements are each a transaction of their own, without a question for it. Raises as that."""
    try:
        async with db.connect() as connection:
            yield await connection.execution_options(isolation_level="AUTOCOMMIT")
    except FAILURES as exc:
        translated = _translated(exc)
        if translated is None:
            raise
        raise translated from exc


@asynccontextmanager
async def transaction(db: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """One transaction, committed at the end of the block. Raises LedgerUnavailable when the database is not there."""
    try:
        async with db.begin() as connection:
            yield connection
    except FAILURES as exc:
        translated = _translated(exc)
        if translated is None:
            raise
        raise translated from exc


async def repeatable(ask: Callable[[], Awaitable[A]]) -> A:
    """What `ask` gives, on a connection that nobody tried before: where it was lost, ask again on one that is good.

    Saves a round trip, for what may be done twice: what was asked first may be done, and nobody heard of it.
    """
    token = _untried.set(True)
    try:
        return await ask()
    except LedgerUnavailable as exc:
        if not _cut_off(exc):
            raise
    finally:
        _untried.reset(token)
    return await ask()


def _cut_off(error: LedgerUnavailable) -> bool:
    """Whether the connection was lost on the way, so that a new one may be had at once."""
    cause = error.__cause__
    if isinstance(cause, DBAPIError):
        return cause.connection_invalidated or getattr(cause.orig, "sqlstate", None) in CUT
    return isinstance(cause, asyncpg.InterfaceError | asyncpg.InternalClientError)


def _translated(exc: Exception) -> LedgerUnavailable | None:
    if isinstance(exc, InvalidRequestError) and str(exc) != LOST_AGAIN:
        return None
    origin = exc.orig if isinstance(exc, DBAPIError) else exc
    code = getattr(origin, "sqlstate", None) or ""
    if code in NO_TABLES:
        return LedgerUnavailable(
            "the orchestrator's database has no tables of this version; run `python -m orchestrator migrate`",
            retry_after=10,
        )
    if code == LOCKED:
        return LedgerUnavailable(
            "another process holds a lock in the orchestrator's database; try again", retry_after=5
        )
    gone = isinstance(exc, DBAPIError) and exc.connection_invalidated
    if gone or code[:2] in UNAVAILABLE_CLASSES or (not code and not isinstance(exc, DBAPIError)):
        return LedgerUnavailable("the orchestrator's database cannot be reached now; try again later", retry_after=5)
    return None
