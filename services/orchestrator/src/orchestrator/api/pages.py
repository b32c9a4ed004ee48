"""Pages of runs: the places cursors name, and the CSV form of a page."""

import base64
import csv
import io
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from sqlalchemy import Row

from orchestrator.catalogue import CATALOGUE
from orchestrator.errors import InvalidRequest
from orchestrator.runs import State

COLUMNS = ("timestamp", "flow", "state", "duration_ms", "notes")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def cursor(*place: object) -> str:
    """An opaque name for the place after a row."""
    return base64.urlsafe_b64encode(json.dumps([str(part) for part in place]).encode()).decode().rstrip("=")


def moment_place(text: str) -> tuple[datetime, UUID]:
    """The place a cursor from a page of runs, or of a run's log, names. Raises InvalidRequest."""
    moment, run_id = _parts(text, 2)
    try:
        place = datetime.fromisoformat(moment), UUID(run_id)
    except ValueError as exc:
        raise _not_ours() from exc
    if place[0].tzinfo is None:
        raise _not_ours()
    return place


def report_place(text: str) -> int:
    """The place a cursor from a page of reports names. Raises InvalidRequest."""
    (event_id,) = _parts(text, 1)
    if not (event_id.isascii() and event_id.isdigit() and len(event_id) <= 18):
        raise _not_ours()
    return int(event_id)


def _parts(text: str, count: int) -> list[str]:
    try:
        parts = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except ValueError as exc:
        raise _not_ours() from exc
    if not (isinstance(parts, list) and len(parts) == count and all(isinstance(part, str) for part in parts)):
        raise _not_ours()
    return parts


def _not_ours() -> InvalidRequest:
    return InvalidRequest("cursor is not one of this list; take it from the page before, or leave it out to start anew")


def next_link(path: str, query: Iterable[tuple[str, str]], following: str) -> str:
    """The Link header to the page after this one: the same question from another place."""
    asked = [(name, value) for name, value in query if name != "cursor"]
    return f'<{path}?{urlencode([*asked, ("cursor", following)])}>; rel="next"'


def wants_csv(accept: str) -> bool:
    """Whether an Accept header asks for CSV rather than JSON."""
    weights: dict[str, float] = {}
    for part in accept.split(","):
        media, *options = (piece.strip().lower() for piece in part.split(";"))
        try:
            weights[media] = next((float(one[2:]) for one in options if one.startswith("q=")), 1.0)
        except ValueError:
            weights[media] = 0.0
    wanted = weights.get("text/csv", 0.0)
    return wanted > 0 and wanted >= weights.get("application/json", 0.0)


def csv_text(flow: str, reports: Sequence[Row[Any]]) -> str:
    """RFC 4180 text: one line for each submission and each end, under the header."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for report in reports:
        moment = report.at.astimezone(UTC).isoformat(timespec="milliseconds")
        duration = "" if report.duration_ms is None else str(report.duration_ms)
        writer.writerow([_cell(one) for one in (moment, flow, report.state, duration, _notes(report))])
    return text.getvalue()


def _notes(report: Row[Any]) -> str:
    notes = f"run_id={report.run_id} logical_date={report.logical_date} origin={report.origin}"
    if report.state_name != report.state:
        notes += f" state_name={report.state_name}"
    if report.reason_id is not None and (report.kind == "ended" or report.run_ended_at is None):
        known = CATALOGUE.get(report.reason_id)
        title = f" {known.title}" if known else ""
        word = "cause" if report.kind == "ended" else "held"
        notes += f" {word}={report.reason_id}{title}"
    if report.state != State.COMPLETED and report.message:
        notes += f" reason={report.message}"
    return notes


def _cell(value: str) -> str:
    """Text that a spreadsheet shows and does not compute."""
    return f"'{value}" if value.startswith(FORMULA) else value
