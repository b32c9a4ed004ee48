"""Models of the guard around calls, and a clock that only moves when told to: what any sequence of events must keep."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule
from orchestrator.resilience import Breaker, CircuitOpen, DeadlineExceeded, Guard, Limits, Transient

T = TypeVar("T")
How = Literal["success", "failure", "hanging up"]
HOW: tuple[How, ...] = ("success", "failure", "hanging up")
Answer = Literal["success", "no", "odd", "down", "half done"]
ANSWERS: tuple[Answer, ...] = ("success", "no", "odd", "down", "down", "half done")


class _Leap(selectors.SelectSelector):
    """A selector that does not wait: it tells its owner how much time would have passed."""

    def __init__(self, virtual: "Virtual") -> None:
        super().__init__()
        self._virtual = virtual

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing to do and nothing to wait for: a deadlock"
            self._virtual.now += timeout
        return ready


class Virtual:
    """Event loops in which waiting takes no time, on one clock that only such waiting moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def loop(self) -> asyncio.AbstractEventLoop:
        made = asyncio.SelectorEventLoop(_Leap(self))
        made.time = self.clock  # type: ignore[method-assign]
        return made

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        with asyncio.Runner(loop_factory=self.loop) as runner:
            return runner.run(work())

    def clock(self) -> float:
        return self.now


class Circuit:
    """What the circuit must be, in ten lines."""

    def __init__(self, *, failures_to_open: int, open_for: float) -> None:
        self.failures_to_open = failures_to_open
        self.open_for = open_for
        self.state = "closed"
        self.failures = 0
        self.opened_at = 0.0
        self.epoch = 0
        self.probe: int | None = None

    def to(self, state: str, now: float) -> None:
        self.state, self.epoch, self.failures, self.probe = state, self.epoch + 1, 0, None
        if state == "open":
            self.opened_at = now

    def refuses(self, now: float) -> bool:
        """Whether nothing may be sent now."""
        if self.state == "half-open":
            return self.probe is not None
        return self.state == "open" and self.opened_at + self.open_for > now

    def admit(self, serial: int, now: float) -> int:
        """Call number `serial` is sent; the epoch its result belongs to."""
        if self.state == "open":
            self.to("half-open", now)
        if self.state == "half-open":
            self.probe = serial
        return self.epoch

    def succeeded(self, epoch: int, now: float) -> None:
        if epoch == self.epoch:
            if self.state == "half-open":
                self.to("closed", now)
            self.failures = 0

    def failed(self, epoch: int, now: float) -> None:
        if epoch == self.epoch:
            self.failures += 1
            if self.state == "half-open" or self.failures >= self.failures_to_open:
                self.to("open", now)

    def abandoned(self, serial: int, epoch: int) -> None:
        if epoch == self.epoch and serial == self.probe:
            self.probe = None

    def isolate(self, now: float) -> None:
        if self.state == "open":
            self.opened_at = now
        else:
            self.to("open", now)


class Admitted(NamedTuple):
    """A caller that was let in: its number, the model's epoch and the breaker's generation."""

    serial: int
    epoch: int
    generation: int


