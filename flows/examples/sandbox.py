"""What the examples stand on: a Prefect of their own, and a source that answers without a network.

Every example imports this before Prefect, which reads its settings when it is imported. Your own Prefect (~/.prefect)
is left alone: the examples keep theirs under .local/. Set in the environment, these change what an example talks to:

    PREFECT_API_URL        a Prefect server to run against, such as http://127.0.0.1:4200/api (default: a temporary one)
    ETL_SOURCE_URL         a source to fetch from, such as http://127.0.0.1:8090 (default: the few flights below)
    PREFECT_LOGGING_LEVEL  INFO also shows what Prefect logs (default: CRITICAL)
"""

import json
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

import httpx

_home = Path(".local/examples/prefect").absolute()
_home.mkdir(parents=True, exist_ok=True)  # Prefect would make the last folder only
os.environ.pop("PREFECT_PROFILE", None)
os.environ["PREFECT_HOME"] = str(_home)
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
# The temporary server's first start makes its database, which takes a slow machine longer than Prefect's 20 s.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "60")

# Departures of 1 March 2013; the real source has 958 that day. The last one was cancelled.
_COLUMNS = ("carrier", "flight", "origin", "dest", "dep_delay")
_FLIGHTS: tuple[tuple[str | int | None, ...], ...] = (
    ("B6", 11, "JFK", "FLL", 125),
    ("B6", 707, "JFK", "SJU", 52),
    ("US", 1117, "EWR", "CLT", -6),
    ("UA", 475, "EWR", "IAH", -10),
    ("UA", 1714, "LGA", "IAH", -9),
    ("AA", 1141, "JFK", "MIA", -3),
    ("EV", 4911, "EWR", "DTW", -10),
    ("EV", 4276, "EWR", "BDL", None),
)


class _OfflineSource:
    """Answers as services/source does: GET /flights as lines of JSON, and faults by PUT and DELETE /faults."""

    def __init__(self) -> None:
        self._faults: deque[dict[str, Any]] = deque()

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/faults":
            wanted = json.loads(request.content) if request.method == "PUT" else {"count": 0}
            # without a count a fault stays until it is cleared, here: longer than any example asks
            self._faults = deque([wanted] * wanted.get("count", 1000))
            return httpx.Response(200)
        fault: dict[str, Any] = self._faults.popleft() if self._faults else {}
        if fault.get("kind") == "status":
            return httpx.Response(fault["status"], json={"detail": "a fault on demand"})
        if fault.get("kind") == "latency":
            time.sleep(fault["seconds"])
        rows = (dict(zip(_COLUMNS, flight, strict=True)) for flight in _FLIGHTS)
        return httpx.Response(200, text="".join(f"{json.dumps(row)}\n" for row in rows))


_offline = _OfflineSource()


def open_source() -> httpx.Client:
    """A client for the source at ETL_SOURCE_URL, or, where none is given, for the flights in this file."""
    url = os.environ.get("ETL_SOURCE_URL")
    if url:
        return httpx.Client(base_url=url, timeout=10)
    return httpx.Client(base_url="http://offline", transport=httpx.MockTransport(_offline.answer))


def set_fault(**fault: Any) -> None:
    """Make the source misbehave: set_fault(kind="status", status=503, count=2) refuses the next two requests."""
    with open_source() as source:
        source.put("/faults", json=fault).raise_for_status()


def clear_faults() -> None:
    """Make the source well again."""
    with open_source() as source:
        source.delete("/faults").raise_for_status()


def announce_server() -> None:
    """Say why the first seconds pass in silence."""
    if "PREFECT_API_URL" not in os.environ:
        print("No PREFECT_API_URL is set: Prefect starts a temporary server, which takes some seconds.", flush=True)
