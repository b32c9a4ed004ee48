"""The texts that Prefect keeps of a failed run: others read its cause from them."""

import re
import socket
import threading
from collections.abc import Iterator
from datetime import date, timedelta

import pytest
from etl.errors import BadData, CircuitOpen, ClaimLost, EtlError, SourceRefused, SourceUnavailable
from etl.extract import open_client
from etl.flow import extract
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from .pods import DAY, RUN_SECONDS, Platform

PREFIX = "Flow run encountered an exception: "


@pytest.fixture
def silent_source() -> Iterator[str]:
    """The URL of a source that takes requests and never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def take() -> None:
        while True:
            try:
                taken.append(listener.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=take)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    for one in (listener, *taken):
        one.close()


@pytest.mark.parametrize(
    "error",
    [
        SourceUnavailable("GET /flights?date=2026-01-15 answered 503: down"),
        SourceRefused("GET /flights?date=2026-01-15 answered 404: no such day"),
        BadData("flights: 400 of 890 rows are bad"),
        ClaimLost("2026-01-15 was claimed by the later flow run 1"),
        CircuitOpen("the circuit to the source is open"),
        MemoryError("out of it"),
        KeyError("carrier"),
    ],
)
async def test_an_error_is_named_by_its_type(prefect_server: str, error: Exception) -> None:
    """Prefect's words, then the type's name, a colon, and the error's own text."""

    @flow(name="failing")
    async def failing() -> None:
        raise error

    with temporary_settings({PREFECT_API_URL: prefect_server}):
        state = await failing(return_state=True)
    assert (state.type, state.name) == ("FAILED", "Failed")
    assert state.message == f"{PREFIX}{type(error).__name__}: {error}"


def test_every_error_of_the_flow_was_tried() -> None:
    """All but the registration's, which no run raises."""
    tried = {SourceUnavailable, SourceRefused, BadData, ClaimLost, CircuitOpen}
    assert {one.__name__ for one in EtlError.__subclasses__()} - {one.__name__ for one in tried} == {
        "RegistrationRefused"
    }


async def test_a_task_that_takes_too_long_is_a_timeout(prefect_server: str, silent_source: str) -> None:
    """The step's time is over before the source said anything: Python's name for it, and how long it had."""

    @flow(name="waiting")
    async def waiting() -> None:
        async with open_client(silent_source, timeout_seconds=60, correlation_id="test") as client:
            await extract.with_options(timeout_seconds=0.5, retries=0)(client, "flights", date(2026, 1, 15))

    with temporary_settings({PREFECT_API_URL: prefect_server}):
        state = await waiting(return_state=True)
    assert (state.type, state.name) == ("FAILED", "Failed")
    assert state.message == f"{PREFIX}TimeoutError: Task run exceeded timeout of 0.5 second(s)"


def test_the_deployed_flow_names_what_refused_it(platform: Platform, free_port: int) -> None:
    """A source that refuses the day, and a warehouse that is away."""
    platform.source.put("/faults", json={"kind": "status", "status": 404}).raise_for_status()
    refused, away = platform.accept(), platform.accept(DAY + timedelta(days=1))
    processes = [
        platform.execute(refused),
        platform.execute(
            away,
            ETL_WAREHOUSE_URL=f"postgresql://somebody:secret@127.0.0.1:{free_port}/warehouse",
            ETL_API_WAIT_SECONDS="5",
        ),
    ]
    stderr = [process.communicate(timeout=RUN_SECONDS)[1] for process in processes]
    messages = [str(platform.run(one)["state"]["message"]) for one in (refused, away)]
    assert re.match(rf"{PREFIX}SourceRefused: GET http://\S+/flights\?date={DAY} answered 404: ", messages[0]), stderr[
        0
    ]
    assert messages[1].startswith(f"{PREFIX}ConnectionRefusedError: "), stderr[1]
    assert "secret" not in messages[1]
