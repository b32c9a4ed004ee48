"""How a call to another service is kept from waiting, repeating or piling up without end.

One order, outside in: total deadline, concurrency limit, retry with a budget, circuit breaker, timeout of each attempt.
The breaker's states, counting and listeners are pybreaker's. What pybreaker lacks under asyncio is in `Breaker`: one
half-open probe among any number of callers, results of an earlier state that change nothing, and cancellation
that counts neither way (https://github.com/danielfm/pybreaker has no asyncio support; its half-open state lets all in).
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal, TypeVar

import pybreaker
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

T = TypeVar("T")
Clock = Callable[[], float]
BreakerState = Literal["closed", "open", "half-open"]


BACKOFF_FIRST = 0.5
BACKOFF_MOST = 15.0


def backoff(attempts: int) -> float:
    """Seconds before durable work is tried again after `attempts` earlier ones: exponential, with full jitter."""
    return random.uniform(0, min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** min(attempts, 16)))  # noqa: S311 -- not a secret


class Transient(Exception):
    """The other side failed in a way that passes: the only error that is retried and counted by the breaker.

    `retry_after`: seconds the other side asked us to wait. `repeatable`: whether this attempt may be sent again.
    """

    def __init__(self, reason: str, *, retry_after: float | None = None, repeatable: bool = True) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.repeatable = repeatable


class CircuitOpen(Exception):
    """The circuit is open: nothing was sent. `retry_after` is in seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"circuit open for another {retry_after:.1f} s")
        self.retry_after = retry_after


class DeadlineExceeded(Exception):
    """The whole call, its waits included, took longer than it may."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far one kind of call may go; all times in seconds."""

    total: float = 12.0
    attempt: float = 5.0
    concurrent: int = 16
    attempts: int = 3
    backoff_first: float = 0.1
    backoff_most: float = 2.0
    budget_ratio: float = 0.1
    budget_most: float = 10.0
    failures_to_open: int = 5
    open_for: float = 5.0


class Breaker:
    """A circuit breaker for concurrent asyncio callers around pybreaker's state.

    A generation is the stretch between two changes of state. A call belongs to the generation it was admitted in; its
    result counts only while that generation lasts.
    """

    def __init__(
        self,
        name: str,
        *,
        failures_to_open: int,
        open_for: float,
        clock: Clock = time.monotonic,
        listeners: Iterable[pybreaker.CircuitBreakerListener] = (),
    ) -> None:
        self._pybreaker = pybreaker.CircuitBreaker(
            fail_max=failures_to_open,
            reset_timeout=open_for,
            name=name,
            listeners=list(listeners),
            throw_new_error_on_trip=False,
        )
        self._open_for = open_for
        self._clock = clock
        self._opened_at = 0.0
        self._generation = 0
        self._probing = False

    @property
    def state(self) -> BreakerState:
        """closed, open or half-open. An open circuit whose time is up stays open until a caller comes to probe."""
        state: BreakerState = self._pybreaker.current_state  # type: ignore[assignment] # pybreaker types it as str
        return state

    def isolate(self) -> None:
        """Open the circuit by hand, as if it had just failed."""
        self._moving(self._pybreaker.open)

    def admit(self) -> int:
        """Let a call in and return its generation. Raises CircuitOpen; never lets a second probe in."""
        if self.state == pybreaker.STATE_OPEN:
            left = self._opened_at + self._open_for - self._clock()
            if left > 0:
                raise CircuitOpen(left)
            self._moving(self._pybreaker.half_open)
        if self.state == pybreaker.STATE_HALF_OPEN:
            if self._probing:
                raise CircuitOpen(min(1.0, self._open_for))
            self._probing = True
        return self._generation

    def succeeded(self, generation: int) -> None:
        """Report that a call admitted in `generation` worked."""
        if generation == self._generation:
            self._moving(self._record, None)

    def failed(self, generation: int, error: Exception) -> None:
        """Report that a call admitted in `generation` failed in a way that counts."""
        if generation == self._generation:
            self._moving(self._record, error)

    def abandoned(self, generation: int) -> None:
        """Report that a call admitted in `generation` tells nothing, as one that was cancelled: another may probe."""
        if generation == self._generation:
            self._probing = False

    def _record(self, error: Exception | None) -> None:
        with suppress(Transient), self._pybreaker.calling():
            if error is not None:
                raise error

    def _moving(self, change: Callable[..., object], *args: object) -> None:
        before = self.state
        change(*args)
        if self.state != before:
            self._generation += 1
            self._probing = False
        if self.state == pybreaker.STATE_OPEN:
            self._opened_at = self._clock()


