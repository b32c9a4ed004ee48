"""Which replica follows Prefect: the one whose connection holds the advisory lock."""

import asyncio
from contextlib import suppress
from typing import Any

from orchestrator.ledger.connection import DRIVER, connect

LEADER_LOCK = 0x6F72_6368_0001  # any number of our own; the migrations lock under another
LOST = (OSError, TimeoutError, *DRIVER)

# Another replica leads within ten seconds of the leader's last sign of life: six until PostgreSQL gives its connection
# up, and a look more. TCP alone would not do: the kernel of a frozen process, or a proxy, goes on answering for it.
SILENCE_SECONDS = 6.0
BEAT_SECONDS = 1.5
ANSWER_SECONDS = 3.0


class Leadership:
    """A session-level lock on a connection of its own: PostgreSQL hands it on the moment that connection is gone.

    The connection shows every 1.5 s that its process lives, however long a look at Prefect takes.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None
        self._leads = False
        self._beating: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # a connection does one thing at a time

    async def held(self) -> bool:
        """Whether this replica leads now; tries to become the leader where it does not.

        Asked before every look at Prefect. False also when the database cannot be asked: then nobody knows.
        """
        try:
            async with self._turn:
                if self._connection is None:
                    silence = {"idle_session_timeout": str(round(SILENCE_SECONDS * 1000))}
                    self._connection = await connect(self._url, statement_seconds=ANSWER_SECONDS, more=silence)
                    self._beating = asyncio.create_task(self._beat(self._connection))
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
        beating, self._beating = self._beating, None
        if beating is not None:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
        if connection is not None:
            try:
                await asyncio.wait_for(connection.close(), timeout=2)
            except LOST:
                connection.terminate()

    async def _beat(self, connection: Any) -> None:
        """Keep the connection from being silent; where it is lost, the next question finds out."""
        with suppress(*LOST):
            while True:
                await asyncio.sleep(BEAT_SECONDS)
                async with self._turn:
                    await connection.execute("SELECT 1")
