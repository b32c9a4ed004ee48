"""What waits at one moment is done in one statement: each asks for itself, and pays a part of its cost."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

from sqlalchemy.exc import StatementError

from orchestrator.errors import LedgerUnavailable

W = TypeVar("W")
A = TypeVar("A")

MOST = 500

Waiting = tuple[W, asyncio.Future[A]]


class Together(Generic[W, A]):
    """Does things in groups: one group at a time, and who comes meanwhile is in the next. Nobody waits for company.

    Whoever waits is answered, whatever becomes of the group: by what it asked for or by an error.
    """

    def __init__(self, act: Callable[[Sequence[W]], Awaitable[Sequence[A]]], *, most: int = MOST) -> None:
        """`act` does it for a group of `most` at most, all or nothing, and gives an answer for each, in their order."""
        self._act = act
        self._most = most
        self._waiting: list[Waiting[W, A]] = []
        self._acting: asyncio.Task[None] | None = None

    async def ask(self, wish: W) -> A:
        """What `act` answers for `wish`. Raises what it raises, and LedgerUnavailable where it was interrupted."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((wish, answer))
        if self._acting is None:
            # in a context of nobody's: what is logged meanwhile is about a group, not about the one who came first
            self._acting = asyncio.create_task(self._act_for_all(), name="together", context=Context())
        return await answer

    async def _act_for_all(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                await self._act_for(group)
        finally:
            self._acting = None
            left, self._waiting = self._waiting, []
            _refuse(left, _interrupted())

    async def _act_for(self, group: list[Waiting[W, A]]) -> None:
        """Answer each of the group. What is wrong with one is that one's trouble: the others are done without it."""
        wanted = [one for one in group if not one[1].done()]  # who has left wants nothing any more
        if not wanted:
            return
        try:
            answers = await self._act([wish for wish, _ in wanted])
        except StatementError as exc:
            if len(wanted) == 1:
                _refuse(wanted, exc)
                return
            middle = len(wanted) // 2
            await self._act_for(wanted[:middle])
            await self._act_for(wanted[middle:])
        except Exception as exc:  # noqa: BLE001 -- whatever it is, it is raised by everybody who waits
            _refuse(wanted, exc)
        except asyncio.CancelledError:
            _refuse(wanted, _interrupted())
            # a driver that gives up a dead connection raises it too, and that is nobody's wish to end this
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
        else:
            for (_, answer), given in zip(wanted, answers, strict=True):
                if not answer.done():
                    answer.set_result(given)


def _interrupted() -> LedgerUnavailable:
    return LedgerUnavailable("this was interrupted before it was known to be done; ask again", retry_after=1)


def _refuse(group: list[Waiting[W, A]], exc: Exception) -> None:
    for _, answer in group:
        if not answer.done():
            answer.set_exception(exc)
