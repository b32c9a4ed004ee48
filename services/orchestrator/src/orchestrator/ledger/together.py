"""What waits at one moment is done in one statement: each asks for itself, and pays a part of its cost."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from sqlalchemy.exc import DBAPIError

W = TypeVar("W")
A = TypeVar("A")

MOST = 500

Waiting = tuple[W, asyncio.Future[A]]


class Together(Generic[W, A]):
    """Does things in groups: one group at a time, and who comes meanwhile is in the next. Nobody waits for company."""

    def __init__(self, act: Callable[[Sequence[W]], Awaitable[Sequence[A]]], *, most: int = MOST) -> None:
        """`act` does it for a group of `most` at most, and gives an answer for each, in their order."""
        self._act = act
        self._most = most
        self._waiting: list[Waiting[W, A]] = []
        self._acting: asyncio.Task[None] | None = None

    async def ask(self, wish: W) -> A:
        """What `act` answers for `wish`. Raises what it raises."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((wish, answer))
        if self._acting is None:
            self._acting = asyncio.create_task(self._act_for_all(), name="together")
        return await answer

    async def _act_for_all(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                await self._act_for(group)
        finally:
            self._acting = None

    async def _act_for(self, group: list[Waiting[W, A]]) -> None:
        """Answer each of the group. What the database refuses of one is that one's trouble: the others go alone."""
        wanted = [one for one in group if not one[1].done()]  # who has left wants nothing any more
        if not wanted:
            return
        try:
            answers = await self._act([wish for wish, _ in wanted])
        except DBAPIError as exc:
            if len(wanted) == 1:
                _refuse(wanted, exc)
            for one in wanted if len(wanted) > 1 else ():
                await self._act_for([one])
        except BaseException as exc:
            _refuse(wanted, exc)
            if not isinstance(exc, Exception):
                raise
        else:
            for (_, answer), given in zip(wanted, answers, strict=True):
                if not answer.done():
                    answer.set_result(given)


def _refuse(group: list[Waiting[W, A]], exc: BaseException) -> None:
    for _, answer in group:
        if not answer.done():
            answer.set_exception(exc)
