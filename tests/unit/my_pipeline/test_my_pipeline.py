"""The pipeline my_pipeline: what it makes of a day, and what a real PostgreSQL has of it then."""

import json
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import asyncpg
import pytest
from etl.daily import trial_run
from etl.migrate import migrate
from my_pipeline.flow import extract, load, transform

DAY = date(2026, 1, 15)
FLIGHTS = [
    {"carrier": "AA", "dep_delay": 10, "origin": "JFK"},
    {"carrier": "AA", "dep_delay": 30, "origin": "EWR"},
    {"carrier": "UA", "dep_delay": None, "origin": "LGA"},
]


@pytest.fixture
def source() -> Iterator[str]:
    """The URL of an API that has these flights, every day."""

    class Flights(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(FLIGHTS).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the class that it overrides calls it
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Flights) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_day_is_summed_up() -> None:
    """By carrier; one whose flights never left has no mean."""
    rows = transform.fn(FLIGHTS).sort("carrier").rows()
    assert rows == [("AA", 2, 20.0), ("UA", 1, None)]


def test_a_day_without_flights_is_empty() -> None:
    """No rows, and no error."""
    assert transform.fn([]).is_empty()


async def test_a_day_that_runs_twice_is_there_once(source: str, postgres: Any) -> None:
    """Two runs of one day leave one day in the table, and both loads on record."""
    warehouse = postgres.create_database()
    await migrate(warehouse)
    for _ in range(2):
        run = await trial_run(DAY, source_url=source, warehouse_url=warehouse)
        assert load.fn(transform.fn(await extract.fn(run)), run) == 2
    connection = await asyncpg.connect(warehouse)
    try:
        rows = await connection.fetch("SELECT * FROM my_pipeline_daily ORDER BY carrier")
        loads = await connection.fetchval("SELECT count(*) FROM day_loads WHERE table_name = 'my_pipeline_daily'")
    finally:
        await connection.close()
    assert [tuple(row) for row in rows] == [(DAY, "AA", 2, 20.0), (DAY, "UA", 1, None)]
    assert loads == 2
