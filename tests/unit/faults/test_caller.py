"""The client: it asks again under the same key until it is promised a run, and the seed alone decides when it asks."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from ...faults.caller import Caller
from ...faults.cluster import Forward
from ...faults.ours import Ours

Answer = tuple[int, dict[str, str]] | None


@dataclass
class Api:
    """A start API that gives the answers it was told, in turn; None closes the connection without one."""

    answers: list[Answer]
    asked: list[tuple[str, str]] = field(default_factory=list)  # key and day

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n"))}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.asked.append((headers["idempotency-key"], body["logical_date"]))
        answer = self.answers.pop(0)
        if answer is not None:
            status, document = answer
            text = json.dumps(document)
            writer.write(
                f"HTTP/1.1 {status} x\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode()
            )
            await writer.drain()
        writer.close()


Calling = Callable[[Api, int], Caller]


@pytest.fixture
async def calling(free_port: int) -> AsyncIterator[Calling]:
    servers: list[asyncio.Server] = []
    side = Ours(cluster="none", namespace="none")

    async def serve(api: Api) -> None:
        servers.append(await asyncio.start_server(api.serve, "127.0.0.1", free_port))

    async with asyncio.TaskGroup() as group:

        def call(api: Api, runs: int) -> Caller:
            group.create_task(serve(api))
            forward = Forward(side.kubectl, "service/none", 8080)
            forward.port = free_port
            side.forwards["api"] = forward
            return Caller(side, prefix="none/1/0/", runs=runs, rate=100, seed=1, since=0)

        yield call
    for server in servers:
        server.close()


async def test_it_asks_again_under_the_same_key(calling: Calling) -> None:
    """After a lost answer, a 503, and one that promises nothing; every attempt is kept."""
    api = Api([None, (503, {}), (202, {"nonsense": "x"}), (202, {"run_id": "r"})])
    caller = calling(api, 1)
    await caller.ask_for_all()
    assert len(api.asked) == 4
    assert len(set(api.asked)) == 1
    [(key, (day, attempts))] = caller.asked.items()
    assert api.asked[0] == (key, day.isoformat())
    assert [one.status for one in attempts][-3:] == [503, 202, 202]
    assert [one.run_id for one in attempts][-3:] == [None, None, "r"]
    assert attempts[0].error is not None


async def test_a_final_refusal_is_not_asked_again(calling: Calling) -> None:
    """422 is about the request itself."""
    api = Api([(422, {"detail": "no"})])
    caller = calling(api, 1)
    await asyncio.sleep(0.1)
    await caller.ask_for_all()
    [(_, attempts)] = caller.asked.values()
    assert [one.status for one in attempts] == [422]


async def test_each_run_has_a_key_and_a_day_of_its_own(calling: Calling) -> None:
    """And asking with the same seed again means the same days."""
    api = Api([(202, {"run_id": str(number)}) for number in range(20)])
    caller = calling(api, 20)
    await asyncio.sleep(0.1)
    await caller.ask_for_all()
    assert len({key for key, _ in api.asked}) == len({day for _, day in api.asked}) == 20
    again = Caller(Ours(cluster="x", namespace="x"), prefix="none/1/9/", runs=20, rate=100, seed=1, since=0)
    other = Caller(Ours(cluster="x", namespace="x"), prefix="none/2/9/", runs=20, rate=100, seed=2, since=0)
    days = [day for day, _ in caller.asked.values()]
    assert days == [day for day, _ in again.asked.values()]
    assert days != [day for day, _ in other.asked.values()]
