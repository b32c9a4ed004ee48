"""Sends HTTP requests from a process of its own, as fast as answers come: `python -m tests.bench.api.hammer`.

Reads what to do as JSON from its standard input and prints what came of it. It speaks just enough HTTP/1.1 to cost
little beside the server: kept connections, bodies with a length.
"""

import asyncio
import json
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

    def __init__(self, requests: Iterator[bytes], until: float, statuses: dict[int, int], taken: list[float]) -> None:
        self._requests = requests
        self._until = until
        self._statuses = statuses
        self._taken = taken
        self._answer = bytearray()
        self._sent_at = 0.0
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self._ask()

    def _ask(self) -> None:
        self._sent_at = time.perf_counter()
        if self._sent_at >= self._until:
            self._transport.close()
            return
        self._transport.write(next(self._requests))

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
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.over.done():
            return
        if time.perf_counter() < self._until:
            self.over.set_exception(exc or ConnectionError("the server closed a connection"))
        else:
            self.over.set_result(None)


async def main() -> None:
    """Do it, and print rate, latencies in milliseconds and statuses."""
    asked = json.load(sys.stdin)
    requests = cycle([text.encode() for text in asked["requests"]])
    loop = asyncio.get_running_loop()
    statuses: dict[int, int] = {}
    taken: list[float] = []

    async def round_of(seconds: float) -> float:
        begun = time.perf_counter()
        connections = deque(maxlen=asked["connections"])
        for _, port in zip(range(asked["connections"]), cycle(asked["ports"]), strict=False):
            _, one = await loop.create_connection(
                lambda: Connection(requests, begun + seconds, statuses, taken), asked["host"], port
            )
            connections.append(one)
        await asyncio.wait_for(asyncio.gather(*(one.over for one in connections)), seconds + 60)
        return time.perf_counter() - begun

    await round_of(asked["warm_seconds"])
    statuses.clear()
    taken.clear()
    seconds = await round_of(asked["seconds"])
    taken.sort()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    told = {
        "count": len(taken),
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