class RetryBudget:
    """How many retries the calls so far have earned: in a full outage retries stay a small share of the calls."""

    def __init__(self, *, ratio: float, most: float) -> None:
        self._ratio = ratio
        self._most = most
        self._tokens = 0.0

    def earn(self) -> None:
        """Count one call offered."""
        self._tokens = min(self._most, self._tokens + self._ratio)

    def spend(self) -> bool:
        """Take one retry out of the budget; False when there is none."""
        # ten earned tenths are one retry, although ten times 0.1 is a little less than 1
        if self._tokens < 1 - 1e-9:
            return False
        self._tokens -= 1
        return True


class Guard:
    """Everything between a caller and one other service."""

    def __init__(
        self,
        name: str,
        *,
        limits: Limits,
        answers: tuple[type[Exception], ...] = (),
        clock: Clock = time.monotonic,
        listeners: Iterable[pybreaker.CircuitBreakerListener] = (),
    ) -> None:
        """`answers` are errors that show the other side to be well, such as a refusal. Others show nothing."""
        self._answers = answers
        self.breaker = Breaker(
            name,
            failures_to_open=limits.failures_to_open,
            open_for=limits.open_for,
            clock=clock,
            listeners=listeners,
        )
        self._limits = limits
        self._clock = clock
        self._slots = asyncio.Semaphore(limits.concurrent)
        self._budget = RetryBudget(ratio=limits.budget_ratio, most=limits.budget_most)
        self._backoff = wait_random_exponential(multiplier=limits.backoff_first, max=limits.backoff_most)

    async def call(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Run `attempt` within the limits; it raises Transient for what may pass.

        Raises Transient (the last one), CircuitOpen, DeadlineExceeded, and whatever else `attempt` raises.
        """
        self._budget.earn()
        deadline = self._clock() + self._limits.total
        whole = asyncio.timeout(self._limits.total)
        try:
            async with whole, self._slots:
                return await self._retrying(deadline)(self._once, attempt)
        except TimeoutError as exc:
            if not whole.expired():
                raise
            raise DeadlineExceeded(f"no answer within {self._limits.total:g} s") from exc

    def _retrying(self, deadline: float) -> AsyncRetrying:
        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.retry_after if isinstance(error, Transient) else None
            return max(self._backoff(state), asked or 0.0)

        def stop(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            return (
                not (isinstance(error, Transient) and error.repeatable)
                or state.attempt_number >= self._limits.attempts
                or self._clock() + state.upcoming_sleep >= deadline
                or self.breaker.state == pybreaker.STATE_OPEN
                or not self._budget.spend()
            )

        return AsyncRetrying(retry=retry_if_exception_type(Transient), wait=wait, stop=stop, reraise=True)

    async def _once(self, attempt: Callable[[], Awaitable[T]]) -> T:
        async with self._passing():
            try:
                async with asyncio.timeout(self._limits.attempt) as one:
                    return await attempt()
            except TimeoutError as exc:
                if not one.expired():
                    raise
                raise Transient(f"no answer within {self._limits.attempt:g} s") from exc

    @asynccontextmanager
    async def _passing(self) -> AsyncIterator[None]:
        generation = self.breaker.admit()
        try:
            yield
        except Transient as exc:
            self.breaker.failed(generation, exc)
            raise
        except BaseException as exc:
            if isinstance(exc, self._answers):
                self.breaker.succeeded(generation)
            else:
                self.breaker.abandoned(generation)
            raise
        self.breaker.succeeded(generation)
