"""The changes of runs as they are recorded: one reader a replica, any number of followers.

The ledger's triggers make events visible in the order of their ids, so a follower that has seen an id has seen every
lower one: its place is a single number, and nothing between two places can be missed.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any

import structlog
from sqlalchemy import Row, Select, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.errors import LedgerUnavailable
from orchestrator.ledger.connection import DRIVER, connect, transaction
from orchestrator.ledger.tables import run_events, runs

CHANNEL = "run_events"
PAGE = 500
KEPT = 8192  # more than the longest backfill announces at once
PACE_SECONDS = 0.05  # between two reads while news keep coming: many are read as fast as one
QUIET_SECONDS = 5.0  # an announcement may be lost with its connection: look this often all the same
RETRY_SECONDS = 1.0
LOST = (OSError, TimeoutError, *DRIVER, LedgerUnavailable)

log = structlog.get_logger(__name__)


class TooSlow(Exception):
    """A follower fell behind further than the latest changes are kept."""


class Feed:
    """The latest changes, kept once for all followers."""

    def __init__(self, *, db: AsyncEngine, url: str, kept: int = KEPT) -> None:
        self._db = db
        self._url = url
        self._latest: deque[Row[Any]] = deque(maxlen=kept)
        self._from = 0  # every change after this place, up to _place, is among the latest
        self._place: int | None = None
        self._news = asyncio.Event()
        self.over = False

    async def work(self) -> None:
        """Read what is recorded as soon as the database announces it; returns only by cancellation."""
        while True:
            try:
                await self._listen()
            except LOST as exc:
                log.warning("events wait for the database", reason=str(exc) or type(exc).__name__)
            await asyncio.sleep(RETRY_SECONDS)

    def end(self) -> None:
        """Let every follower know that nothing more comes from here."""
        self.over = True
        self._wake()

    async def place(self, *, within: float = QUIET_SECONDS) -> int:
        """The id of the latest change that was read. Raises LedgerUnavailable when none can be read in that time."""
        try:
            async with asyncio.timeout(within):
                while self._place is None:
                    await self._news.wait()
        except TimeoutError as exc:
            raise LedgerUnavailable("the orchestrator's database cannot be read now", retry_after=5) from exc
        return self._place

    async def knows(self, place: int) -> bool:
        """Whether a change of that id, or a later one, was ever recorded."""
        if place <= await self.place():
            return True
        async with transaction(self._db) as connection:
            last = (await connection.execute(select(func.max(run_events.c.id)))).scalar_one()
        return place <= (last or 0)

    async def after(self, place: int, pipeline: str, *, live: bool, within: float) -> "Stretch":
        """What follows `place`: from the ledger, a page at a time, where it is not among the latest.

        Waits up to `within` seconds for something to follow. Raises TooSlow for one who was `live` and fell behind.
        """
        upto = await self.place()
        if place < self._from:
            if live:
                raise TooSlow
            page = await self._recorded(place, upto, pipeline)
            return Stretch(page, place=page[-1].id if len(page) == PAGE else upto, live=False)
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not self.over and (self._place or 0) <= place:
                    await self._news.wait()
        if place < self._from:
            raise TooSlow
        new = list(takewhile(lambda row: row.id > place, reversed(self._latest)))
        found = [row for row in reversed(new) if row.pipeline == pipeline]
        return Stretch(found, place=max(place, self._place or 0), live=True)

    async def stirred(self, place: int, *, within: float) -> tuple[int, frozenset[str] | None]:
        """The place now, and the pipelines that changed since `place`: None where so much did that it is not known.

        Waits up to `within` seconds for something to change.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not self.over and (self._place or 0) <= place:
                    await self._news.wait()
        if place < self._from:
            return self._place or 0, None
        new = takewhile(lambda row: row.id > place, reversed(self._latest))
        return max(place, self._place or 0), frozenset(row.pipeline for row in new)

    async def _recorded(self, place: int, upto: int, pipeline: str) -> list[Row[Any]]:
        wanted = (run_events.c.id > place, run_events.c.id <= upto, run_events.c.pipeline == pipeline)
        async with transaction(self._db) as connection:
            return list(await connection.execute(_changes().where(*wanted).limit(PAGE)))

    async def _listen(self) -> None:
        connection = await connect(self._url)
        try:
            heard = asyncio.Event()
            await connection.add_listener(CHANNEL, lambda *_: heard.set())
            connection.add_termination_listener(lambda _: heard.set())
            while not connection.is_closed():
                heard.clear()
                if await self._read():
                    await asyncio.sleep(PACE_SECONDS)
                with suppress(TimeoutError):
                    async with asyncio.timeout(QUIET_SECONDS):
                        await heard.wait()
        finally:
            with suppress(*LOST):
                await asyncio.wait_for(connection.close(), timeout=2)

    async def _read(self) -> bool:
        """Read what is new; whether there was something."""
        if self._place is None:
            async with transaction(self._db) as connection:
                last = (await connection.execute(select(func.max(run_events.c.id)))).scalar_one()
            self._from = self._place = last or 0
            self._wake()
        before = self._place
        while True:
            async with transaction(self._db) as connection:
                page = list(await connection.execute(_changes().where(run_events.c.id > self._place).limit(PAGE)))
            for row in page:
                if len(self._latest) == self._latest.maxlen:
                    self._from = self._latest[0].id
                self._latest.append(row)
                self._place = row.id
            if page:
                self._wake()
            if len(page) < PAGE:
                return self._place != before

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class Stretch:
    """Changes in order, the place after them, and whether that is among the latest."""

    def __init__(self, changes: Sequence[Row[Any]], *, place: int, live: bool) -> None:
        self.changes = changes
        self.place = place
        self.live = live


def _changes() -> Select[Any]:
    event = run_events.c
    return (
        select(
            event.id,
            event.run_id,
            event.pipeline,
            event.kind,
            event.at,
            event.state,
            event.state_name,
            event.message,
            event.duration_ms,
            event.reason,
            runs.c.logical_date,
            runs.c.correlation_id,
        )
        .join(runs, runs.c.run_id == event.run_id)
        .order_by(event.id)
    )
