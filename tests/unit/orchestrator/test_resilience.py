"""The guard around calls, under a clock that only moves when told to."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pybreaker
import pytest
from hypothesis import settings
from orchestrator.resilience import Breaker, CircuitOpen, DeadlineExceeded, Guard, Limits, RetryBudget, Transient

from .machines import Callers, Virtual, WholeCalls


@pytest.fixture
def virtual() -> Virtual:
    return Virtual()


class Service:
    """The other side: `behave` decides what each attempt meets."""

    def __init__(self, behave: Callable[[int], Coroutine[Any, Any, str]]) -> None:
        self.attempts = 0
        self._behave = behave

    async def __call__(self) -> str:
        self.attempts += 1
        return await self._behave(self.attempts)


async def _down(attempt: int) -> str:
    raise Transient(f"down at attempt {attempt}")


async def _up(attempt: int) -> str:
    return "up"


async def _hangs(attempt: int) -> str:
    await asyncio.sleep(3600)
    return "late"


def guard(virtual: Virtual, **limits: Any) -> Guard:
    """A guard whose retries are not limited by what earlier calls have earned, unless a test says so."""
    return Guard("test", limits=Limits(**({"budget_ratio": 10.0} | limits)), clock=virtual.clock)


def trip(breaker: Breaker, failures: int) -> None:
    for _ in range(failures):
        breaker.failed(breaker.admit(), Transient("down"))


def test_a_passing_failure_is_retried(virtual: Virtual) -> None:
    """The caller sees the success only."""

    async def down_then_up(attempt: int) -> str:
        return await (_down if attempt < 3 else _up)(attempt)

    service = Service(down_then_up)
    assert virtual.run(lambda: guard(virtual).call(service)) == "up"
    assert service.attempts == 3


def test_attempts_have_an_end_and_the_last_failure_is_told(virtual: Virtual) -> None:
    """After the last attempt the caller gets that attempt's error."""
    service = Service(_down)
    with pytest.raises(Transient, match="attempt 3"):
        virtual.run(lambda: guard(virtual, failures_to_open=9).call(service))
    assert service.attempts == 3


def test_what_is_not_transient_is_not_retried_and_does_not_open(virtual: Virtual) -> None:
    """An answer that says no is an answer: the service is well."""

    async def no(attempt: int) -> str:
        raise ValueError("no")

    service = Service(no)
    one = guard(virtual)
    for _ in range(10):
        with pytest.raises(ValueError, match="no"):
            virtual.run(lambda: one.call(service))
    assert (service.attempts, one.breaker.state) == (10, "closed")


def test_what_must_not_be_repeated_is_not(virtual: Virtual) -> None:
    """A failure that may have had an effect is sent once, and counted."""

    async def half_done(attempt: int) -> str:
        raise Transient("the connection broke", repeatable=False)

    service = Service(half_done)
    with pytest.raises(Transient):
        virtual.run(lambda: guard(virtual).call(service))
    assert service.attempts == 1


def test_retry_after_is_honoured(virtual: Virtual) -> None:
    """Nothing is sent before the other side asked to be called again."""
    moments: list[float] = []

    async def busy(attempt: int) -> str:
        moments.append(virtual.clock())
        if attempt == 1:
            raise Transient("429", retry_after=3.0)
        return "up"

    assert virtual.run(lambda: guard(virtual).call(Service(busy))) == "up"
    assert moments[1] - moments[0] >= 3.0


def test_a_wait_beyond_the_deadline_is_not_begun(virtual: Virtual) -> None:
    """Asked to wait longer than the call may take, it gives up at once and says why."""

    async def busy(attempt: int) -> str:
        raise Transient("429", retry_after=60.0)

    before = virtual.clock()
    with pytest.raises(Transient, match="429"):
        virtual.run(lambda: guard(virtual).call(Service(busy)))
    assert virtual.clock() - before < 1


def test_each_attempt_has_a_timeout_that_counts_as_a_failure(virtual: Virtual) -> None:
    """A service that hangs opens the circuit like one that fails."""
    one = guard(virtual, attempt=5.0, total=100.0, attempts=3, failures_to_open=3)
    service = Service(_hangs)
    before = virtual.clock()
    with pytest.raises(Transient, match="no answer within 5 s"):
        virtual.run(lambda: one.call(service))
    assert (service.attempts, one.breaker.state) == (3, "open")
    assert 15 <= virtual.clock() - before < 25


def test_the_whole_call_has_a_deadline(virtual: Virtual) -> None:
    """Attempts and waits together never take longer, and being cut off counts neither way."""
    one = guard(virtual, total=12.0, attempt=50.0)
    before = virtual.clock()
    with pytest.raises(DeadlineExceeded, match="12 s"):
        virtual.run(lambda: one.call(Service(_hangs)))
    assert virtual.clock() - before == pytest.approx(12.0)
    assert one.breaker.state == "closed"


def test_a_callers_own_timeout_is_its_own(virtual: Virtual) -> None:
    """A TimeoutError that the attempt itself raises is not taken for ours."""

    async def raises(attempt: int) -> str:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        virtual.run(lambda: guard(virtual).call(Service(raises)))