class Callers(RuleBasedStateMachine):
    """Any number of callers that come, finish late, fail, succeed or hang up, against the model of the circuit."""

    kind: ClassVar[type[Breaker]] = Breaker
    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.model = Circuit(failures_to_open=3, open_for=5.0)
        self.breaker = self.kind("model", failures_to_open=3, open_for=5.0, clock=lambda: self.now)
        self.serial = 0

    @rule(seconds=st.sampled_from([0.125, 1.0, 2.5, 4.5, 4.875, 5.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=calls)
    def a_caller_comes(self) -> Any:
        """Let in, or refused, which leaves no call."""
        return self._come() or multiple()

    @rule(target=calls, seconds=st.sampled_from([4.875, 5.0, 6.0]))
    def an_outage(self, seconds: float) -> Any:
        """As many calls as it takes fail, and the first caller after a while may be the probe."""
        for _ in range(self.model.failures_to_open):
            if call := self._come():
                self._end(call, "failure")
        self.now += seconds
        return self.a_caller_comes()

    @rule(target=calls, how=st.sampled_from(HOW), seconds=st.sampled_from([1.0, 5.0]))
    def one_outlives_its_circuit(self, how: How, seconds: float) -> Any:
        """It is let in, the circuit opens and may be probed, and only then its end is known."""
        early = self._come()
        for _ in range(self.model.failures_to_open):
            if call := self._come():
                self._end(call, "failure")
        self.now += seconds
        later = self._come()
        if early:
            self._end(early, how)
        return multiple(*filter(None, (later, self._come())))

    @rule(hows=st.lists(st.sampled_from(HOW), min_size=3, max_size=5))
    def some_come_one_after_another(self, hows: list[How]) -> None:
        for how in hows:
            if call := self._come():
                self._end(call, how)

    @rule(call=consumes(calls), how=st.sampled_from(HOW))
    def one_ends(self, call: Admitted, how: How) -> None:
        self._end(call, how)

    @rule(really=st.integers(0, 3))
    def somebody_isolates(self, really: int) -> None:
        if really == 0:
            self.breaker.isolate()
            self.model.isolate(self.now)

    def _come(self) -> Admitted | None:
        self.serial += 1
        refuses = self.model.refuses(self.now)
        try:
            generation = self.breaker.admit()
        except CircuitOpen as exc:
            again = exc.retry_after
        else:
            assert not refuses, "somebody is let in too many"
            return Admitted(self.serial, self.model.admit(self.serial, self.now), generation)
        assert refuses, "nobody is let in, although the time has come"
        if self.model.state == "open":
            assert abs(again - (self.model.opened_at + self.model.open_for - self.now)) < 1e-9
        assert 0 < again <= self.model.open_for + 1e-9
        return None

    def _end(self, call: Admitted, how: How) -> None:
        if how == "success":
            self.breaker.succeeded(call.generation)
            self.model.succeeded(call.epoch, self.now)
        elif how == "failure":
            self.breaker.failed(call.generation, Transient("down"))
            self.model.failed(call.epoch, self.now)
        else:
            self.breaker.abandoned(call.generation)
            self.model.abandoned(call.serial, call.epoch)

    @invariant()
    def they_agree(self) -> None:
        assert self.breaker.state == self.model.state


class No(Exception):
    """An answer that shows the other side to be well."""


class Odd(Exception):
    """An error that shows nothing of the other side."""


@dataclass(eq=False)
class Attempt:
    """One request on its way; `answer` decides what comes of it."""

    call: "Call"
    serial: int
    epoch: int
    began: float
    answer: asyncio.Future[str]


@dataclass(eq=False)
class Call:
    """One caller's whole call."""

    came: float
    task: asyncio.Task[None] | None = None
    sent: int = 0
    not_before: float = 0.0
    final: bool = False
    cancelled: bool = False
    outcome: BaseException | str | None = None
    ended: float | None = None


@dataclass(eq=False)
class Failure:
    """A failed attempt whose retry is still to be seen, or not. `may`: whether there may be one, `must`: there is."""

    call: Call
    at: float
    may: bool
    must: bool


@dataclass
class Rest:
    """What the calls have used up."""

    tokens: float = 0.0
    offered: int = 0
    sent: int = 0
    retries: int = 0
    undecided: list[Failure] = field(default_factory=list)


class WholeCalls(RuleBasedStateMachine):
    """Callers of a guard, and a service that answers each request when and as it likes."""

    kind: ClassVar[type[Guard]] = Guard
    # callers come at whole hundredths of seconds: no two of these limits end an attempt at one moment
    limits: ClassVar[Limits] = Limits(
        total=7.3001,
        attempt=5.003,
        concurrent=3,
        attempts=3,
        backoff_first=0.05,
        backoff_most=0.2,
        budget_ratio=0.5,
        budget_most=1.0,
        failures_to_open=3,
        open_for=4.0,
    )

    def __init__(self) -> None:
        super().__init__()
        self.virtual = Virtual()
        self.loop = self.virtual.loop()
        self.guard = self.kind("model", limits=self.limits, answers=(No,), clock=self.virtual.clock)
        self.circuit = Circuit(failures_to_open=self.limits.failures_to_open, open_for=self.limits.open_for)
        self.calls: list[Call] = []
        self.under_way: list[Attempt] = []
        self.rest = Rest()
        self.wrong: list[str] = []

    def teardown(self) -> None:
        self.loop.set_exception_handler(lambda *_: None)  # what a planted bug leaves behind is no news
        for _ in range(3):
            for call in self._open_calls():
                assert call.task is not None
                call.task.cancel()
            self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    @rule()
    def a_caller_comes(self) -> None:
        self.rest.offered += 1
        self.rest.tokens = min(self.limits.budget_most, self.rest.tokens + self.limits.budget_ratio)
        call = Call(self.virtual.now)
        self.calls.append(call)
        call.task = self.loop.create_task(self._caller(call))
        self._settle()

    @rule()
    def a_crowd_comes_and_nobody_answers(self) -> None:
        """Who finds no slot waits for one as long as an attempt takes, and has as much less for its own."""
        for _ in range(self.limits.concurrent + 1):
            self.a_caller_comes()
        self.time_passes(5.01)

    @rule(hows=st.lists(st.sampled_from(ANSWERS), min_size=3, max_size=5))
    def some_come_and_are_answered_at_once(self, hows: list[Answer]) -> None:
        for how in hows:
            self.a_caller_comes()
            if self.under_way:
                self._answer(self.under_way[-1], how)

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 20), how=st.sampled_from(ANSWERS))
    def one_is_answered(self, which: int, how: Answer) -> None:
        self._answer(self.under_way[which % len(self.under_way)], how)

    def _answer(self, one: Attempt, how: Answer) -> None:
        errors = {
            "no": No(),
            "odd": Odd(),
            "down": Transient("down"),
            "half done": Transient("half done", repeatable=False),
        }
        if how == "success":
            one.answer.set_result("up")
        else:
            one.answer.set_exception(errors[how])
        self._settle()

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 20), seconds=st.sampled_from([0.5, 2.0, 30.0]))
    def one_is_asked_to_come_later(self, which: int, seconds: float) -> None:
        answer = self.under_way[which % len(self.under_way)].answer
        answer.set_exception(Transient("busy", retry_after=seconds))
        self._settle()

    @precondition(lambda self: self._open_calls())
    @rule(which=st.integers(0, 20))
    def one_hangs_up(self, which: int) -> None:
        waiting = self._open_calls()
        call = waiting[which % len(waiting)]
        call.cancelled = True
        assert call.task is not None
        call.task.cancel()
        self._settle()

    # the limits' own times, and what lies just beside them
    @rule(seconds=st.sampled_from([0.01, 0.25, 1.0, 3.75, 4.0, 5.01, 7.5]))
    def time_passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self._settle()

    @rule(really=st.integers(0, 5))
    def somebody_isolates(self, really: int) -> None:
        if really == 0:
            self.guard.breaker.isolate()
            self.circuit.isolate(self.virtual.now)

    @invariant()
    def nothing_went_wrong(self) -> None:
        assert not self.wrong, self.wrong
        assert self.guard.breaker.state == self.circuit.state

    @invariant()
    def no_more_at_once_than_allowed_and_no_fewer(self) -> None:
        holders = [call for call in self._open_calls() if call.sent]
        assert len(holders) <= self.limits.concurrent
        queue = [call for call in self._open_calls() if not call.sent]
        assert not queue or len(holders) == self.limits.concurrent, "a slot is free, and a caller waits for one"

    @invariant()
    def retries_stay_within_the_budget(self) -> None:
        assert self.rest.retries <= self.limits.budget_ratio * self.rest.offered + 1e-9

    @invariant()
    def no_call_is_too_old(self) -> None:
        assert all(self.virtual.now - call.came <= self.limits.total + 1e-6 for call in self._open_calls())
        assert all(self.virtual.now - one.began <= self.limits.attempt + 1e-6 for one in self.under_way)

    def _open_calls(self) -> list[Call]:
        return [call for call in self.calls if call.ended is None]

    def _settle(self) -> None:
        """Let everything that can happen now happen, and see which failures were retried."""
        for _ in range(15):
            self.loop.run_until_complete(asyncio.sleep(0))
        for failure in self.rest.undecided:
            given_up = failure.call.ended == failure.at and isinstance(failure.call.outcome, Transient)
            retried = not given_up
            affordable = self.rest.tokens >= 1 - 1e-9
            if retried and not (failure.may and affordable):
                self.wrong.append("a retry that may not be")
            if given_up and failure.must and affordable:
                self.wrong.append("no retry, although there is budget and time")
            if retried:
                self.rest.tokens -= 1
        self.rest.undecided.clear()

    async def _caller(self, call: Call) -> None:
        async def attempt() -> str:
            return await self._sent(call)

        refused = False
        try:
            call.outcome = await self.guard.call(attempt)
        except BaseException as exc:  # noqa: BLE001 -- whatever a caller gets is looked at
            call.outcome = exc
            refused = isinstance(exc, CircuitOpen)
        call.ended = self.virtual.now
        if refused and not self.circuit.refuses(call.ended):
            self.wrong.append("refused by a circuit that lets calls in")
        if isinstance(call.outcome, DeadlineExceeded) and call.ended - call.came < self.limits.total - 1e-6:
            self.wrong.append("a deadline before its time")
        if isinstance(call.outcome, asyncio.CancelledError) != call.cancelled:
            self.wrong.append("cancelled by nobody, or a cancellation swallowed")

    async def _sent(self, call: Call) -> str:
        now = self.virtual.now
        if self.circuit.refuses(now):
            self.wrong.append("sent through a circuit that lets nobody in")
        if call.sent and (call.final or now < call.not_before - 1e-9):
            self.wrong.append("sent again although that was ruled out, or too early")
        call.sent += 1
        self.rest.sent += 1
        self.rest.retries += call.sent > 1
        if call.sent > self.limits.attempts:
            self.wrong.append("too many attempts")
        one = Attempt(call, self.rest.sent, self.circuit.admit(self.rest.sent, now), now, self.loop.create_future())
        self.under_way.append(one)
        try:
            return await self._answered(one)
        finally:
            self.under_way.remove(one)

    async def _answered(self, one: Attempt) -> str:
        """The model's view of the attempt's end, just before the guard's."""
        try:
            answer = await one.answer
        except Transient as exc:
            self._failed(one, exc)
            raise
        except No:
            self.circuit.succeeded(one.epoch, self.virtual.now)
            raise
        except asyncio.CancelledError:
            if self.virtual.now - one.began >= self.limits.attempt - 1e-6 and not one.call.cancelled:
                self._failed(one, Transient("timed out"))
            else:
                self.circuit.abandoned(one.serial, one.epoch)
            raise
        except Odd:
            self.circuit.abandoned(one.serial, one.epoch)
            raise
        self.circuit.succeeded(one.epoch, self.virtual.now)
        return answer

    def _failed(self, one: Attempt, error: Transient) -> None:
        now = self.virtual.now
        self.circuit.failed(one.epoch, now)
        one.call.not_before = now + (error.retry_after or 0.0)
        one.call.final = not error.repeatable
        left = one.call.came + self.limits.total - one.call.not_before
        may = error.repeatable and one.call.sent < self.limits.attempts and left > 0 and self.circuit.state != "open"
        must = may and left > self.limits.backoff_most
        self.rest.undecided.append(Failure(one.call, now, may, must))
