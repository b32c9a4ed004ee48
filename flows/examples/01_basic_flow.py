"""A flow and its tasks: extract, transform, report, and the state in which Prefect keeps the outcome.

A task is a function that Prefect follows; a flow is the function that calls tasks. Prefect asks no more of the code
than the decorators: without them the same functions still do the same work.

    uv run python flows/examples/01_basic_flow.py
"""

import json
from datetime import date
from statistics import mean
from typing import Any

import sandbox

from prefect import flow, task

Flight = dict[str, Any]


@task
def extract(day: date) -> list[Flight]:
    """Fetch the day's flights: one line of JSON each."""
    with sandbox.open_source() as source:
        response = source.get("/flights", params={"date": day.isoformat()}).raise_for_status()
    return [json.loads(line) for line in response.text.splitlines()]


@task
def transform(flights: list[Flight]) -> dict[str, float]:
    """Each carrier's mean delay at departure, in minutes; a cancelled flight has none."""
    delays: dict[str, list[int]] = {}
    for flight in flights:
        if flight["dep_delay"] is not None:
            delays.setdefault(flight["carrier"], []).append(flight["dep_delay"])
    return {carrier: mean(minutes) for carrier, minutes in delays.items()}


@task
def report(delay_of: dict[str, float]) -> str:
    """Name the carrier that made people wait longest."""
    worst = max(delay_of, key=lambda carrier: delay_of[carrier])
    return f"{worst} left {delay_of[worst]:.1f} minutes late on average"


@flow(name="basic_flow")
def worst_carrier(day: date) -> str:
    """The day is a parameter, never today's date read inside: the same call gives the same answer next year."""
    flights = extract(day)
    print(f"extract    {len(flights)} flights")
    delay_of = transform(flights)
    print(f"transform  {len(delay_of)} carriers: {', '.join(sorted(delay_of))}")
    return report(delay_of)


if __name__ == "__main__":
    sandbox.announce_server()
    # return_state=True gives the state, not the value: a failed run then raises only where its result is asked for.
    state = worst_carrier(date(2025, 3, 1), return_state=True)
    print(f"report     {state.result()}")
    print(f"\nThe flow run ended in the state {state.name} (type {state.type.value}).")