def test_no_more_than_so_many_at_once(virtual: Virtual) -> None:
    """The rest waits within its own deadline."""
    inside = highest = 0

    async def slow(attempt: int) -> str:
        nonlocal inside, highest
        inside += 1
        highest = max(highest, inside)
        await asyncio.sleep(1)
        inside -= 1
        return "up"

    async def many() -> list[str | BaseException]:
        one = guard(virtual, concurrent=4, total=10.5)
        return await asyncio.gather(*(one.call(Service(slow)) for _ in range(50)), return_exceptions=True)

    results = virtual.run(many)
    assert highest == 4
    assert results.count("up") == 40  # four a second for ten seconds
    assert all(isinstance(one, DeadlineExceeded) for one in results if one != "up")


def test_a_full_outage_is_hardly_amplified(virtual: Virtual) -> None:
    """Retries stay within a tenth of the calls even where the circuit never opens."""
    service = Service(_down)
    one = guard(virtual, failures_to_open=10**9, budget_ratio=0.1)

    async def many() -> None:
        for _ in range(1000):
            with pytest.raises(Transient):
                await one.call(service)

    virtual.run(many)
    assert 1000 < service.attempts <= 1100


def test_the_budget_earns_a_retry_with_ten_calls() -> None:
    """Saved-up retries are bounded."""
    budget = RetryBudget(ratio=0.1, most=2)
    assert not budget.spend()
    for _ in range(10):
        budget.earn()
    assert (budget.spend(), budget.spend()) == (True, False)
    for _ in range(1000):
        budget.earn()
    assert (budget.spend(), budget.spend(), budget.spend()) == (True, True, False)


def test_an_open_circuit_is_not_retried(virtual: Virtual) -> None:
    """The attempt that opens it is the last; calls after it send nothing."""
    one = guard(virtual, failures_to_open=2, attempts=10, total=100.0)
    service = Service(_down)
    with pytest.raises(Transient):
        virtual.run(lambda: one.call(service))
    assert (service.attempts, one.breaker.state) == (2, "open")
    with pytest.raises(CircuitOpen) as refusal:
        virtual.run(lambda: one.call(service))
    assert service.attempts == 2
    assert 0 < refusal.value.retry_after <= 5


def test_a_hundred_callers_make_one_probe(virtual: Virtual) -> None:
    """When its time is up an open circuit lets exactly one in, and all once that one came back well."""
    probing = asyncio.Event()

    async def slow(attempt: int) -> str:
        await probing.wait()
        return "up"

    service = Service(slow)

    async def storm() -> list[str | BaseException]:
        one = guard(virtual, concurrent=1000, failures_to_open=5)
        trip(one.breaker, 5)
        await asyncio.sleep(5.1)
        callers = [asyncio.create_task(one.call(service)) for _ in range(100)]
        await asyncio.sleep(0.01)
        assert (service.attempts, one.breaker.state) == (1, "half-open")
        probing.set()
        results = await asyncio.gather(*callers, return_exceptions=True)
        assert one.breaker.state == "closed"
        assert await one.call(service) == "up"
        return results

    results = virtual.run(storm)
    assert results.count("up") == 1
    assert sum(isinstance(one, CircuitOpen) for one in results) == 99


def test_a_cancelled_probe_leaves_its_place_to_the_next(virtual: Virtual) -> None:
    """A caller that hangs up neither closes the circuit nor keeps it half-open for ever."""

    async def story() -> str:
        one = guard(virtual, failures_to_open=1)
        trip(one.breaker, 1)
        await asyncio.sleep(5.1)
        probe = asyncio.create_task(one.call(Service(_hangs)))
        await asyncio.sleep(0.01)
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        assert one.breaker.state == "half-open"
        return await one.call(Service(_up))

    assert virtual.run(story) == "up"


def test_a_cancelled_call_counts_neither_way(virtual: Virtual) -> None:
    """However many callers hang up, the circuit stays as it is, and so does the count."""

    async def story() -> Guard:
        one = guard(virtual, failures_to_open=3)
        trip(one.breaker, 2)
        for _ in range(10):
            call = asyncio.create_task(one.call(Service(_hangs)))
            await asyncio.sleep(0.01)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        assert one.breaker.state == "closed"
        trip(one.breaker, 1)
        return one

    assert virtual.run(story).breaker.state == "open"


def test_listeners_hear_of_each_change(virtual: Virtual) -> None:
    """Logs and metrics hang on pybreaker's own listeners."""
    heard: list[tuple[str, str]] = []

    class Listener(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            heard.append((old_state.name, new_state.name))

    one = Guard("test", limits=Limits(failures_to_open=1), clock=virtual.clock, listeners=[Listener()])

    async def story() -> None:
        trip(one.breaker, 1)
        await asyncio.sleep(6)
        await one.call(Service(_up))

    virtual.run(story)
    assert heard == [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]


def test_a_circuit_can_be_opened_by_hand() -> None:
    """It closes again the usual way."""
    now = [0.0]
    breaker = Breaker("test", failures_to_open=5, open_for=5, clock=lambda: now[0])
    breaker.isolate()
    with pytest.raises(CircuitOpen):
        breaker.admit()
    now[0] = 5.0
    breaker.succeeded(breaker.admit())
    assert breaker.state == "closed"


TestCallers = Callers.TestCase
TestCallers.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)

TestWholeCalls = WholeCalls.TestCase
TestWholeCalls.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
