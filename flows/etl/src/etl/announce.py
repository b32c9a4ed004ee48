"""The circuit's state as a variable in Prefect, for those who cannot read the warehouse: the orchestrator, people."""

import sys

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.exceptions import ObjectAlreadyExists, PrefectException

from etl.breaker import Breaker
from etl.circuit import Circuit
from etl.claim import UNREACHABLE

VARIABLE = "source_breaker"

# What fits beside the rest into a variable.
_REASON_LENGTH = 500


async def announce(breaker: Breaker) -> None:
    """Write down in Prefect what the circuit is now.

    It is read again after it was written, and written again where it has changed: of several that announce at once, the
    last to write has seen the newest. Prefect or the warehouse being away does not concern the caller's own work.
    """
    try:
        async with get_client() as client:
            present = await breaker.read()
            while True:
                await _write(present, client=client)
                written, present = present.generation, await breaker.read()
                if present.generation == written:
                    return
    except (httpx.HTTPError, PrefectException, *UNREACHABLE) as exc:
        sys.stderr.write(f"Prefect did not hear of the breaker {breaker.name}: {type(exc).__name__}: {exc}\n")


async def _write(present: Circuit, *, client: PrefectClient) -> None:
    told = {
        "state": present.state,
        "generation": present.generation,
        "isolated": present.isolated,
        "reason": (present.reason or "")[:_REASON_LENGTH],
    }
    try:
        await client.create_variable(VariableCreate(name=VARIABLE, value=told))
    except ObjectAlreadyExists:
        await client.update_variable(VariableUpdate(name=VARIABLE, value=told))
