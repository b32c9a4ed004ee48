"""What callers of the API get, on a real ledger with Prefect played at the wire."""

import asyncio
import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import httpx
import pytest
from orchestrator import errors
from orchestrator.api import problems
from orchestrator.app import create_app
from orchestrator.ledger.tables import pipelines, run_events, runs
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from .conftest import Serve, answering, eventually, settings
from .wire import PrefectWire, refused, saying

CHUNK = b'{"parameters": {"note": "' + b"a" * 30_000


async def problem(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """The problem document of `answer`, checked against its shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["type"] == f"urn:pipelines:problem:{kind}"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert document["correlation_id"] == answer.headers["x-correlation-id"]
    assert document["instance"] == answer.request.url.path
    assert "Traceback" not in answer.text
    return document


async def test_start_answers_with_exactly_two_keys(serve: Serve) -> None:
    """202, the run's id and where to ask about it; an empty body means all defaults."""
    async with serve(PrefectWire()) as client:
        for body in ({}, {"json": {}}, {"json": None}, {"json": {"logical_date": "2026-03-01"}}):
            answer = await client.post("/api/etl/start", **body)
            assert answer.status_code == 202, answer.text
            run_id = answer.json()["run_id"]
            assert answer.json() == {"run_id": str(UUID(run_id)), "status": "scheduled"}
            assert answer.headers["location"] == f"/api/etl/status/{run_id}"


async def test_the_default_day_is_yesterday_in_madrid(serve: Serve) -> None:
    """The ledger and Prefect are told the same day."""
    wire = PrefectWire()
    async with serve(wire) as client:
        where = (await client.post("/api/etl/start")).headers["location"]
        day = (datetime.now(ZoneInfo("Europe/Madrid")).date() - timedelta(days=1)).isoformat()
        assert (await client.get(where)).json()["logical_date"] == day

        async def created() -> Any:
            return wire.creations

        assert (await eventually(created, within=5, what="a flow run"))[0]["parameters"] == {"logical_date": day}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"logical_date": "soon"}, "write it as YYYY-MM-DD"),
        ({"logical_date": "9999-12-31"}, "lies in the future"),
        ({"logical_date": 20260301}, "body.logical_date"),
        ({"date": "2026-03-01"}, "body.date"),
        ({"parameters": {"sampel": 1}}, "parameters.sampel"),
        ({"parameters": {"sample": 0}}, "parameters.sample"),
        ({"parameters": {"note": "{{ x }}"}}, "template"),
        ({"parameters": []}, "body.parameters"),
        ([], "body"),
    ],
)
async def test_a_start_that_cannot_be_is_refused(serve: Serve, db: AsyncEngine, body: Any, told: str) -> None:
    """422 that says what is wrong, and no run."""
    async with serve(PrefectWire()) as client:
        document = await problem(await client.post("/api/etl/start", json=body), 422, "invalid-request")
        assert told in document["detail"]
        assert (await client.get("/api/etl/runs")).json()["runs"] == []


async def test_a_body_that_is_not_json_is_told_how_to_be(serve: Serve) -> None:
    """What curl sends without a header is met with the header to send."""
    async with serve(PrefectWire()) as client:
        form = {"content-type": "application/x-www-form-urlencoded"}
        answer = await client.post("/api/etl/start", content='{"logical_date": "2026-03-01"}', headers=form)
        assert "Content-Type: application/json" in (await problem(answer, 422, "invalid-request"))["detail"]
        broken = await client.post("/api/etl/start", content="{", headers={"content-type": "application/json"})
        await problem(broken, 422, "invalid-request")


