"""What another service answered a moment ago: kept for seconds, bounded, and asked for once however many want it."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memory(Generic[K, V]):
    """Answers by key. A good one is kept for longer than a bad one; a failure to get one is not kept at all."""

    def __init__(
        self,
        good: Callable[[V], bool],
        *,
        good_seconds: float,
        bad_seconds: float,
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`good` tells good answers from bad ones; `most` answers are kept, those of the latest use."""
        self._good = good
        self._seconds = {True: good_seconds, False: bad_seconds}
        self._most = most
        self._clock = clock
        self._kept: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self._asking: dict[K, asyncio.Task[V]] = {}

    async def recall(self, key: K, ask: Callable[[], Awaitable[V]], *, before: Callable[[], None] | None = None) -> V:
        """The answer for `key`, asked for by `ask` where none is kept. Raises what `ask` raises.

        `before` is called before that where no good answer was ever kept, and may raise.
        """
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            if self._clock() < kept[1]:
                return kept[0]
        asking = self._asking.get(key)
        if asking is None:
            # an answer that has expired still says that its key is worth asking about
            if before is not None and not (kept is not None and self._good(kept[0])):
                before()
            asking = asyncio.create_task(self._ask(key, ask))
            self._asking[key] = asking
            asking.add_done_callback(lambda done: self._settled(key, done))
        # one who leaves does not take the answer from the others
        return await asyncio.shield(asking)

    async def _ask(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        answer = await ask()
        self._kept[key] = answer, self._clock() + self._seconds[self._good(answer)]
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return answer

    def _settled(self, key: K, done: asyncio.Task[V]) -> None:
        self._asking.pop(key, None)
        if not done.cancelled():
            done.exception()  # looked at, also when everybody who wanted it has left

    def __len__(self) -> int:
        return len(self._kept)
