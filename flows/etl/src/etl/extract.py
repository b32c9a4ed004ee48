"""The one place that speaks the source's HTTP: a day of one dataset on disk, rows as JSON, or a named error."""

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from etl.errors import SourceRefused, SourceUnavailable
from etl.spool import Spool
from etl.telemetry import trace_headers

ARROW_STREAM = "application/vnd.apache.arrow.stream"

# A source that is there accepts a connection at once; one that is not shall not use up the task's time.
_CONNECT_SECONDS = 5.0

# Answers that a later try may not repeat; every other 4xx is about the request itself.
_TRANSIENT_STATUS = frozenset({408, 425, 429})


@dataclass(frozen=True, kw_only=True)
class Day:
    """One dataset's rows of a day. `record_date` is the day the rows themselves carry, as the source states it."""

    rows: Spool
    record_date: date

    def close(self) -> None:
        """Give back the room on the disk; the rows cannot be read any more."""
        self.rows.close()


def open_client(base_url: str, *, timeout_seconds: float, correlation_id: str) -> httpx.AsyncClient:
    """A client for the source; every request carries the run's correlation id, and the trace where there is one."""
    return httpx.AsyncClient(
        base_url=base_url,
        timeout=httpx.Timeout(timeout_seconds, connect=min(timeout_seconds, _CONNECT_SECONDS)),
        headers={"Accept": ARROW_STREAM, "X-Correlation-ID": correlation_id},
    )


async def fetch_day(client: httpx.AsyncClient, dataset: str, day: date) -> Day:
    """Fetch a dataset's rows of one day.

    Args:
        client: made by open_client.
        dataset: the path at the source, `flights` or `weather`.
        day: the logical date.

    Raises:
        SourceUnavailable: no answer, a transient status, or a body that is not what it says.
        SourceRefused: a status about the request itself (404, 422, …), or an answer in another format.
    """
    request = f"GET {client.base_url.join(dataset)}?date={day}"
    rows = Spool()
    try:
        async with client.stream(
            "GET", f"/{dataset}", params={"date": day.isoformat()}, headers=trace_headers()
        ) as response:
            await _require_arrow(response, request)
            async for data in response.aiter_bytes():
                rows.write(data)
        # A large day takes seconds to read through, and the other dataset is on its way meanwhile.
        await asyncio.to_thread(rows.count)
        record_date = date.fromisoformat(response.headers.get("x-record-date", day.isoformat()))
    except httpx.TransportError as exc:
        raise SourceUnavailable(f"{request}: {type(exc).__name__}: {exc or 'no answer'}") from exc
    except ValueError as exc:  # NotArrow is one
        raise SourceUnavailable(f"{request} answered a body that is not an Arrow stream: {exc}") from exc
    return Day(rows=rows, record_date=record_date)


async def fetch_rows(client: httpx.AsyncClient, path: str, parameters: dict[str, str]) -> list[dict[str, Any]]:
    """Fetch rows that are answered as JSON: an array of objects, or an object a line (NDJSON).

    Raises:
        SourceUnavailable: no answer, a transient status, or a body that is not what it says.
        SourceRefused: a status about the request itself (404, 422, …), or something else than rows.
    """
    request = f"GET {client.base_url.join(path)}?{httpx.QueryParams(parameters)}"
    headers = {"Accept": "application/json, application/x-ndjson;q=0.9", **trace_headers()}
    try:
        response = await client.get(path, params=parameters, headers=headers)
    except httpx.TransportError as exc:
        raise SourceUnavailable(f"{request}: {type(exc).__name__}: {exc or 'no answer'}") from exc
    await _require_ok(response, request)
    lines = "ndjson" in response.headers.get("content-type", "")
    try:
        rows = [json.loads(line) for line in response.text.splitlines()] if lines else response.json()
    except ValueError as exc:
        raise SourceUnavailable(f"{request} answered a body that is not JSON: {exc}") from exc
    if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        raise SourceRefused(f"{request} answered JSON that is no list of objects")
    return rows


async def _require_arrow(response: httpx.Response, request: str) -> None:
    """Raises what fetch_day raises, of an answer whose status or media type says that no rows will come."""
    await _require_ok(response, request)
    media_type = response.headers.get("content-type", "").partition(";")[0].strip()
    if media_type != ARROW_STREAM:
        raise SourceRefused(f"{request} answered {media_type or 'no content type'}, not {ARROW_STREAM}")


async def _require_ok(response: httpx.Response, request: str) -> None:
    """Raises SourceUnavailable or SourceRefused of any other status than 200."""
    if response.status_code != httpx.codes.OK:
        await response.aread()
        told = f"{request} answered {response.status_code}: {_detail(response)}"
        if response.status_code in _TRANSIENT_STATUS or response.status_code >= 500:
            wished = response.headers.get("retry-after", "")
            raise SourceUnavailable(told, retry_after=_retry_after(wished, now=datetime.now(UTC)))
        raise SourceRefused(told)


def _retry_after(value: str, *, now: datetime) -> float | None:
    """The header's seconds, or its moment as seconds from now; None where it is absent or says neither."""
    if value.isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds())


def _detail(response: httpx.Response) -> str:
    """What the source says of its refusal: a problem document's detail, or the start of the body."""
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        try:
            return str(response.json().get("detail"))
        except ValueError:
            pass
    return response.text[:200].strip() or "no reason given"
