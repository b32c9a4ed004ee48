"""The one place that speaks the orchestrator's HTTP: `with connect(url, key=…) as api: api.start("etl")`."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, TypeVar
from uuid import UUID

import httpx
from pydantic import BaseModel, ValidationError

from pipelines_client.answers import (
    Accepted,
    BackfillPreview,
    BackfillProgress,
    Cancelling,
    LogLine,
    LogPage,
    LogState,
    Pipelines,
    Problem,
    Run,
    RunPage,
)
from pipelines_client.errors import Confused, NotAllowed, NotFound, Refused, TimedOut, Unreachable

SECONDS = 15.0
# The service sends a comment every 15 s through a stream in which nothing happens.
SILENT_SECONDS = 45.0
PAGE = 500
RECONNECT_SECONDS = 30.0
PASSING = frozenset({httpx.codes.TOO_MANY_REQUESTS, httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE})

T = TypeVar("T", bound=BaseModel)


@contextmanager
def connect(url: str, *, key: str | None = None, transport: httpx.BaseTransport | None = None) -> Iterator["Api"]:
    """A client of the API at `url`, closed with the block.

    `key`: an API key, or a token of the cluster, whichever the service asks for. `transport` replaces the network.
    """
    headers = {"user-agent": "pipelines-client", "accept": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    with httpx.Client(base_url=url, headers=headers, timeout=SECONDS, transport=transport) as http:
        yield Api(http)


@dataclass(frozen=True, kw_only=True)
class Looked:
    """An answer as it came, a refusal too: when, and in how many seconds."""

    url: str
    status: int
    headers: Mapping[str, str]
    text: str
    at: datetime
    seconds: float

    @property
    def json(self) -> Any:
        """What it says; None where that is no JSON."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None


