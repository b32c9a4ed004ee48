"""Which replica follows Prefect: the one whose connection holds the advisory lock."""

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg

from orchestrator.ledger.connection import connect

LEADER_LOCK = 0x6F72_6368_0001  # any number of our own; the migrations lock under another
LOST = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Leadership:
    """A session-level lock on a connection of its own: PostgreSQL hands it on the moment that connection is gone."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None
        self._leads = False

    async def held(self) -> bool:
        """Whether this replica leads now; tries to become the leader where it does not.

        Asked before every look at Prefect. False also when the database cannot be asked: then nobody knows.
        """
        try:
            if self._connection is None:
                self._connection = await connect(self._url)
            if self._leads:
                await self._connection.execute("SELECT 1")
            else:
                self._leads = await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", LEADER_LOCK)
        except LOST:
            await self.release()
        return self._leads

    async def release(self) -> None:
        """Step down and close the connection; another replica may lead from here on."""
        connection, self._connection, self._leads = self._connection, None, False
        if connection is not None:
            with suppress(*LOST):
                await asyncio.wait_for(connection.close(), timeout=2)
