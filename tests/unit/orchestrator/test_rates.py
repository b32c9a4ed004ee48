"""How often and how many, under a clock that stands still between steps."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from orchestrator.doors.rates import Allowed, Buckets, Rates, Streams, address
from orchestrator.errors import TooManyRequests


class Clock:
    """Time that passes when told to."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class TokenBucket(RuleBasedStateMachine):
    """Buckets against the textbook's token bucket, counted in whole milliseconds so that nothing is rounded."""

    @initialize(
        per_second=st.sampled_from([1, 2, 4, 5, 8, 10, 20, 25, 50, 100]),
        burst=st.integers(1, 20),
    )
    def begin(self, per_second: int, burst: int) -> None:
        self.clock = Clock(0.0)
        self.millis = 0
        self.buckets = Buckets(per_second, clock=self.clock, burst=burst)
        self.per_second, self.burst = per_second, burst
        # in thousandths of a token: one millisecond brings per_second of them
        self.tokens = dict.fromkeys("ab", burst * 1000)

    @rule(millis=st.integers(1, 3000))
    def wait(self, millis: int) -> None:
        self.millis += millis
        self.clock.now = self.millis / 1000
        for who, tokens in self.tokens.items():
            self.tokens[who] = min(self.burst * 1000, tokens + millis * self.per_second)

    @rule(who=st.sampled_from("ab"))
    def take(self, who: str) -> None:
        waits = self.buckets.take(who)
        if self.tokens[who] >= 1000:
            assert waits == 0
            self.tokens[who] -= 1000
        else:
            assert waits == pytest.approx((1000 - self.tokens[who]) / self.per_second / 1000, abs=1e-5)

    @rule(who=st.sampled_from("ab"))
    def take_and_give_back(self, who: str) -> None:
        if self.buckets.take(who) == 0:
            self.buckets.give_back(who)

    @invariant()
    def remembers_two_at_most(self) -> None:
        assert not hasattr(self, "buckets") or len(self.buckets) <= 2


TestTokenBucket = TokenBucket.TestCase


@given(per_second=st.floats(0.5, 1000), burst=st.integers(1, 50))
def test_who_waits_as_told_gets_in(per_second: float, burst: int) -> None:
    """The wait is enough, and a little less than it is not."""
    clock = Clock()
    buckets = Buckets(per_second, clock=clock, burst=burst)
    assert [buckets.take("a") for _ in range(burst)] == [0] * burst
    wait = buckets.take("a")
    assert 0 < wait <= 1 / per_second + 1e-6
    clock.now += wait * 0.9
    assert buckets.take("a") > 0
    clock.now += wait * 0.1 + 1e-6
    assert buckets.take("a") == 0


@given(st.lists(st.text(max_size=3), max_size=200))
def test_memory_is_bounded(callers: list[str]) -> None:
    """However many come, the latest are remembered and no more."""
    buckets = Buckets(1, clock=Clock(), remembered=8)
    for one in callers:
        buckets.take(one)
    assert len(buckets) <= 8


def retry_after(call: Callable[[], object]) -> int:
    with pytest.raises(TooManyRequests) as refused:
        call()
    seconds = refused.value.retry_after
    assert seconds is not None
    assert seconds == int(seconds) >= 1
    assert f"wait {seconds} s" in str(refused.value)
    return int(seconds)


@pytest.mark.parametrize("write", [False, True])
def test_retry_after_is_true(write: bool) -> None:
    """Whole seconds, after which the next request gets in."""
    clock = Clock()
    rates = Rates(Allowed(reads=0.25, writes=0.15), clock=clock)
    rates.count("ops", write=write)
    seconds = retry_after(lambda: rates.count("ops", write=write))
    assert seconds == math.ceil(1 / (0.15 if write else 0.25))
    clock.now += seconds
    rates.count("ops", write=write)


def test_callers_and_kinds_of_requests_do_not_share() -> None:
    """One who reads too much may still cancel, and disturbs nobody else."""
    rates = Rates(Allowed(reads=1, writes=1), clock=Clock())
    for _ in range(4):
        rates.count("a", write=False)
    retry_after(lambda: rates.count("a", write=False))
    rates.count("a", write=True)
    rates.count("b", write=False)


def test_doubts_are_counted_by_address_and_together() -> None:
    """An address that proves nothing is refused; many of them exhaust what all may; good credentials cost nothing."""
    clock = Clock()
    rates = Rates(Allowed(refusals=1), clock=clock)
    for _ in range(100):
        good = rates.doubt("10.0.0.1")
        good.pay()
        good.refund()
    for _ in range(4):
        rates.doubt("10.0.0.1").pay()
    retry_after(rates.doubt("10.0.0.1").pay)
    for number in range(2, 14):
        rates.doubt(f"10.0.0.{number}").pay()
    assert retry_after(rates.doubt("10.0.0.99").pay) == 1
    clock.now += 1
    rates.doubt("10.0.0.99").pay()


def test_a_doubt_is_paid_for_once() -> None:
    """Before the credential is looked at or after it failed, not both."""
    rates = Rates(Allowed(refusals=1), clock=Clock())
    for _ in range(4):
        doubt = rates.doubt("10.0.0.1")
        doubt.pay()
        doubt.pay()
    retry_after(rates.doubt("10.0.0.1").pay)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_streams_are_counted_in_all_and_by_caller(steps: list[tuple[str, bool]]) -> None:
    """Never more than allowed; leaving twice counts once; a place that was left is free."""
    streams = Streams(total=4, each=2)
    leaves: dict[str, list[Callable[[], None]]] = {who: [] for who in "abc"}
    for who, enter in steps:
        if not enter:
            if leaves[who]:
                leave = leaves[who].pop()
                leave()
                leave()
        elif len(leaves[who]) < 2 and sum(map(len, leaves.values())) < 4:
            leaves[who].append(streams.enter(who))
        else:
            retry_after(lambda who=who: streams.enter(who))  # type: ignore[misc]
        assert len(streams) == sum(map(len, leaves.values()))


@pytest.mark.parametrize(
    ("client", "counted"),
    [
        (("10.1.2.3", 40000), "10.1.2.3"),
        (("2001:db8:1:2:3:4:5:6", 40000), "2001:db8:1:2::/64"),
        (("::ffff:10.1.2.3", 40000), "10.1.2.3"),
        (("testclient", 1), "testclient"),
        (None, "local"),
    ],
)
def test_an_address_is_what_one_caller_has(client: tuple[str, int] | None, counted: str) -> None:
    """Of IPv6 the network: its owner has all addresses in it."""
    assert address(client) == counted
