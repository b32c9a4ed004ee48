"""Bugs planted in the guard around calls, one at a time: the models of `machines` must find each of them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pybreaker
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from orchestrator.resilience import Breaker, CircuitOpen, DeadlineExceeded, Guard, RetryBudget, Transient
from tenacity import AsyncRetrying

from .machines import Callers, No, WholeCalls

T = TypeVar("T")

# The same examples each time, and no search for the shortest story once one was found.
SEARCH = settings(
    max_examples=500,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class LetsASecondProbeIn(Breaker):
    def admit(self) -> int:
        self._probing = False
        return super().admit()


class ClosesOnAStaleSuccess(Breaker):
    def succeeded(self, generation: int) -> None:
        if generation != self._generation and self.state == pybreaker.STATE_OPEN:
            self._moving(self._pybreaker.close)
        super().succeeded(generation)


class OpensOnAStaleFailure(Breaker):
    def failed(self, generation: int, error: Exception) -> None:
        super().failed(generation if self.state == pybreaker.STATE_OPEN else self._generation, error)


class ProlongedByAStaleFailure(Breaker):
    def failed(self, generation: int, error: Exception) -> None:
        super().failed(generation, error)
        if self.state == pybreaker.STATE_OPEN:
            self._opened_at = self._clock()


class CountsACancellationAsAFailure(Breaker):
    def abandoned(self, generation: int) -> None:
        self.failed(generation, Transient("cancelled"))


class CountsACancellationAsASuccess(Breaker):
    def abandoned(self, generation: int) -> None:
        self.succeeded(generation)


class KeepsThePlaceOfACancelledProbe(Breaker):
    def abandoned(self, generation: int) -> None:
        """Nothing."""


class FreesThePlaceOfAnothersProbe(Breaker):
    def abandoned(self, generation: int) -> None:
        super().abandoned(self._generation)


class NeedsOneFailureMore(Breaker):
    def __init__(self, name: str, *, failures_to_open: int, **more: Any) -> None:
        super().__init__(name, failures_to_open=failures_to_open + 1, **more)


class ProbesTooEarly(Breaker):
    def __init__(self, name: str, *, open_for: float, **more: Any) -> None:
        super().__init__(name, open_for=open_for * 0.9, **more)


class StartsAnewWhenAsked(Breaker):
    def admit(self) -> int:
        try:
            return super().admit()
        except CircuitOpen:
            self._opened_at = self._clock()
            raise


class NeverForgetsAFailure(Breaker):
    def succeeded(self, generation: int) -> None:
        if self.state == pybreaker.STATE_HALF_OPEN:
            super().succeeded(generation)


class IsolatesForNoTime(Breaker):
    def isolate(self) -> None:
        super().isolate()
        self._opened_at = float("-inf")


BREAKERS = [
    LetsASecondProbeIn,
    ClosesOnAStaleSuccess,
    OpensOnAStaleFailure,
    ProlongedByAStaleFailure,
    CountsACancellationAsAFailure,
    CountsACancellationAsASuccess,
    KeepsThePlaceOfACancelledProbe,
    FreesThePlaceOfAnothersProbe,
    NeedsOneFailureMore,
    ProbesTooEarly,
    StartsAnewWhenAsked,
    NeverForgetsAFailure,
    IsolatesForNoTime,
]


@pytest.mark.parametrize("planted", BREAKERS)
def test_a_bug_in_the_breaker_is_found(planted: type[Breaker]) -> None:
    """By callers of the breaker alone."""
    machine = type(planted.__name__, (Callers,), {"kind": planted})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=SEARCH)


class EndlessBudget(RetryBudget):
    def spend(self) -> bool:
        return True


class SavesWithoutEnd(RetryBudget):
    def earn(self) -> None:
        self._tokens += self._ratio


class NeverAffords(RetryBudget):
    def spend(self) -> bool:
        return False


def with_budget(kind: type[RetryBudget]) -> type[Guard]:
    class Planted(Guard):
        def __init__(self, name: str, **more: Any) -> None:
            super().__init__(name, **more)
            self._budget = kind(ratio=self._limits.budget_ratio, most=self._limits.budget_most)

    Planted.__name__ = kind.__name__
    return Planted


def with_breaker(kind: type[Breaker]) -> type[Guard]:
    class Planted(Guard):
        def __init__(self, name: str, **more: Any) -> None:
            super().__init__(name, **more)
            self.breaker = kind(
                name,
                failures_to_open=self._limits.failures_to_open,
                open_for=self._limits.open_for,
                clock=more["clock"],
            )

    Planted.__name__ = kind.__name__
    return Planted


class EarnsByTheAttempt(Guard):
    async def _once(self, attempt: Callable[[], Awaitable[T]]) -> T:
        self._budget.earn()
        return await super()._once(attempt)


class SpendsWhereNothingIsRetried(Guard):
    async def _once(self, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            return await super()._once(attempt)
        except No:
            self._budget.spend()
            raise


class DeadlineOfEachAttemptAlone(Guard):
    async def call(self, attempt: Callable[[], Awaitable[T]]) -> T:
        self._budget.earn()
        async with self._slots:
            return await self._retrying(self._clock() + self._limits.total)(self._once, attempt)


class DeadlineBeginsAfterTheQueue(Guard):
    async def call(self, attempt: Callable[[], Awaitable[T]]) -> T:
        async with self._slots:
            self._budget.earn()
            try:
                async with asyncio.timeout(self._limits.total):
                    return await self._retrying(self._clock() + self._limits.total)(self._once, attempt)
            except TimeoutError as exc:
                raise DeadlineExceeded("late") from exc


class AttemptWithoutATimeout(Guard):
    async def _once(self, attempt: Callable[[], Awaitable[T]]) -> T:
        async with self._passing():
            return await attempt()


class LeaksTheSlotOfWhoHangsUp(Guard):
    async def call(self, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            return await super().call(attempt)
        except asyncio.CancelledError:
            await self._slots.acquire()
            raise


class LetsAllInAtOnce(Guard):
    def __init__(self, name: str, **more: Any) -> None:
        super().__init__(name, **more)
        self._slots = asyncio.Semaphore(1000)


class IgnoresRetryAfter(Guard):
    def _retrying(self, deadline: float) -> AsyncRetrying:
        retrying = super()._retrying(deadline)
        retrying.wait = self._backoff
        return retrying


class RepeatsWhatMayNotBe(Guard):
    async def _once(self, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            return await super()._once(attempt)
        except Transient as exc:
            exc.repeatable = True
            raise


class RetriesAnOpenCircuit(Guard):
    async def _once(self, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            return await super()._once(attempt)
        except CircuitOpen as exc:
            raise Transient(str(exc)) from exc


class NeverRetries(Guard):
    def _retrying(self, deadline: float) -> AsyncRetrying:
        retrying = super()._retrying(deadline)
        retrying.stop = lambda state: True
        return retrying


class TakesAnyErrorForAnAnswer(Guard):
    def __init__(self, name: str, *, answers: tuple[type[Exception], ...], **more: Any) -> None:
        super().__init__(name, answers=(Exception,), **more)


class TakesARefusalForNothing(Guard):
    def __init__(self, name: str, *, answers: tuple[type[Exception], ...], **more: Any) -> None:
        super().__init__(name, answers=(), **more)


class SwallowsACancellation(Guard):
    async def call(self, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            return await super().call(attempt)
        except asyncio.CancelledError as exc:
            raise DeadlineExceeded("cancelled") from exc


GUARDS = [
    *map(with_budget, [EndlessBudget, SavesWithoutEnd, NeverAffords]),
    *map(with_breaker, [LetsASecondProbeIn, CountsACancellationAsAFailure, KeepsThePlaceOfACancelledProbe]),
    EarnsByTheAttempt,
    SpendsWhereNothingIsRetried,
    DeadlineOfEachAttemptAlone,
    DeadlineBeginsAfterTheQueue,
    AttemptWithoutATimeout,
    LeaksTheSlotOfWhoHangsUp,
    LetsAllInAtOnce,
    IgnoresRetryAfter,
    RepeatsWhatMayNotBe,
    RetriesAnOpenCircuit,
    NeverRetries,
    TakesAnyErrorForAnAnswer,
    TakesARefusalForNothing,
    SwallowsACancellation,
]


@pytest.mark.parametrize("planted", GUARDS)
def test_a_bug_in_the_guard_is_found(planted: type[Guard]) -> None:
    """By whole calls through it."""
    machine = type(planted.__name__, (WholeCalls,), {"kind": planted})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=SEARCH)


@pytest.mark.parametrize("machine", [Callers, WholeCalls])
def test_the_search_finds_nothing_where_nothing_is_planted(machine: type[Callers | WholeCalls]) -> None:
    """The same examples, and as many of them as any bug above needed at most."""
    run_state_machine_as_test(machine, settings=settings(SEARCH, max_examples=100))
