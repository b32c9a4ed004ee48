"""Representations, their ETags, their pages, and the documents that refuse."""

import io
import json
from typing import Any

import httpx
import polars as pl
import pytest
from source import problems
from source.app import create_app
from source.errors import NotAcceptableError, SourceError
from source.records import TABLES, Records, schema
from source.wire import Media, is_current, negotiate

ARROW = "application/vnd.apache.arrow.stream"
NDJSON = "application/x-ndjson"
PATHS = ["/flights?date=2013-02-08", "/weather?date=2013-07-04", "/airlines", "/airports", "/planes"]


def _lines(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("path", PATHS)
async def test_arrow_equals_ndjson_row_for_row(client: httpx.AsyncClient, path: str) -> None:
    """Both representations carry the same rows in the same order, with the documented types."""
    ndjson = await client.get(path)
    arrow = await client.get(path, headers={"Accept": ARROW})
    frame = pl.read_ipc_stream(io.BytesIO(arrow.content))
    row = TABLES[path[1:].partition("?")[0]]
    assert frame.schema == schema(row)
    # The row model reads "2013-02-08T11:00:00Z" as the moment that Arrow carries.
    assert [row.model_validate(line).model_dump() for line in _lines(ndjson)] == frame.to_dicts()
    assert ndjson.headers["X-Row-Count"] == arrow.headers["X-Row-Count"] == str(frame.height)


async def test_times_in_ndjson_are_iso_8601_with_z(client: httpx.AsyncClient) -> None:
    """No offset to interpret."""
    row = (await client.get("/flights", params={"date": "2013-01-01", "limit": 1})).json()
    assert row["time_hour"] == "2013-01-01T10:00:00Z"


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (None, NDJSON),
        ("", NDJSON),
        ("*/*", NDJSON),
        ("application/*", NDJSON),
        (NDJSON, NDJSON),
        (ARROW, ARROW),
        (ARROW.upper(), ARROW),
        (f"{NDJSON}; charset=utf-8", NDJSON),
        (f"{NDJSON};q=0.5, {ARROW}", ARROW),
        (f"{NDJSON};q=0.5, {ARROW};q=0.4", NDJSON),
        (f"{ARROW}, */*", ARROW),
        (f"{ARROW};q=0.1, */*;q=0.2", NDJSON),
        (f"{NDJSON};q=0, */*", ARROW),
        (f"{NDJSON};q=0, application/*;q=0.3", ARROW),
        (f"text/html, {ARROW};q=0.001", ARROW),
        (f"{ARROW};q=high, {NDJSON};q=0.2", NDJSON),
        ("text/html", None),
        ("application/json", None),
        (f"{NDJSON};q=0", None),
        ("*/*;q=0", None),
        (f"{ARROW};q=1.5", None),
        (",", None),
    ],
)
def test_accept_decides(accept: str | None, media: str | None) -> None:
    """Weights, wildcards and refusals as RFC 9110 has them."""
    if media is None:
        with pytest.raises(NotAcceptableError):
            negotiate(accept)
    else:
        assert negotiate(accept) == media


async def test_the_answer_says_what_it_depends_on(client: httpx.AsyncClient) -> None:
    """Content-Type follows Accept, in one header line or several, and Vary says that it does, refusals included."""
    several = httpx.Headers([("Accept", "text/html"), ("Accept", ARROW)])
    arrow = await client.get("/airlines", headers=several)
    assert (arrow.headers["content-type"], arrow.headers["vary"]) == (ARROW, "Accept")
    refused = await client.get("/airlines", headers={"Accept": "text/csv"})
    assert (refused.status_code, refused.headers["vary"]) == (406, "Accept")
    assert NDJSON in refused.json()["detail"]
    assert ARROW in refused.json()["detail"]


@pytest.mark.parametrize("path", PATHS)
async def test_etag_names_content_and_representation(client: httpx.AsyncClient, path: str) -> None:
    """The same bytes have the same strong ETag; the other representation has another."""
    first, again = await client.get(path), await client.get(path)
    arrow = await client.get(path, headers={"Accept": ARROW})
    assert first.headers["etag"].startswith('"')
    assert first.headers["etag"] == again.headers["etag"] != arrow.headers["etag"]


async def test_etag_of_an_empty_day_still_names_the_representation(client: httpx.AsyncClient) -> None:
    """Two empty answers differ by what they are empty of."""
    tags = [
        (await client.get("/weather", params={"date": "2013-12-31"}, headers={"Accept": accept})).headers["etag"]
        for accept in (NDJSON, ARROW)
    ]
    assert len(set(tags)) == 2


async def test_a_known_etag_is_answered_without_a_body(client: httpx.AsyncClient) -> None:
    """304 with the headers a cache needs; another day's or representation's tag gets the body."""
    url = "/flights?date=2013-05-01"
    first = await client.get(url)
    known = await client.get(url, headers={"If-None-Match": f'"other", {first.headers["etag"]}'})
    assert (known.status_code, known.content) == (304, b"")
    assert known.headers["etag"] == first.headers["etag"]
    assert known.headers["vary"] == "Accept"
    arrow = await client.get(url, headers={"If-None-Match": first.headers["etag"], "Accept": ARROW})
    assert arrow.status_code == 200
    other_day = await client.get("/flights?date=2013-05-02", headers={"If-None-Match": first.headers["etag"]})
    assert other_day.status_code == 200


