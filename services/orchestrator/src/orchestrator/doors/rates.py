"""How often a caller may come, and how many streams one may hold open. Memory is bounded, whoever comes.

A bucket is one number: when it will be full again. That is the token bucket seen from its other end (GCRA).
"""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from orchestrator.errors import TooManyRequests

BURST_SECONDS = 4.0
REMEMBERED = 4096
SLACK = 1e-6  # of a second: what arithmetic loses
STREAM_WAIT = 10.0

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """What callers may do: so many a second each, four seconds' worth of it at once; so many streams.

    `refusals` is for requests whose credential is worthless: from one address and, four times as many, from all.
    """

    reads: float = 100.0
    writes: float = 50.0
    refusals: float = 10.0
    streams: int = 200
    streams_each: int = 50


class Buckets:
    """A token bucket for each of those who came lately; one that was forgotten is full."""

    def __init__(
        self,
        per_second: float,
        *,
        clock: Clock = time.monotonic,
        burst: float | None = None,
        remembered: int = REMEMBERED,
    ) -> None:
        """`burst`: how many at once, four seconds' worth where not given, and one at least."""
        self._interval = 1 / per_second
        self._depth = (max(1.0, burst or per_second * BURST_SECONDS) - 1) * self._interval
        self._clock = clock
        self._remembered = remembered
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, who: str) -> float:
        """Take one token: 0 when there was one, else the seconds until there will be one, and nothing is taken."""
        now = self._clock()
        full_at = max(now, self._full_at.get(who, now))
        wait = full_at - now - self._depth
        if wait > SLACK:
            return wait
        self._full_at[who] = full_at + self._interval
        self._full_at.move_to_end(who)
        if len(self._full_at) > self._remembered:
            self._full_at.popitem(last=False)
        return 0.0

    def give_back(self, who: str) -> None:
        """Undo a `take`."""
        if who in self._full_at:
            self._full_at[who] -= self._interval

    def __len__(self) -> int:
        return len(self._full_at)


class Rates:
    """Every limit of how often and how many, for one application."""

    def __init__(self, allowed: Allowed, *, clock: Clock = time.monotonic) -> None:
        self._reads = Buckets(allowed.reads, clock=clock)
        self._writes = Buckets(allowed.writes, clock=clock)
        self._refusals = Buckets(allowed.refusals, clock=clock)
        self._all_refusals = Buckets(allowed.refusals * 4, clock=clock)
        self.streams = Streams(total=allowed.streams, each=allowed.streams_each)

    def count(self, who: str, *, write: bool) -> None:
        """Count one request. Raises TooManyRequests."""
        wait = (self._writes if write else self._reads).take(who)
        if wait:
            raise _too_many(f"{'changes' if write else 'requests'} come too fast from {who}", wait)

    def doubt(self, address: str) -> "Doubt":
        """A request from there that has proved nothing yet."""
        return Doubt(address, own=self._refusals, shared=self._all_refusals)


class Doubt:
    """One request with a credential that nobody has vouched for: paid for before work is done, refunded if it is good.

    Paying first is what bounds the work when many come at once.
    """

    def __init__(self, address: str, *, own: Buckets, shared: Buckets) -> None:
        self._address = address
        self._own = own
        self._shared = shared
        self._paid = False

    def pay(self) -> None:
        """Count it against its address and against everybody's. Raises TooManyRequests."""
        if self._paid:
            return
        wait = self._own.take(self._address)
        if not wait:
            wait = self._shared.take("")
            if wait:
                self._own.give_back(self._address)
        if wait:
            raise _too_many("too many requests came without a good credential", wait)
        self._paid = True

    def refund(self) -> None:
        """The credential was good."""
        if self._paid:
            self._own.give_back(self._address)
            self._shared.give_back("")
            self._paid = False


class Streams:
    """How many streams are open, in all and by caller."""

    def __init__(self, *, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._open: Counter[str] = Counter()

    def enter(self, who: str) -> Callable[[], None]:
        """Hold one open until the returned function is called, once or more often. Raises TooManyRequests."""
        if self._open[who] >= self._each:
            raise _too_many(f"{who} holds {self._each} event streams open, as many as one may; close one", STREAM_WAIT)
        if self._open.total() >= self._total:
            raise _too_many(f"{self._total} event streams are open, as many as this replica holds", STREAM_WAIT)
        self._open[who] += 1
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                self._open[who] -= 1
                self._open += Counter()  # forgets who holds none

        return leave

    def __len__(self) -> int:
        return self._open.total()


def address(client: tuple[str, int] | None) -> str:
    """What tells callers apart who give no name: the peer's address; of IPv6 the network, which is what one gets."""
    return "local" if client is None else _address(client[0])


@lru_cache(REMEMBERED)
def _address(host: str) -> str:
    try:
        found = ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(found, IPv6Address):
        return f"{found.ipv4_mapped}" if found.ipv4_mapped else f"{IPv6Address(int(found) >> 64 << 64)}/64"
    return str(found)


def _too_many(what: str, wait: float) -> TooManyRequests:
    seconds = max(1, math.ceil(wait))
    return TooManyRequests(f"{what}; wait {seconds} s", retry_after=seconds)
