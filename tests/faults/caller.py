"""A sensible client: asks for one run after another, each under a key of its own, and asks again where no answer came.

When it asks and how long it waits follow from the seed alone. Every attempt and its answer are kept.
"""

import asyncio
import random
from datetime import date, timedelta

import httpx

from .facts import Attempt
from .side import Side, now

_FIRST_DAY = date(2013, 1, 1)
_DAYS = 364  # the source has no weather of the year's last day

_ANSWER_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 5.0
_GIVES_UP_AFTER_SECONDS = 180.0


class Caller:
    """Asks a side for runs. `asked` holds, by key, the day and every attempt so far."""

    def __init__(self, side: Side, *, prefix: str, runs: int, rate: float, seed: int, since: float) -> None:
        self._side = side
        self._random = random.Random(f"{seed} {prefix.partition('/')[0]}")  # noqa: S311 - repeatable, not secret
        self._since = since
        self._gaps = [0.0] + [min(self._random.expovariate(rate), 4 / rate) for _ in range(runs - 1)]
        first = self._random.randrange(_DAYS)
        days = [_FIRST_DAY + timedelta(days=(first + n) % _DAYS) for n in range(runs)]
        self.asked: dict[str, tuple[date, list[Attempt]]] = {
            f"{prefix}{number:03}": (day, []) for number, day in enumerate(days)
        }
        self.sent = 0

    async def ask_for_all(self) -> None:
        """Ask for every run in turn, at the seed's gaps; an answer that is late holds none of the next ones up."""
        async with httpx.AsyncClient(timeout=_ANSWER_SECONDS) as client, asyncio.TaskGroup() as group:
            for gap, key in zip(self._gaps, self.asked, strict=True):
                await asyncio.sleep(gap)
                group.create_task(self._ask(client, key))
                self.sent += 1

    async def _ask(self, client: httpx.AsyncClient, key: str) -> None:
        day, attempts = self.asked[key]
        deadline = now() + _GIVES_UP_AFTER_SECONDS
        pause = 0.5
        while now() < deadline:
            at = round(now() - self._since, 2)
            url, body, headers = self._side.start(key, day)
            wait = pause
            try:
                answer = await client.post(url, json=body, headers=headers)
            except httpx.TransportError as exc:
                attempts.append(Attempt(at=at, error=type(exc).__name__))
            else:
                run_id, error = self._read(answer)
                attempts.append(Attempt(at=at, status=answer.status_code, run_id=run_id, error=error))
                if run_id is not None or _is_final(answer.status_code):
                    return
                retry_after = answer.headers.get("retry-after", "")
                wait = float(retry_after) if retry_after.isdecimal() else pause
            await asyncio.sleep(min(wait, _LONGEST_PAUSE_SECONDS) * self._random.uniform(0.5, 1.5))
            pause *= 2

    def _read(self, answer: httpx.Response) -> tuple[str | None, str | None]:
        """What an answer promises; one that cannot be read promises nothing and is asked for again."""
        try:
            run_id = self._side.promised(answer)
        except (ValueError, KeyError, TypeError):
            return None, "not to be read"
        return run_id, None if run_id else answer.text[:120]


def _is_final(status: int) -> bool:
    """Whether the answer is about the request itself, so that asking again is no use."""
    return 400 <= status < 500 and status not in {408, 425, 429}
