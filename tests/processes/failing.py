"""Flows that fail, each in its own way; prints what Prefect made of each. The argument is a source that is silent."""

import asyncio
import json
import sys
from datetime import date

from etl.errors import BadData, CircuitOpen, ClaimLost, SourceRefused, SourceUnavailable
from etl.extract import open_client
from etl.flow import extract
from prefect import flow

ERRORS = (
    SourceUnavailable("GET /flights?date=2026-01-15 answered 503: down"),
    SourceRefused("GET /flights?date=2026-01-15 answered 404: no such day"),
    BadData("flights: 400 of 890 rows are bad"),
    ClaimLost("2026-01-15 was claimed by the later flow run 1"),
    CircuitOpen("the circuit to the source is open"),
    MemoryError("out of it"),
    KeyError("carrier"),
)


@flow(name="failing")
async def failing(index: int) -> None:
    """Raise one of the errors."""
    raise ERRORS[index]


@flow(name="waiting")
async def waiting(silent_source: str) -> None:
    """Give the daily flow's own task half a second for a source that says nothing."""
    async with open_client(silent_source, timeout_seconds=60, correlation_id="test") as client:
        await extract.with_options(timeout_seconds=0.5, retries=0)(client, "flights", date(2026, 1, 15))


async def main(silent_source: str) -> None:
    """Run them all."""
    ended = {type(error).__name__: await failing(index, return_state=True) for index, error in enumerate(ERRORS)}
    ended["timeout"] = await waiting(silent_source, return_state=True)
    seen = {case: [state.type, state.name, state.message] for case, state in ended.items()}
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