async def test_a_repeated_key_returns_the_first_run(serve: Serve) -> None:
    """Same key and body: the same run, also when sent at once and when the day has changed; another body: 422."""
    wire = PrefectWire()
    async with serve(wire) as client:
        key = {"Idempotency-Key": "k-1"}
        answers = await asyncio.gather(*(client.post("/api/etl/start", json={}, headers=key) for _ in range(10)))
        assert {one.status_code for one in answers} == {202}
        assert len({one.json()["run_id"] for one in answers}) == 1
        empty = await client.post("/api/etl/start", headers=key)
        assert empty.json() == answers[0].json()
        other = await client.post("/api/etl/start", json={"logical_date": "2026-03-01"}, headers=key)
        await problem(other, 422, "key-reused")
        second = await client.post("/api/etl/start", json={}, headers={"Idempotency-Key": "k-2"})
        assert second.json()["run_id"] != answers[0].json()["run_id"]
        for bad in ("", "a b", "a" * 256):
            answer = await client.post("/api/etl/start", headers={"Idempotency-Key": bad})
            await problem(answer, 422, "invalid-request")
        assert len((await client.get("/api/etl/runs")).json()["runs"]) == 2


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Correlation-ID": "order-7_a.b"}, "order-7_a.b"),
        ({"X-Correlation-ID": "order-7", "traceparent": TRACEPARENT}, "order-7"),
        ({"traceparent": TRACEPARENT}, TRACE),
        ({"X-Correlation-ID": "not one", "traceparent": TRACEPARENT}, TRACE),
        ({"X-Correlation-ID": "a" * 129}, None),
        ({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, None),
        ({"traceparent": f"ff-{TRACE}-00f067aa0ba902b7-01"}, None),
        ({}, None),
    ],
)
async def test_a_correlation_id_is_taken_over_or_made(
    serve: Serve, headers: dict[str, str], expected: str | None
) -> None:
    """The id of the answer is the run's, and goes to Prefect with it."""
    wire = PrefectWire()
    async with serve(wire) as client:
        answer = await client.post("/api/etl/start", headers=headers)
        correlation_id = answer.headers["x-correlation-id"]
        assert correlation_id == expected if expected else len(UUID(hex=correlation_id).hex) == 32
        assert (await client.get(answer.headers["location"])).json()["correlation_id"] == correlation_id

        async def created() -> Any:
            return wire.creations

        (creation,) = await eventually(created, within=5, what="a flow run")
        assert f"correlation-id:{correlation_id}" in creation["tags"]


async def test_what_is_not_there_is_404(serve: Serve) -> None:
    """Each names what there is instead."""
    async with serve(PrefectWire()) as client:
        calls = [("POST", "/api/elt/start"), ("GET", "/api/elt/runs"), ("GET", f"/api/elt/status/{uuid4()}")]
        for method, path in calls:
            document = await problem(await client.request(method, path), 404, "unknown-pipeline")
            assert "there is: etl" in document["detail"]
        await problem(await client.get(f"/api/etl/status/{uuid4()}"), 404, "unknown-run")
        await problem(await client.get("/api/etl/status/7"), 422, "invalid-request")
        await problem(await client.get("/nowhere"), 404, "not-found")
        wrong = await client.get("/api/etl/start")
        assert "it takes POST" in (await problem(wrong, 405, "method-not-allowed"))["detail"]
        assert wrong.headers["allow"] == "POST"


async def test_a_run_is_found_in_its_own_pipeline_only(database_url: str) -> None:
    """Another pipeline's run is not there, whatever its id."""
    both = [{"name": "etl", "deployment": "daily_job/daily-0900"}, {"name": "other", "deployment": "other_job/x"}]
    app = create_app(settings(database_url, pipelines=both), transport=PrefectWire())
    async with answering(app) as client:
        run_id = (await client.post("/api/etl/start")).json()["run_id"]
        assert (await client.get(f"/api/etl/status/{run_id}")).status_code == 200
        await problem(await client.get(f"/api/other/status/{run_id}"), 404, "unknown-run")
        assert (await client.get("/api/other/runs")).json()["runs"] == []


async def test_a_body_has_a_limit(serve: Serve) -> None:
    """64 KiB, whether its length is declared or not; the run is not made."""
    async with serve(PrefectWire()) as client:
        declared = await client.post("/api/etl/start", content=CHUNK * 3)
        await problem(declared, 413, "body-too-large")

        async def chunks() -> Any:
            for _ in range(100):
                yield CHUNK

        await problem(await client.post("/api/etl/start", content=chunks()), 413, "body-too-large")
        assert (await client.get("/api/etl/runs")).json()["runs"] == []


