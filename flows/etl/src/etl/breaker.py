"""The circuit breaker in front of the source, one for all runs: a row of the warehouse's table `breakers`.

A pod forgets; a row does not. Each step reads the row under its lock, computes the next state (see etl.circuit) and
writes it in one short transaction, by the warehouse's clock: a step is compared with what all other runs did before
it, so that one run in the whole fleet probes, and what a run reports late, for a generation that is over, changes
nothing.

By hand: `python -m etl.breaker show`, `isolate --reason "migrating the source"` (nothing is sent until it is reset),
`reset`.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime

from pydantic import ValidationError

from etl import circuit
from etl.circuit import Admission, Circuit, Rule
from etl.claim import UNREACHABLE, connected
from etl.errors import CircuitOpen, SourceRefused, SourceUnavailable
from etl.settings import WarehouseSettings, stop_on

SOURCE = "source"

Listener = Callable[[Circuit, Circuit], Awaitable[None]]

# The failures as text: for an array of anything else asyncpg asks the catalog what it is, on each connection anew.
_READ = (
    "SELECT state, generation, failures::text[], opened_at, probe_until, isolated, reason, openings FROM breakers"
    " WHERE name = $1 FOR UPDATE"
)
_WRITE = (
    "UPDATE breakers SET state = $2, generation = $3, failures = $4::text[]::timestamptz[], opened_at = $5,"
    " probe_until = $6, isolated = $7, reason = $8, openings = $9, changed_at = clock_timestamp() WHERE name = $1"
)


async def _nobody(_before: Circuit, _after: Circuit) -> None:
    """The listener where none is given."""


@dataclass(frozen=True, kw_only=True)
class Breaker:
    """A circuit breaker shared by whoever gives the same warehouse and name.

    `listener` hears of every change of state that this process brings about: (before, after).
    """

    warehouse_url: str
    rule: Rule
    name: str = SOURCE
    listener: Listener = _nobody

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[Admission]:
        """Run the block if the circuit lets a call in, and record how it ended.

        SourceUnavailable and TimeoutError count as failures; SourceRefused shows that the source is there. Anything
        else, a cancellation above all, says nothing of the source: an unfinished probe's turn passes on when its time
        is up.

        Raises:
            CircuitOpen: nothing was sent, or the one probe failed.
            OSError, asyncpg's errors: the warehouse cannot tell.
        """
        admission = await self.admit()
        try:
            yield admission
        except (SourceUnavailable, TimeoutError) as exc:
            reason = f"{type(exc).__name__}: {exc}"
            await self._report(lambda now, at: circuit.failed(now, admission, self.rule, at, reason))
            if admission.probe:
                raise CircuitOpen(f"the circuit to the {self.name} stays open, its probe failed: {reason}") from exc
            raise
        except SourceRefused:
            await self._report(lambda now, _: circuit.succeeded(now, admission))
            raise
        await self._report(lambda now, _: circuit.succeeded(now, admission))

    async def admit(self) -> Admission:
        """Let one call in.

        Raises:
            CircuitOpen: nothing may be sent now; the text says since when, why and when a probe is due.
        """
        admitted: Admission | None = None

        def ask(now: Circuit, at: datetime) -> Circuit:
            nonlocal admitted
            after, admitted = circuit.admit(now, self.rule, at)
            return after

        present = await self.change(ask)
        if admitted is None:
            raise CircuitOpen(f"the circuit to the {self.name} is {self._explain(present)}")
        return admitted

    async def read(self) -> Circuit:
        """The circuit as it is now."""
        return await self.change(lambda now, _: now)

    async def change(self, step: Callable[[Circuit, datetime], Circuit]) -> Circuit:
        """Replace the circuit by what `step` makes of it and of the warehouse's time; return the new one."""
        async with connected(self.warehouse_url) as connection, connection.transaction():
            await connection.execute("INSERT INTO breakers (name) VALUES ($1) ON CONFLICT DO NOTHING", self.name)
            row = await connection.fetchrow(_READ, self.name)
            before = Circuit(**{**row, "failures": tuple(map(datetime.fromisoformat, row["failures"]))})
            after = step(before, await connection.fetchval("SELECT clock_timestamp()"))
            if after != before:
                fields = {field: getattr(after, field) for field in Circuit.__annotations__}
                fields["failures"] = [at.isoformat() for at in after.failures]
                await connection.execute(_WRITE, self.name, *fields.values())
        if after.state != before.state:
            await self.listener(before, after)
        return after

    async def _report(self, step: Callable[[Circuit, datetime], Circuit]) -> None:
        """Record an outcome; if the warehouse is away the run's own outcome must not be hidden behind that."""
        try:
            await self.change(step)
        except UNREACHABLE as exc:
            sys.stderr.write(f"the breaker {self.name} did not hear of an outcome: {type(exc).__name__}: {exc}\n")

    def _explain(self, present: Circuit) -> str:
        if present.isolated:
            return f"isolated by hand ({present.reason}); reset it with: python -m etl.breaker reset"
        again = circuit.tries_again_at(present, self.rule).isoformat(timespec="seconds")
        return f"{present.state} after {present.reason}; the next probe is due at {again}"


async def _announce(breaker: Breaker) -> None:
    if "PREFECT_API_URL" not in os.environ:
        sys.stderr.write("PREFECT_API_URL is not set: Prefect and the orchestrator hear of it with the next change\n")
        return
    from etl.announce import announce  # noqa: PLC0415 - Prefect's client takes two seconds to load

    await announce(breaker)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m etl.breaker", description="The circuit breaker of the source.")
    parser.add_argument("action", choices=("show", "isolate", "reset"))
    parser.add_argument("--reason", default="no reason given", help="why it is isolated, for whoever finds it so")
    parser.add_argument("--name", default=SOURCE)
    arguments = parser.parse_args()
    steps: dict[str, Callable[[Circuit, datetime], Circuit]] = {
        "show": lambda now, _: now,
        "isolate": lambda now, at: circuit.isolated(now, at, arguments.reason),
        "reset": lambda now, _: circuit.reset(now),
    }
    try:
        settings = WarehouseSettings()
    except ValidationError as error:
        stop_on(error, WarehouseSettings)
    breaker = Breaker(warehouse_url=settings.warehouse_url.get_secret_value(), rule=Rule(), name=arguments.name)

    async def act() -> Circuit:
        present = await breaker.change(steps[arguments.action])
        if arguments.action != "show":
            await _announce(breaker)
        return present

    try:
        present = asyncio.run(act())
    except UNREACHABLE as exc:
        raise SystemExit(f"the warehouse did not answer: {type(exc).__name__}: {exc}") from exc
    sys.stdout.write(json.dumps({"name": arguments.name, **asdict(present)}, default=str) + "\n")


if __name__ == "__main__":
    main()
