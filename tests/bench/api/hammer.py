"""Sends HTTP requests from a process of its own, as fast as answers come: `python -m tests.bench.api.hammer`.

Reads what to do as JSON from its standard input and prints what came of it. It speaks just enough HTTP/1.1 to cost
little beside the server: kept connections, bodies with a length.
"""

import asyncio
import json
import random
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import cycle
from typing import cast

import uvloop


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(
        self,
        requests: Iterator[bytes],
        until: float,
        statuses: dict[int, int],
        taken: list[float],
        every: float | None,
    ) -> None:
        """`every`: one request in so many seconds, counted from when it was due; None: each as soon as it can be."""
        self._requests = requests
        self._until = until
        self._every = every
        self._statuses = statuses
        self._taken = taken
        self._answer = bytearray()
        self._sent_at = 0.0
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        if self._every is None:
            self._ask()
        else:
            self._sent_at = time.perf_counter() - random.random() * self._every
            self._ask_in_time(self._every)

    def _ask(self) -> None:
        self._sent_at = time.perf_counter()
        if self._sent_at >= self._until:
            self._hang_up()
            return
        self._transport.write(next(self._requests))

    def _ask_in_time(self, every: float) -> None:
        """Ask when the next is due. One that is late counts from then: who waits for its turn waits as well."""
        self._sent_at += every
        if self._sent_at >= self._until:
            self._hang_up()
            return
        wait = max(0.0, self._sent_at - time.perf_counter())
        asyncio.get_running_loop().call_later(wait, lambda: self._transport.write(next(self._requests)))

    def _hang_up(self) -> None:
        self.over.set_result(None)
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if not end:
            return
        _, _, rest = head.lower().partition(b"content-length:")
        if len(body) < int(rest.partition(b"\r\n")[0]):
            return
        self._taken.append(time.perf_counter() - self._sent_at)
        status = int(head[9:12])
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._answer.clear()
        if self._every is None:
            self._ask()
        else:
            self._ask_in_time(self._every)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_exception(exc or ConnectionError("the server closed a connection"))


async def main() -> None:
    """Do it, and print rate, latencies in milliseconds and statuses."""
    asked = json.load(sys.stdin)
    requests = cycle([text.encode() for text in asked["requests"]])
    loop = asyncio.get_running_loop()
    every = asked["connections"] / asked["per_second"] if asked["per_second"] else None
    statuses: dict[int, int] = {}
    taken: list[float] = []

    async def round_of(seconds: float) -> float:
        begun = time.perf_counter()
        connections = deque(maxlen=asked["connections"])
        for _, port in zip(range(asked["connections"]), cycle(asked["ports"]), strict=False):
            _, one = await loop.create_connection(
                lambda: Connection(requests, begun + seconds, statuses, taken, every), asked["host"], port
            )
            connections.append(one)
        await asyncio.wait_for(asyncio.gather(*(one.over for one in connections)), seconds + 60)
        return time.perf_counter() - begun

    await round_of(asked["warm_seconds"])
    warm = len(taken)
    statuses.clear()
    taken.clear()
    seconds = await round_of(asked["seconds"])
    taken.sort()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    told = {
        "count": len(taken),
        "count_with_warm": len(taken) + warm,
        "per_second": len(taken) / seconds,
        "p50_ms": taken[len(taken) // 2] * 1000 if taken else None,
        "p99_ms": taken[int(len(taken) * 0.99)] * 1000 if taken else None,
        "statuses": statuses,
        "own_cpu_seconds": usage.ru_utime + usage.ru_stime,
        "seconds": seconds,
    }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    uvloop.run(main())