class Api:
    """What can be asked of the service. Every method raises what `errors` lists below ClientError."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def look(self, path: str, *, accept: str = "application/json") -> Looked:
        """What is answered at a path, whatever that is. Raises Unreachable."""
        began = time.monotonic()
        try:
            answer = self._http.get(path, headers={"accept": accept})
        except httpx.HTTPError as exc:
            raise _unreachable(exc) from exc
        return Looked(
            url=str(answer.url),
            status=answer.status_code,
            headers={name.lower(): value for name, value in answer.headers.items()},
            text=answer.text,
            at=datetime.now(UTC),
            seconds=time.monotonic() - began,
        )

    def pipelines(self) -> Pipelines:
        """The pipelines that the caller may read."""
        return self._ask(Pipelines, "GET", "/api/pipelines")

    def start(self, pipeline: str, *, day: date | None = None, parameters: Mapping[str, Any] | None = None) -> UUID:
        """Start a run; its id. It is committed once this returns."""
        body: dict[str, Any] = {"parameters": dict(parameters or {})}
        if day is not None:
            body["logical_date"] = day.isoformat()
        return self._ask(Accepted, "POST", f"/api/{pipeline}/start", json=body).run_id

    def status(self, pipeline: str, run_id: UUID) -> Run:
        """All that is known of one run."""
        return self._ask(Run, "GET", f"/api/{pipeline}/status/{run_id}")

    def runs(
        self,
        pipeline: str,
        *,
        limit: int = 50,
        cursor: str | None = None,
        state: str | None = None,
        day: date | None = None,
    ) -> RunPage:
        """One page of runs, newest first."""
        query = {"limit": limit, "cursor": cursor, "state": state, "logical_date": day.isoformat() if day else None}
        return self._ask(RunPage, "GET", f"/api/{pipeline}/runs", params=_given(query))

    def every_run(self, pipeline: str, *, state: str | None = None) -> Iterator[Run]:
        """Runs, newest first, page after page, for as long as the caller takes them."""
        cursor: str | None = None
        while True:
            page = self.runs(pipeline, limit=PAGE, cursor=cursor, state=state)
            yield from page.runs
            cursor = page.next_cursor
            if cursor is None:
                return

    def runs_csv(self, pipeline: str, *, limit: int, state: str | None = None, day: date | None = None) -> str:
        """Submissions and ends of runs, latest first, as CSV."""
        query = {"limit": limit, "state": state, "logical_date": day.isoformat() if day else None}
        answer = self._send("GET", f"/api/{pipeline}/runs.csv", params=_given(query), headers={"accept": "text/csv"})
        return answer.text

    def cancel(self, pipeline: str, run_id: UUID) -> Cancelling:
        """Cancel a run, in whatever state it is."""
        return self._ask(Cancelling, "POST", f"/api/{pipeline}/cancel/{run_id}")

    def log(
        self,
        pipeline: str,
        run_id: UUID,
        *,
        cursor: str | None = None,
        tail: int | None = None,
        level: str = "debug",
    ) -> LogPage:
        """One page of a run's log; with `tail` the last so many lines."""
        query = _given({"cursor": cursor, "tail": tail, "level": level})
        return self._ask(LogPage, "GET", f"/api/{pipeline}/logs/{run_id}", params=query)

    def follow(
        self,
        pipeline: str,
        run_id: UUID,
        *,
        tail: int | None = None,
        level: str = "debug",
        deadline: float | None = None,
    ) -> Iterator[LogLine | LogState]:
        """Each line of a run's log, and each state of the run, until it is over.

        A connection that breaks is opened again, and nothing is missed. `deadline`, of time.monotonic, raises TimedOut.
        """
        path = f"/api/{pipeline}/logs/{run_id}"
        place: str | None = None
        shown: LogState | None = None
        heard_at: float | None = None
        while True:
            query = _given({"tail": None if place else tail, "level": level})
            headers = {"accept": "text/event-stream"} | ({"last-event-id": place} if place else {})
            try:
                for event in self._events(path, query, headers, deadline):
                    heard_at = time.monotonic()
                    if event["event"] == "line":
                        place = event.get("id", place)
                        yield _read(LogLine, event["data"])
                    elif event["event"] == "state":
                        state = _read(LogState, event["data"])
                        if state != shown:
                            shown = state
                            yield state
                    elif event["event"] == "end" and json.loads(event["data"]).get("over"):
                        return
            except (Unreachable, Refused) as exc:
                _not_late(deadline)
                lost = heard_at is None or time.monotonic() - heard_at > RECONNECT_SECONDS
                if lost or (isinstance(exc, Refused) and not exc.passing):
                    raise
            _not_late(deadline)
            time.sleep(1.0)

    def preview(
        self, pipeline: str, first: date, last: date, *, mode: str, max_concurrent: int, runs_per_pod: int = 1
    ) -> BackfillPreview:
        """What a backfill would do now."""
        limits = {"max_concurrent": max_concurrent, "runs_per_pod": runs_per_pod}
        body = {"from": first.isoformat(), "to": last.isoformat(), "mode": mode, **limits}
        return self._ask(BackfillPreview, "POST", f"/api/{pipeline}/backfill", json=body)

    def backfill(self, pipeline: str, shown: BackfillPreview) -> BackfillProgress:
        """Do exactly what was shown. Raises Refused of kind `plan-changed` where it would be something else now."""
        asked = {"from_", "to", "mode", "max_concurrent", "runs_per_pod", "digest"}
        body = shown.model_dump(mode="json", by_alias=True, include=asked)
        return self._ask(BackfillProgress, "POST", f"/api/{pipeline}/backfill", json=body)

    def backfill_progress(self, pipeline: str, backfill_id: UUID) -> BackfillProgress:
        """Where a backfill's runs are."""
        return self._ask(BackfillProgress, "GET", f"/api/{pipeline}/backfill/{backfill_id}")

    def cancel_backfill(self, pipeline: str, backfill_id: UUID) -> BackfillProgress:
        """End what is queued of a backfill, and what runs."""
        return self._ask(BackfillProgress, "POST", f"/api/{pipeline}/backfill/{backfill_id}/cancel")

    def _events(
        self, path: str, query: Mapping[str, Any], headers: Mapping[str, str], deadline: float | None
    ) -> Iterator[dict[str, str]]:
        """The events of one connection."""
        left = SILENT_SECONDS if deadline is None else deadline - time.monotonic()
        timeout = httpx.Timeout(SECONDS, read=max(0.1, min(SILENT_SECONDS, left)))
        event: dict[str, str] = {}
        try:
            with self._http.stream("GET", path, params=query, headers=headers, timeout=timeout) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _problem(answer)
                for line in answer.iter_lines():
                    _not_late(deadline)
                    name, _, value = line.partition(": ")
                    if line and name:
                        event[name] = value
                    elif not line:
                        if "data" in event:
                            yield event
                        event = {}
        except httpx.HTTPError as exc:
            raise _unreachable(exc) from exc

    def _ask(self, shape: type[T], method: str, path: str, **more: Any) -> T:
        return _read(shape, self._send(method, path, **more).content)

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **more)
        except httpx.HTTPError as exc:
            raise _unreachable(exc) from exc
        if not answer.is_success:
            raise _problem(answer)
        return answer


def _given(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}


def _not_late(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise TimedOut("the run is not over yet, and --timeout is", hint="the run goes on; `pipelines status` tells")


def _read(shape: type[T], content: bytes | str) -> T:
    try:
        return shape.model_validate_json(content)
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise Confused(
            f"the answer is not what this client knows ({where}: {first['msg']})",
            hint="use the client and the service of one release, and look what is in front of the service",
        ) from exc


def _unreachable(error: httpx.HTTPError) -> Unreachable:
    request = error.request
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Unreachable(f"{request.method} {request.url}: {what}", hint="name the API with --url or PIPELINES_URL")


def _problem(answer: httpx.Response) -> NotAllowed | NotFound | Refused | Confused:
    """What an answer that is no success means."""
    try:
        problem = Problem.model_validate_json(answer.content)
    except ValidationError:
        where = f"{answer.request.method} {answer.request.url}"
        return Confused(
            f"{where} is answered with HTTP {answer.status_code} by something that is not the orchestrator",
            hint="look at --url or PIPELINES_URL, and what is in front of the service",
        )
    if problem.status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        hint = "set PIPELINES_API_KEY to an API key, or to a token: kubectl create token SERVICE-ACCOUNT"
        return NotAllowed(problem.detail, hint=hint)
    if problem.status == httpx.codes.NOT_FOUND:
        return NotFound(problem.detail)
    faults = [f"{one.where}: {one.what}" for one in problem.faults or ()]
    return Refused(problem.detail, kind=problem.kind, faults=faults, passing=problem.status in PASSING)
