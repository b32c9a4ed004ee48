"""The pages that are read, over ASGI on a real ledger, Prefect played at the wire."""

import re
from collections.abc import AsyncIterator
from contextvars import ContextVar
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from orchestrator.app import create_app
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from .conftest import Serve, answering, eventually, settings
from .mornings import HOSTILE, Page, a_run, configured, ended, keep, names, note, send, started, yesterday
from .wire import DEPLOYMENT, PrefectWire, refused

MOST_BYTES = 100_000
MOST_STATEMENTS = 6
asking: ContextVar[bool] = ContextVar("asking", default=False)  # what goes on in the background asks too


@pytest.fixture
def day() -> date:
    """Yesterday, whose data should be here."""
    return yesterday(lasting=timedelta(seconds=20))


@pytest.fixture
def wire() -> PrefectWire:
    return PrefectWire()


@pytest.fixture
async def client(serve: Serve, wire: PrefectWire) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application where nobody has to sign in."""
    async with serve(wire) as client:
        yield client


async def test_why_yesterday_failed_is_said_first(client: httpx.AsyncClient, wire: PrefectWire, day: date) -> None:
    """Before all pipelines: the day, the typed reason, its evidence, the command, the way to the run and its log."""
    error = "Traceback (most recent call last):\netl.errors.SourceUnavailable: the source answered 503"
    run_id, flow_run = await ended(
        client, wire, "FAILED", message="Flow run encountered an exception: SourceUnavailable: 503", error=error
    )
    page = Page(await client.get("/"))
    first, _, rest = page.text.partition("Pipelines C Completed")
    assert rest, "the pipelines come after what needs somebody"
    assert f"F Failed etl, {day}" in first
    assert "PL101 Source unavailable" in first
    assert f"prefect flow-run logs {flow_run}" in first
    links = [one["href"] for one in page.all("a")]
    assert f"./pipelines/etl/runs/{run_id}" in links
    assert f"./pipelines/etl/runs/{run_id}#log" in links
    assert f"./pipelines/etl/{day}" in links
    shown = await client.get(f"/pipelines/etl/runs/{run_id}")
    run = Page(shown)
    assert "SourceUnavailable: the source answered 503" in run.text
    assert run.all("li", **{"class": "error"})
    for told in (run_id, flow_run, "accepted", "because: PL101", f'"logical_date": "{day}"'):
        assert told in run.text, told


async def test_a_degraded_day_and_one_that_is_held(client: httpx.AsyncClient, wire: PrefectWire, day: date) -> None:
    """Each with its letter, what was said of it, and a command."""
    await ended(client, wire, "COMPLETED", name="Degraded", message="kept the 896 flights loaded before")
    plan = {"from": "2026-03-01", "to": "2026-03-02", "mode": "all"}
    digest = (await client.post("/api/etl/backfill", json=plan)).json()["digest"]
    wire.fault = refused
    made = (await client.post("/api/etl/backfill", json=plan | {"digest": digest})).json()["backfill_id"]
    await client.post(f"/api/etl/backfill/{made}/pause")

    async def held() -> Page | None:
        page = Page(await client.get("/"))
        return page if "PL021 Backfill paused" in page.text and "2 runs" in page.text else None

    page = await eventually(held, within=30, what="the page says what holds both runs")
    assert f"D Degraded etl, {day}" in page.text
    assert "kept the 896 flights loaded before" in page.text
    assert f"pipelines backfill etl --from {day} --to {day} --mode degraded" in page.text
    assert f"backfill {made} is paused" in page.text


async def test_a_day_that_the_schedule_missed(client: httpx.AsyncClient, db: AsyncEngine, day: date) -> None:
    """Yesterday has no run, and it is late for one: missing, with the command that starts it."""
    await note(db, "etl", DEPLOYMENT, cron="1 0 * * *")
    await keep(db, [a_run("etl", day - timedelta(days=2)), a_run("etl", day - timedelta(days=3))])
    page = Page(await client.get("/"))
    assert f"M missing etl, {day - timedelta(days=1)}" in page.text
    assert f"pipelines start etl --date {day - timedelta(days=1)} --watch" in page.text


async def test_nothing_needs_anybody(client: httpx.AsyncClient, db: AsyncEngine, day: date) -> None:
    """It says so, and that yesterday arrived."""
    await note(db, "etl", DEPLOYMENT)
    await keep(db, [a_run("etl", day - timedelta(days=number)) for number in range(40)])
    page = Page(await client.get("/"))
    assert "Nothing failed, is degraded, missing or held" in page.text
    assert "C 1 Completed of 1 pipeline" in page.text
    assert "daily at 09:00 Europe/Madrid" in page.text
    assert "0 waiting, 0 going" in page.text
    assert re.search(r"last \d+ s, median \d+ s, longest \d+ s", page.text)
    drawn = page.all("svg", role="img")
    assert "40 Completed" in drawn[0]["aria-label"]


async def test_twenty_pipelines_of_a_year_in_few_bytes_and_statements(
    database_url: str, db: AsyncEngine, capsys: pytest.CaptureFixture[str], day: date
) -> None:
    """At most 100 KB, and as many statements as for one, where one day in five is not as it should be."""
    odd = [("Failed", "Failed"), ("Completed", "Degraded"), ("Cancelled", "Cancelled")]

    def ended_as(number: int) -> tuple[str, str]:
        return odd[number // 5 % 3] if number % 5 == 1 else ("Completed", "Completed")

    told = {}
    for count in (1, 20):
        for name in names(count):
            await note(db, name, f"{name}/daily")
        known = names(20)[1:] if count == 20 else names(1)
        await keep(
            db,
            [
                a_run(name, day - timedelta(days=number), state, state_name=state_name)
                for name in known
                for number, (state, state_name) in enumerate(map(ended_as, range(365)))
            ],
        )
        app = create_app(settings(database_url, pipelines=configured(count), poll_seconds=60), transport=PrefectWire())
        async with answering(app) as client:
            await client.get("/")
            said: list[str] = []
            listened = app.state.parts.db.sync_engine

            def note_down(*arguments: Any, said: list[str] = said) -> None:
                if asking.get():
                    said.append(arguments[2])

            event.listen(listened, "before_cursor_execute", note_down)
            told_apart = asking.set(True)
            answer = await client.get("/")
            asking.reset(told_apart)
            event.remove(listened, "before_cursor_execute", note_down)
        told[count] = (len(answer.content), len(said))
    with capsys.disabled():
        print(f"\n20 pipelines x 365 days: {told[20][0]} bytes, {told[20][1]} statements")  # noqa: T201
    assert told[20][1] == told[1][1] <= MOST_STATEMENTS
    assert told[20][0] <= MOST_BYTES
    page = Page(answer)
    assert len(page.all("svg", role="img")) == 40


async def test_what_others_wrote_is_text(client: httpx.AsyncClient, wire: PrefectWire, day: date) -> None:
    """A message, a log line, an artifact that hold HTML, a script or a template are shown, never done."""
    run_id, flow_run = await ended(client, wire, "FAILED", message=HOSTILE, error=HOSTILE)
    wire.leave(
        flow_run, "markdown", f"# {HOSTILE}\n[x](javascript:alert(3)) ![y](https://elsewhere.test/y.png)", key="m"
    )
    wire.leave(flow_run, "table", f'[{{"a": {"%s"}}}]' % '"<b>bold</b>"', key="t")
    wire.leave(flow_run, "image", "https://elsewhere.test/z.png", key="i")
    wire.leave(flow_run, "image", "data:image/svg+xml;base64,PHN2Zz4=", key="s")
    wire.leave(flow_run, "image", "data:image/png;base64,iVBORw0KGgo=", key="p")
    for path in ("/", f"/pipelines/etl/runs/{run_id}", f"/pipelines/etl/{day}"):
        answer = await client.get(path)
        page = Page(answer)
        assert HOSTILE not in answer.text, path
        assert "alert(1)" in page.text
        assert "49" not in page.text.split("alert(2)")[1][:20]
        assert [one.get("src") for one in page.all("script")] == [page.all("script")[0]["src"]]
        assert not [one for _, one in page.tags if any(name.startswith("on") or name == "style" for name in one)]
        assert not [one for one in page.all("a") if one.get("href", "").lower().startswith(("javascript:", "data:"))]
        assert [one["src"] for one in page.all("img")] == (
            ["data:image/png;base64,iVBORw0KGgo="] if "/runs/" in path else []
        )
    assert "<b>bold</b>" in Page(await client.get(f"/pipelines/etl/runs/{run_id}")).text


async def test_every_page_forbids_what_it_does_not_need(
    client: httpx.AsyncClient, wire: PrefectWire, day: date
) -> None:
    """The same strict policy on each, refusals and files included; nothing inline, nothing from elsewhere."""
    run_id, _ = await started(client, wire)
    paths = ["/", "/pipelines/etl", f"/pipelines/etl/{day}", f"/pipelines/etl/runs/{run_id}", "/sign-in"]
    paths += [
        "/pipelines/nowhere",
        f"/pipelines/etl/runs/{uuid4()}",
        "/pipelines/etl/yesterday",
        "/pipelines/etl/a/b/c",
    ]
    for path in paths:
        answer = await client.get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert {"form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy.split("; "))
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        page = Page(answer)
        assert page.all("html", lang="en")
        assert page.all("a", **{"class": "skip"}) == [{"class": "skip", "href": "#main"}]
        assert page.all("main", id="main")
        assert len(page.all("h1")) == 1
        assert not page.all("style")
        for tag, name in (("script", "src"), ("link", "href"), ("img", "src")):
            for found in page.all(tag):
                assert found[name].startswith(("./static/", "../", "data:")), found


async def test_files_are_kept_for_good_by_their_content(client: httpx.AsyncClient) -> None:
    """Another content has another name; what is not there is refused."""
    page = Page(await client.get("/"))
    linked = [one["href"] for one in page.all("link")] + [one["src"] for one in page.all("script")]
    assert len(linked) == 3
    for path in linked:
        answer = await client.get(path.removeprefix("."))
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert re.search(r"\.[0-9a-f]{12}\.", path)
    for name in ("page.css", "../app.py", "..%2f__init__.py"):
        assert (await client.get(f"/static/{name}")).status_code == 404


async def test_a_page_below_a_path(client: httpx.AsyncClient, wire: PrefectWire, day: date) -> None:
    """Every address is relative: it leads to the right place below whatever a proxy puts in front."""
    run_id, _ = await started(client, wire)
    for path in ("/", "/pipelines/etl", f"/pipelines/etl/{day}", f"/pipelines/etl/runs/{run_id}"):
        page = Page(await client.get(path))
        links = [one["href"] for one in page.all("a")]
        outside = httpx.URL(f"https://example.test/some/where{path}")
        assert links
        for one in links + [one["action"] for one in page.all("form")]:
            joined = outside.join(one)
            assert joined.path.startswith("/some/where/"), one
            if one in links and "/pipelines/etl/2" not in joined.path:
                inside = joined.path.removeprefix("/some/where")
                assert (await client.get(inside)).status_code == 200, one


async def test_the_page_stays_while_prefect_is_away(client: httpx.AsyncClient, wire: PrefectWire) -> None:
    """What is in the ledger is shown, and what could not be read is named."""
    run_id, _ = await ended(client, wire, "FAILED", message="so")
    wire.fault = refused
    assert (await client.get("/")).status_code == 200
    page = Page(await client.get(f"/pipelines/etl/runs/{run_id}"))
    assert "The log cannot be shown: Prefect" in page.text
    assert "The artifacts cannot be shown: Prefect" in page.text
    assert "Failed" in page.text


async def test_artifacts_of_a_run(client: httpx.AsyncClient, wire: PrefectWire) -> None:
    """On its page as what they are, and as JSON, oldest first."""
    run_id, flow_run = await started(client, wire)
    wire.leave(
        flow_run, "markdown", "## Rows\n\n| good | bad |\n|--|--|\n| 896 | 0 |\n", key="daily-job", description="all"
    )
    wire.leave(flow_run, "table", '[{"flight": "AA 1697", "late": 636}]', key="delays")
    wire.leave(flow_run, "progress", 40.0)
    wire.leave(flow_run, "result", {"any": "thing"})
    told = (await client.get(f"/api/etl/artifacts/{run_id}")).json()
    assert (told["run_id"], told["flow_run_id"]) == (run_id, flow_run)
    assert [one["type"] for one in told["artifacts"]] == ["markdown", "table", "progress", "result"]
    assert told["artifacts"][1]["data"] == [{"flight": "AA 1697", "late": 636}]
    page = Page(await client.get(f"/pipelines/etl/runs/{run_id}"))
    assert "Rows good bad 896 0" in page.text
    assert "flight late AA 1697 636" in page.text
    assert "40.0 %" in page.text
    assert (await client.get(f"/api/etl/artifacts/{uuid4()}")).status_code == 404


async def test_a_link_to_prefect_where_that_is_known(serve: Serve) -> None:
    """To the flow run, and to nowhere without the setting."""
    wire = PrefectWire()
    async with serve(wire, prefect_ui_url="https://prefect.example.com/ui/") as client:
        run_id, flow_run = await started(client, wire)
        page = Page(await client.get(f"/pipelines/etl/runs/{run_id}"))
    there = f"https://prefect.example.com/ui/runs/flow-run/{flow_run}"
    assert [one["rel"] for one in page.all("a", href=there)] == ["noreferrer"]


async def test_steps_that_the_flow_announced(client: httpx.AsyncClient, wire: PrefectWire) -> None:
    """In the timeline with the states, in order; a line that only looks like one is a line of the log."""
    run_id, flow_run = await started(client, wire)
    wire.move(flow_run, "RUNNING")
    wire.say(flow_run, '{"step": "extract", "flights": 896, "run_id": "x"}')
    wire.say(flow_run, '{"step" broken')

    async def running() -> bool:
        return "Running" in (await client.get(f"/api/etl/status/{run_id}")).text

    await eventually(running, within=10, what="the run is Running")
    text = Page(await client.get(f"/pipelines/etl/runs/{run_id}")).text
    assert "step extract flights 896" in text
    assert text.index("accepted") < text.index("step extract")
    assert '{"step" broken' in text


async def test_an_unknown_day_or_run_is_a_readable_page(client: httpx.AsyncClient) -> None:
    """The words of the problem document; the API itself keeps answering JSON."""
    for path, status, words in (
        ("/pipelines/elt", 404, "there is no pipeline"),
        ("/pipelines/etl/2026-02-30", 422, "is not a day of the calendar"),
        (f"/pipelines/etl/runs/{uuid4()}", 404, "has no run"),
        ("/pipelines/etl/runs/x", 422, "run_id"),
    ):
        answer = await client.get(path)
        assert answer.status_code == status, path
        assert words in Page(answer).text
        assert answer.headers["x-correlation-id"] in answer.text
    assert (await client.get("/api/elt/runs")).headers["content-type"] == "application/problem+json"
    assert (await client.get("/nowhere")).headers["content-type"] == "application/problem+json"


async def test_a_day_offers_a_backfill_of_what_it_lacks(client: httpx.AsyncClient, wire: PrefectWire) -> None:
    """In three steps from a red date: the day, the plan with its digest, exactly that."""
    day = date(2026, 3, 1)
    await ended(client, wire, "FAILED", day=day, message="so")
    fields = Page(await client.get(f"/pipelines/etl/{day}")).form("/backfill")
    assert (fields["from"], fields["to"], fields["mode"]) == (f"{day}", f"{day}", "failed")
    shown = await send(client, "/pipelines/etl/backfill", fields)
    plan = Page(shown)
    assert shown.status_code == 200
    assert "1 of 1 date would run" in plan.text
    confirmed = plan.form("/backfill")
    assert re.fullmatch("[0-9a-f]{64}", confirmed["digest"])
    done = await send(client, "/pipelines/etl/backfill", confirmed)
    assert done.status_code == 303
    progress = await client.get(str(httpx.URL("http://x/pipelines/etl/backfill").join(done.headers["location"]).path))
    assert "1 run" in Page(progress).text
    runs = (await client.get("/api/etl/runs", params={"logical_date": f"{day}"})).json()["runs"]
    assert len(runs) == 2
    again = await send(client, "/pipelines/etl/backfill", confirmed)
    assert again.headers["location"] == done.headers["location"]
    assert (datetime.now(UTC) - datetime.fromisoformat(runs[0]["accepted_at"])) < timedelta(minutes=1)