@pytest.mark.parametrize(
    ("header", "current"),
    [(None, False), ('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False), ("a", False)],
)
def test_if_none_match_is_compared_weakly(header: str | None, current: bool) -> None:
    """Lists, weak tags and the star, as RFC 9110 has them."""
    assert is_current(header, '"a"') is current


@pytest.mark.parametrize("limit", [7, 250, 842, 10_000])
async def test_pages_cover_each_row_once(client: httpx.AsyncClient, limit: int) -> None:
    """Following the links gives the whole day in order, and the last page links nowhere."""
    whole = _lines(await client.get("/flights", params={"date": "2024-01-01"}))
    rows: list[dict[str, Any]] = []
    url: str | None = f"/flights?date=2024-01-01&limit={limit}"
    while url is not None:
        page = await client.get(url)
        assert page.headers["X-Row-Count"] == str(len(_lines(page)))
        assert page.headers["X-Total-Count"] == str(len(whole)) == "842"
        rows += _lines(page)
        link = page.links.get("next")
        url = link["url"] if link else None
    assert rows == whole


async def test_a_cursor_without_a_limit_is_the_rest(client: httpx.AsyncClient) -> None:
    """An interrupted reader continues where it stopped."""
    rest = await client.get("/flights", params={"date": "2013-01-01", "cursor": 840})
    assert rest.headers["X-Row-Count"] == "2"
    assert "link" not in rest.headers
    end = await client.get("/flights", params={"date": "2013-01-01", "cursor": 842})
    assert (end.status_code, end.headers["X-Row-Count"]) == (200, "0")


@pytest.mark.parametrize(
    ("url", "accept", "told"),
    [
        ("/flights", "*/*", "query.date: is required"),
        ("/flights?date=2013-01-01&carrier=UA", "*/*", "query.carrier: is not known here"),
        ("/flights?date=2013-01-01&date=2013-01-02", "*/*", "once; repeated: date"),
        ("/flights?date=2013-01-01&limit=0", "*/*", "query.limit"),
        ("/flights?date=2013-01-01&limit=10001", "*/*", "query.limit"),
        ("/flights?date=2013-01-01&limit=many", "*/*", "query.limit"),
        ("/flights?date=2013-01-01&cursor=-1", "*/*", "query.cursor"),
        ("/flights?date=2013-01-01&cursor=843", "*/*", "follow the Link header"),
        ("/flights?date=2013-01-01&limit=5", ARROW, "leave out limit and cursor"),
        ("/flights?date=2013-01-01&cursor=0", ARROW, "leave out limit and cursor"),
        ("/planes?limit=5", "*/*", "query.limit: is not known here"),
        ("/airlines?date=2013-01-01", "*/*", "query.date: is not known here"),
    ],
)
async def test_a_wrong_parameter_is_refused(client: httpx.AsyncClient, url: str, accept: str, told: str) -> None:
    """422 as a problem document that names the parameter and what to do."""
    answer = await client.get(url, headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert told in answer.json()["detail"]
    assert answer.json()["status"] == 422


async def test_routes_that_do_not_exist_are_problems_too(client: httpx.AsyncClient) -> None:
    """One format for every refusal."""
    missing, not_taken = await client.get("/trains"), await client.post("/flights")
    assert (missing.status_code, not_taken.status_code) == (404, 405)
    assert not_taken.headers["allow"] == "GET"
    for answer in (missing, not_taken):
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(answer.json()) == {"type", "title", "status", "detail"}


async def test_a_defect_is_a_problem_without_details(records: Records) -> None:
    """A client learns that the service failed, not how."""
    app = create_app(records=records)

    @app.get("/defect")
    async def defect() -> None:
        raise RuntimeError("of no concern to clients")

    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://source") as http:
        answer = await http.get("/defect")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "concern" not in answer.text


def test_every_error_has_a_status() -> None:
    """A new refusal cannot be forgotten in the table."""
    assert set(problems.STATUS) == set(SourceError.__subclasses__())


async def test_openapi_describes_rows_and_refusals(client: httpx.AsyncClient) -> None:
    """Both representations with their schema, and each refusal, are in the document."""
    paths = (await client.get("/openapi.json")).json()["paths"]
    for table, row in TABLES.items():
        responses = paths[f"/{table}"]["get"]["responses"]
        content = responses["200"]["content"]
        assert set(content) == set(Media)
        assert list(content[NDJSON]["schema"]["properties"]) == list(row.model_fields)
        assert {"200", "304", "406", "422"} <= set(responses)


async def test_a_correlation_id_is_echoed_and_a_dangerous_one_is_not(client: httpx.AsyncClient) -> None:
    """Refusals carry it too; what is no id is not repeated."""
    for url in ("/airlines", "/trains"):
        answer = await client.get(url, headers={"X-Correlation-ID": "run-7"})
        assert answer.headers["X-Correlation-ID"] == "run-7"
    for unfit in ("", "two words", "x" * 129):
        answer = await client.get("/airlines", headers={"X-Correlation-ID": unfit})
        assert "X-Correlation-ID" not in answer.headers