async def test_start_is_durable_while_prefect_is_down(serve: Serve) -> None:
    """Once a deployment was seen, runs are accepted without Prefect; status says why they wait."""
    wire = PrefectWire()
    async with serve(wire) as client:
        first = (await client.post("/api/etl/start", json={"logical_date": "2026-03-01"})).json()["run_id"]

        async def first_handed_over() -> Any:
            return first in wire.keys

        await eventually(first_handed_over, within=5, what="the first run is handed over")
        wire.fault = refused
        answer = await client.post("/api/etl/start", json={"logical_date": "2026-03-02"})
        assert answer.status_code == 202
        where = answer.headers["location"]

        async def tried() -> Any:
            told = (await client.get(where)).json()
            return told if told["dispatch"]["attempts"] else None

        told = await eventually(tried, within=10, what="a first attempt")
        assert told["state"] == "Scheduled"
        assert told["flow_run_id"] is None
        assert "Prefect" in told["dispatch"]["last_error"]
        assert told["dispatch"]["next_attempt_at"]
        wire.fault = None

        async def handed_over() -> Any:
            return (await client.get(where)).json()["flow_run_id"]

        await eventually(handed_over, within=15, what="the run is handed over once Prefect is back")


@pytest.mark.parametrize("fault", [refused, saying(500), saying(503), saying(429), saying(401)])
async def test_a_pipeline_never_seen_cannot_start_without_prefect(serve: Serve, fault: Any) -> None:
    """503 with Retry-After: nobody knows its parameters or its timezone yet."""
    wire = PrefectWire()
    wire.fault = fault
    async with serve(wire) as client:
        answer = await client.post("/api/etl/start")
        await problem(answer, 503, "engine-unavailable")
        assert int(answer.headers["retry-after"]) >= 1


async def test_a_pipeline_that_is_not_registered_says_so(serve: Serve) -> None:
    """503 that names the registration; once it has run, starting works."""
    wire = PrefectWire()
    deployment, wire.deployment = wire.deployment, None
    async with serve(wire) as client:
        answer = await client.post("/api/etl/start")
        assert "registration" in (await problem(answer, 503, "deployment-missing"))["detail"]
        assert int(answer.headers["retry-after"]) >= 1
        wire.deployment = deployment
        assert (await client.post("/api/etl/start")).status_code == 202


async def test_garbage_from_prefect_is_502(serve: Serve) -> None:
    """A shape that is not Prefect's is told apart from Prefect's absence."""
    wire = PrefectWire()
    wire.fault = saying(200, json={"id": 7})
    async with serve(wire) as client:
        await problem(await client.post("/api/etl/start"), 502, "engine-confused")


async def test_without_a_database_everything_says_so(serve: Serve) -> None:
    """503 with Retry-After, a problem document, and no stack trace."""
    async with serve(PrefectWire(), database_url="postgresql://nobody@127.0.0.1:1/none") as client:
        calls = ["/api/etl/runs", "/api/etl/runs.csv", "/api/pipelines", f"/api/etl/status/{uuid4()}"]
        for path in calls:
            answer = await client.get(path)
            await problem(answer, 503, "ledger-unavailable")
            assert answer.headers["retry-after"]
        await problem(await client.post("/api/etl/start"), 503, "ledger-unavailable")


async def test_a_mistake_of_ours_is_a_problem_too(database_url: str) -> None:
    """500 without the traceback, under the correlation id that finds it in the log."""
    app = create_app(settings(database_url), transport=PrefectWire())

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("secret detail")

    async with answering(app) as client:
        answer = await client.get("/boom")
        document = await problem(answer, 500, "internal")
        assert document["correlation_id"] in document["detail"]
        assert "secret detail" not in answer.text


