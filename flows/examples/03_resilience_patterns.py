"""A circuit breaker, a retry around it and a fallback behind it, through an outage and back.

More requests do not help a source that is down. After three failures in a row the breaker opens: nothing is sent, and
the last good answer is used and called what it is, Degraded. When the reset time is over, one request goes out as a
probe (half-open); it opens the circuit again or closes it. Plain functions: no Prefect server is needed.

    uv run python flows/examples/03_resilience_patterns.py
"""

import time
from datetime import date

import sandbox

import httpx
import pybreaker
from tenacity import RetryCallState, retry, retry_if_exception_type, wait_random_exponential

RESET_SECONDS = 0.5  # minutes where the source is real


class SourceUnavailable(Exception):
    """The source failed in a way that may pass. Only this is retried, and only this counts against the circuit."""


class Announce(pybreaker.CircuitBreakerListener):
    """Prints each change of the circuit's state; a service would count it in a metric."""

    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,
        old_state: pybreaker.CircuitBreakerState | None,
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        """Called by pybreaker."""
        print(f"      circuit {cb.name}: {old_state.name if old_state else 'new'} → {new_state.name}")


breaker = pybreaker.CircuitBreaker(
    fail_max=3, reset_timeout=RESET_SECONDS, name="source", listeners=[Announce()], throw_new_error_on_trip=False
)
last_good: dict[date, int] = {}


def ask(day: date) -> int:
    """One request, no more: the retry and the breaker are around it."""
    with sandbox.open_source() as source:
        response = source.get("/flights", params={"date": day.isoformat()})
    print(f"      sent one request → {response.status_code}")
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
        raise SourceUnavailable(f"the source answered {response.status_code}")
    return len(response.raise_for_status().text.splitlines())


def enough(call: RetryCallState) -> bool:
    """Two attempts are enough, and one is where it opened the circuit."""
    return call.attempt_number >= 2 or breaker.current_state == pybreaker.STATE_OPEN


# The retry is outside and the breaker inside, so that each attempt is counted. The other way round the breaker would
# see one failure where the source was asked twice, and open that much later.
@retry(
    retry=retry_if_exception_type(SourceUnavailable),
    stop=enough,
    wait=wait_random_exponential(multiplier=0.05, max=0.2),
    reraise=True,
)
def ask_safely(day: date) -> int:
    """Ask through the breaker, twice at most."""
    with breaker.calling():
        return ask(day)


def run(day: date) -> str:
    """What a pipeline does: fresh data, else the day's last good copy under its own name, else an honest failure."""
    try:
        last_good[day] = ask_safely(day)
    except (SourceUnavailable, pybreaker.CircuitBreakerError) as exc:
        why = "nothing was sent" if isinstance(exc, pybreaker.CircuitBreakerError) else str(exc)
        if day not in last_good:
            return f"Failed: {why}, and {day} was never loaded: there is nothing to fall back to"
        return f"Degraded: {why}; the last good copy has {last_good[day]} flights"
    return f"Completed: {last_good[day]} flights, fresh"


def show(title: str, day: date = date(2025, 3, 1)) -> None:
    """Run once and print the outcome and the circuit after it."""
    print(f"\n{title}")
    outcome = run(day)
    print(f"   => {outcome}  [circuit {breaker.current_state}]")


if __name__ == "__main__":
    show("1. All is well.")

    sandbox.set_fault(kind="status", status=503)
    show("2. The source goes down. Two attempts fail; the last good copy serves.")
    show("3. Still down. The third failure in a row opens the circuit, and the retry stops.")
    show("4. The circuit is open: no request, no waiting.")
    show("5. A day that was never loaded has no copy: it fails, and says why.", date(2025, 3, 2))

    print(f"\n   … {RESET_SECONDS} s later")
    time.sleep(RESET_SECONDS)
    show("6. One probe goes out. The source is still down: open again, with no second attempt.")

    sandbox.clear_faults()
    show("7. The source is well again, but the circuit does not know yet.")

    print(f"\n   … {RESET_SECONDS} s later")
    time.sleep(RESET_SECONDS)
    show("8. The next probe succeeds: the circuit closes, the data is fresh.")