def test_every_error_has_a_status_and_a_title() -> None:
    """The tree is flat, and complete in both tables."""
    tree = set(errors.OrchestratorError.__subclasses__())
    assert set(problems.STATUS) == set(problems.TITLE) == tree
    assert not any(one.__subclasses__() for one in tree)
    assert {status // 100 for status in problems.STATUS.values()} <= {4, 5}


async def test_openapi_is_exactly_the_routes(serve: Serve, database_url: str) -> None:
    """Every route with its method is described, nothing else is, and each answer with a body has a schema."""
    app = create_app(settings(database_url), transport=PrefectWire())
    async with answering(app) as client:
        document = (await client.get("/openapi.json")).json()
    described = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    assert described == {
        ("/healthz", "GET"),
        ("/readyz", "GET"),
        ("/metrics", "GET"),
        ("/api/pipelines", "GET"),
        ("/api/{pipeline}/start", "POST"),
        ("/api/{pipeline}/status/{run_id}", "GET"),
        ("/api/{pipeline}/cancel/{run_id}", "POST"),
        ("/api/{pipeline}/backfill", "POST"),
        ("/api/{pipeline}/backfill/{backfill_id}", "GET"),
        ("/api/{pipeline}/backfill/{backfill_id}/pause", "POST"),
        ("/api/{pipeline}/backfill/{backfill_id}/resume", "POST"),
        ("/api/{pipeline}/backfill/{backfill_id}/cancel", "POST"),
        ("/api/{pipeline}/runs", "GET"),
        ("/api/{pipeline}/logs/{run_id}", "GET"),
        ("/api/{pipeline}/artifacts/{run_id}", "GET"),
        ("/api/{pipeline}/events", "GET"),
        ("/api/{pipeline}/runs.csv", "GET"),
    }
    schemas = document["components"]["schemas"]
    assert "HTTPValidationError" not in schemas
    referred = set(json.dumps(document).split('"#/components/schemas/')[1:])
    assert {one.split('"')[0] for one in referred} <= set(schemas)
    for path, item in document["paths"].items():
        for operation in item.values():
            assert operation.get("summary")
            if path.startswith("/api/{"):
                assert "application/problem+json" in operation["responses"]["404"]["content"]
    assert schemas["StartRequest"]["additionalProperties"] is False
    assert schemas["RunStatus"]["examples"]


async def fill(db: AsyncEngine, client: httpx.AsyncClient, count: int) -> list[str]:
    """Start runs one after the other and return their ids, newest first."""
    made = []
    for number in range(count):
        body = {"logical_date": f"2026-03-{number % 3 + 1:02d}"}
        made.append((await client.post("/api/etl/start", json=body)).json()["run_id"])
    return made[::-1]


async def test_runs_come_in_pages_newest_first(serve: Serve, db: AsyncEngine) -> None:
    """Cursors walk through all of them once, also while new ones arrive."""
    async with serve(PrefectWire()) as client:
        made = await fill(db, client, 7)
        seen: list[str] = []
        query: dict[str, Any] = {"limit": 3}
        while True:
            page = (await client.get("/api/etl/runs", params=query)).json()
            seen += [one["run_id"] for one in page["runs"]]
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
            await client.post("/api/etl/start")
        assert seen == made
        of_a_day = (await client.get("/api/etl/runs", params={"logical_date": "2026-03-01"})).json()["runs"]
        assert [one["run_id"] for one in of_a_day] == made[::3]
        await client.get("/api/etl/runs")
        none = (await client.get("/api/etl/runs", params={"state": "Failed"})).json()
        assert none == {"runs": [], "next_cursor": None}


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=x", "state=failed", "logical_date=today", "cursor=%21", "cursor=W10",
     "cursor=WyJhIiwiYiJd", "cursor=" + "a" * 201, "stat=Failed", "cursor=WyI5OTk5OTk5OTk5OTk5OTk5OTk5OTkiXQ"],
)  # fmt: skip
async def test_a_page_that_cannot_be_is_refused(serve: Serve, query: str) -> None:
    """422 in both forms of the list."""
    async with serve(PrefectWire()) as client:
        for path in ("/api/etl/runs", "/api/etl/runs.csv"):
            await problem(await client.get(f"{path}?{query}"), 422, "invalid-request")


async def test_csv_has_a_line_at_submission_and_one_at_the_end(serve: Serve, db: AsyncEngine) -> None:
    """The columns are fixed; text is quoted as RFC 4180 has it; pages are linked."""
    wire = PrefectWire()
    async with serve(wire) as client:
        run_id = (await client.post("/api/etl/start", json={"logical_date": "2026-03-01"})).json()["run_id"]

        async def flow_run() -> Any:
            return (await client.get(f"/api/etl/status/{run_id}")).json()["flow_run_id"]

        flow_run_id = await eventually(flow_run, within=5, what="a flow run")
        wire.move(flow_run_id, "RUNNING")
        wire.move(flow_run_id, "FAILED", message='no "data",\nsorry')

        async def lines() -> Any:
            answer = await client.get("/api/etl/runs.csv", params={"limit": 1})
            return answer if "Failed" in answer.text else None

        answer = await eventually(lines, within=5, what="the outcome's line")
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert answer.text.startswith("timestamp,flow,state,duration_ms,notes\r\n")
        (line,) = csv.DictReader(io.StringIO(answer.text))
        assert (line["flow"], line["state"]) == ("daily_job", "Failed")
        assert int(line["duration_ms"]) >= 0
        assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None
        reason = 'no "data",\nsorry'
        assert line["notes"] == f"run_id={run_id} logical_date=2026-03-01 origin=api reason={reason}"
        link = answer.headers["link"]
        assert link.endswith('>; rel="next"')
        rest = await client.get(link[1 : link.index(">")])
        (line,) = csv.DictReader(io.StringIO(rest.text))
        assert (line["state"], line["duration_ms"]) == ("Scheduled", "")
        assert "link" not in rest.headers
        negotiated = await client.get("/api/etl/runs", headers={"accept": "text/csv, */*;q=0.1"})
        assert negotiated.text.count("\r\n") == 3
        failed = await client.get("/api/etl/runs.csv", params={"state": "Failed", "logical_date": "2026-03-01"})
        assert failed.text.count(run_id) == 1
        for accept in ("application/json", "*/*", "application/json, text/csv;q=0.5", "text/csv;q=0"):
            assert (await client.get("/api/etl/runs", headers={"accept": accept})).json()["runs"]


async def test_csv_cells_are_not_formulas(database_url: str) -> None:
    """A flow whose name a spreadsheet would compute is shown, not computed."""
    wire = PrefectWire()
    named = settings(database_url, pipelines=[{"name": "etl", "deployment": "=cmd()/x"}])
    wire_name, known = "/deployments/name/=cmd()/x", wire.deployment
    wire.fault = lambda request: httpx.Response(200, json=known) if wire_name in request.url.path else refused(request)
    async with answering(create_app(named, transport=wire)) as client:
        assert (await client.post("/api/etl/start")).status_code == 202
        text = (await client.get("/api/etl/runs.csv")).text
        assert ",'=cmd()," in text


async def test_accepting_writes_the_run_and_its_event_together(serve: Serve, db: AsyncEngine) -> None:
    """One row, one submission, one moment."""
    async with serve(PrefectWire()) as client:
        run_id = UUID((await client.post("/api/etl/start", headers={"traceparent": TRACEPARENT})).json()["run_id"])
    async with db.begin() as connection:
        row = (await connection.execute(select(runs).where(runs.c.run_id == run_id))).one()
        event = (await connection.execute(select(run_events).order_by(run_events.c.id).limit(1))).one()
        assert row.traceparent == TRACEPARENT
        assert (event.run_id, event.kind, event.at) == (run_id, "submitted", row.accepted_at)
        assert (await connection.execute(select(func.count()).select_from(runs))).scalar_one() == 1


async def test_next_run_is_the_first_still_to_come(serve: Serve, db: AsyncEngine) -> None:
    """Starts that passed while Prefect was away are not announced; a paused pipeline announces none."""
    wire = PrefectWire()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    wire.add("SCHEDULED", due=tomorrow + timedelta(days=1))
    wire.add("SCHEDULED", due=tomorrow)
    async with serve(wire) as client:

        async def known() -> Any:
            (one,) = (await client.get("/api/pipelines")).json()["pipelines"]
            return one if one["next_run"] else None

        pipeline = await eventually(known, within=5, what="the next run is known")
        told = datetime.fromisoformat(pipeline["next_run"])
        assert told == tomorrow
        assert told.utcoffset() in {timedelta(hours=1), timedelta(hours=2)}, "told in Madrid's time"
        async with db.begin() as connection:
            await connection.execute(update(pipelines).values(paused=True))
        (one,) = (await client.get("/api/pipelines")).json()["pipelines"]
        assert (one["paused"], one["next_run"]) == (True, None)
