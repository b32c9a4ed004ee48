"""A run's log: in pages, followed to its end, and what is said where there is none."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from orchestrator.api import logs as route
from orchestrator.logs import LATE, Followed, Level, Line, Place
from orchestrator.prefect_api.shapes import PAGE

from .conftest import Serve, eventually
from .test_api import problem
from .test_events import listening, received
from .wire import PrefectWire, refused, saying

BEGAN = datetime(2026, 3, 2, 8, tzinfo=UTC)
FOLLOWING = {"Accept": "text/event-stream"}


async def started(client: httpx.AsyncClient, wire: PrefectWire) -> tuple[str, str]:
    """A run that Prefect has: its id, and its flow run's."""
    run_id = (await client.post("/api/etl/start", json={})).json()["run_id"]

    async def known() -> Any:
        return (await client.get(f"/api/etl/status/{run_id}")).json()["flow_run_id"]

    return run_id, await eventually(known, within=10, what="the run has a flow run")


async def pages_of(client: httpx.AsyncClient, run_id: str, **query: Any) -> list[dict[str, Any]]:
    """Every page, as its cursors lead through them."""
    found = []
    while True:
        page = (await client.get(f"/api/etl/logs/{run_id}", params=query)).raise_for_status().json()
        found.append(page)
        if not page["more"]:
            return found
        query = query | {"cursor": page["next_cursor"]}


def messages(pages: list[dict[str, Any]]) -> list[str]:
    return [line["message"] for page in pages for line in page["lines"]]


async def test_pages_lead_through_every_line_once(serve: Serve) -> None:
    """Also where lines of one moment lie on both sides of a page's end, in whatever order Prefect gives them."""
    wire = PrefectWire()
    async with serve(wire) as client:
        run_id, flow_run_id = await started(client, wire)
        for number in range(450):
            wire.say(flow_run_id, f"line {number}", at=BEGAN + timedelta(milliseconds=number // 7))
        for limit in (60, 200):
            pages = await pages_of(client, run_id, limit=limit)
            assert {len(page["lines"]) for page in pages[:-1]} == {limit}
            assert sorted(messages(pages)) == sorted(f"line {number}" for number in range(450))
            moments = [datetime.fromisoformat(line["at"]) for page in pages for line in page["lines"]]
            assert moments == sorted(moments)
        last = pages[-1]
        assert (last["run_id"], last["flow_run_id"], last["detail"]) == (run_id, flow_run_id, None)
        wire.say(flow_run_id, "later")
        assert messages(await pages_of(client, run_id, cursor=last["next_cursor"])) == ["later"]


async def test_more_lines_of_one_moment_than_a_page_holds(serve: Serve) -> None:
    """Prefect's own pages are followed by their number then: none is left out, and there is an end."""
    wire = PrefectWire()
    async with serve(wire) as client:
        run_id, flow_run_id = await started(client, wire)
        for number in range(PAGE + 20):
            wire.say(flow_run_id, f"line {number}", at=BEGAN)
        wire.say(flow_run_id, "the next", at=BEGAN + timedelta(seconds=1))
        found = messages(await pages_of(client, run_id))
        assert found[-1] == "the next"
        assert len(found) >= PAGE


async def test_lines_are_chosen_by_their_level_and_from_the_end(serve: Serve) -> None:
    """The last error is one request; a text that is too long is cut, and says by how much."""
    wire = PrefectWire()
    async with serve(wire) as client:
        run_id, flow_run_id = await started(client, wire)
        for number, level in enumerate((10, 20, 30, 40, 25, 40, 20)):
            wire.say(flow_run_id, str(number), level=level, at=BEGAN + timedelta(seconds=number))
        wire.say(flow_run_id, "x" * 20_000, at=BEGAN + timedelta(seconds=9))
        (page,) = await pages_of(client, run_id, tail=1, level="error")
        assert [(line["level"], line["message"]) for line in page["lines"]] == [("error", "5")]
        (page,) = await pages_of(client, run_id, tail=3)
        assert messages([page])[:2] == ["5", "6"]
        assert messages([page])[2].endswith("x… (3616 more characters)")
        (page,) = await pages_of(client, run_id)
        assert [line["level"] for line in page["lines"]][:5] == ["debug", "info", "warning", "error", "info"]


async def test_a_run_that_prefect_does_not_have_says_so(serve: Serve) -> None:
    """Not handed over yet, cancelled before it was, and unknown."""
    wire = PrefectWire()
    async with serve(wire) as client:
        await started(client, wire)
        wire.fault = saying(503)
        waiting = (await client.post("/api/etl/start", json={})).json()["run_id"]

        async def tried() -> Any:
            return (await client.get(f"/api/etl/status/{waiting}")).json()["dispatch"]["attempts"]

        await eventually(tried, within=10, what="the hand-over was tried")
        page = (await client.get(f"/api/etl/logs/{waiting}")).json()
        assert (page["lines"], page["flow_run_id"], page["next_cursor"], page["more"]) == ([], None, None, False)
        assert "has not been handed over to Prefect yet" in page["detail"]
        assert "tries failed: " in page["detail"]
        await client.post(f"/api/etl/cancel/{waiting}")
        page = (await client.get(f"/api/etl/logs/{waiting}")).json()
        assert page["detail"] == "the run was Cancelled before Prefect had it: it has no log"
        await problem(await client.get(f"/api/etl/logs/{uuid4()}"), 404, "unknown-run")


async def test_without_prefect_there_is_no_log(serve: Serve) -> None:
    """503 as for everything that is Prefect's, also of a log that was to be followed."""
    wire = PrefectWire()
    async with serve(wire) as client:
        run_id, _ = await started(client, wire)
        wire.fault = refused
        for headers in ({}, FOLLOWING):
            answer = await client.get(f"/api/etl/logs/{run_id}", headers=headers)
            await problem(answer, 503, "engine-unavailable")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"cursor": "nowhere"}, "cursor is not one of this list"),
        ({"cursor": "WyIxIl0", "tail": 1}, "send one of them"),
        ({"tail": 0}, "query.tail"),
        ({"limit": 201}, "query.limit"),
        ({"level": "loud"}, "query.level"),
        ({"from": 1}, "query.from"),
    ],
)
async def test_a_place_that_cannot_be_is_refused(serve: Serve, query: dict[str, Any], told: str) -> None:
    """422 that names it."""
    wire = PrefectWire()
    async with serve(wire) as client:
        run_id, _ = await started(client, wire)
        answer = await client.get(f"/api/etl/logs/{run_id}", params=query)
        assert told in (await problem(answer, 422, "invalid-request"))["detail"]


async def test_a_log_is_followed_to_the_runs_end(database_url: str) -> None:
    """States as they change, each line once, one that came late too; the end says that the run is over."""
    wire = PrefectWire()
    async with listening(database_url, wire) as client:
        run_id, flow_run_id = await started(client, wire)
        wire.say(flow_run_id, "first")
        told: list[dict[str, str]] = []
        async with client.stream("GET", f"/api/etl/logs/{run_id}", headers=FOLLOWING) as answer, asyncio.timeout(20):
            assert answer.headers["content-type"].startswith("text/event-stream")
            async for event in received(answer):
                told.append(event)
                data = json.loads(event["data"])
                if event["event"] == "line" and data["message"] == "first":
                    wire.move(flow_run_id, "RUNNING")
                elif data.get("state") == "Running":
                    wire.say(flow_run_id, "second")
                    wire.say(flow_run_id, "late", at=datetime.now(UTC) - timedelta(seconds=5))
                elif data.get("message") == "second":
                    wire.move(flow_run_id, "COMPLETED")
                    wire.say(flow_run_id, "Finished in state Completed()")
                elif event["event"] == "end":
                    break
    lines = [json.loads(one["data"])["message"] for one in told if one["event"] == "line"]
    assert sorted(lines) == ["Finished in state Completed()", "first", "late", "second"]
    states = [json.loads(one["data"])["state"] for one in told if one["event"] == "state"]
    assert states == ["Scheduled", "Running", "Completed"]
    assert json.loads(told[-1]["data"]) == {"reason": "the run is over", "over": True}
    assert all(("id" in one) == (one["event"] == "line") for one in told)


async def test_the_end_of_a_task_is_not_the_runs(database_url: str) -> None:
    """Each task's last line is like the run's own, which comes after the run's end is known."""
    wire = PrefectWire()
    async with listening(database_url, wire) as client:
        run_id, flow_run_id = await started(client, wire)
        wire.say(flow_run_id, "Finished in state Completed()", task=uuid4())
        wire.move(flow_run_id, "COMPLETED")

        async def over() -> bool:
            return bool((await client.get(f"/api/etl/status/{run_id}")).json()["state"] == "Completed")

        await eventually(over, within=10, what="the run is over")
        async with client.stream("GET", f"/api/etl/logs/{run_id}", headers=FOLLOWING) as answer, asyncio.timeout(20):
            told = []
            async for event in received(answer):
                told.append(event)
                if event["event"] == "line" and len(told) == 1:
                    await asyncio.sleep(1)
                    wire.say(flow_run_id, "Finished in state Completed()")
        assert [one["event"] for one in told] == ["line", "line", "state", "end"]


async def test_a_stream_goes_on_after_the_last_line(database_url: str) -> None:
    """With Last-Event-ID, with a cursor, and with the last lines alone."""
    wire = PrefectWire()
    async with listening(database_url, wire) as client:
        run_id, flow_run_id = await started(client, wire)
        for number in range(5):
            wire.say(flow_run_id, str(number), at=datetime.now(UTC) + timedelta(milliseconds=number))
        wire.say(flow_run_id, "Finished in state Failed()", at=datetime.now(UTC) + timedelta(milliseconds=9))
        wire.move(flow_run_id, "FAILED", message="so")

        async def over() -> bool:
            return bool((await client.get(f"/api/etl/status/{run_id}")).json()["state"] == "Failed")

        await eventually(over, within=10, what="the run failed")

        async def followed(**more: Any) -> list[dict[str, str]]:
            request = client.stream("GET", f"/api/etl/logs/{run_id}", **more)
            async with asyncio.timeout(20), request as answer:
                return [one async for one in received(answer)]

        told = await followed(headers=FOLLOWING)
        assert [one["event"] for one in told] == ["line"] * 6 + ["state", "end"]
        rest = await followed(headers=FOLLOWING | {"Last-Event-ID": told[2]["id"]})
        assert [json.loads(one["data"]) for one in rest[:2]] == [json.loads(one["data"]) for one in told[3:5]]
        assert len(rest) == 5
        assert await followed(headers=FOLLOWING, params={"cursor": told[2]["id"]}) == rest
        assert len(await followed(headers=FOLLOWING, params={"tail": 2})) == 4


async def test_a_stream_waits_for_prefect(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has begun is not broken off: a comment says what is missing, and then it goes on."""
    monkeypatch.setattr(route, "HEARTBEAT_SECONDS", 0.1)
    wire = PrefectWire()
    async with listening(database_url, wire) as client:
        run_id, flow_run_id = await started(client, wire)
        wire.say(flow_run_id, "before")
        async with client.stream("GET", f"/api/etl/logs/{run_id}", headers=FOLLOWING) as answer, asyncio.timeout(30):
            async for event in received(answer):
                if event.get("event") == "line" and "before" in event["data"]:
                    wire.fault = saying(503)
                elif "Prefect" in event.get("comment", "") and wire.fault is not None:
                    wire.fault = None
                    wire.say(flow_run_id, "after")
                elif event.get("event") == "line":
                    assert json.loads(event["data"])["message"] == "after"
                    break
            else:
                pytest.fail("the stream ended before Prefect was back")


def line(second: float, number: int) -> Line:
    return Line(
        id=UUID(int=number),
        at=BEGAN + timedelta(seconds=second),
        level=Level.INFO,
        logger="x",
        message=str(number),
    )


def test_a_follower_is_told_each_line_once() -> None:
    """Late ones too, within what is looked at again; never what stood before the place it came with."""
    followed = Followed(Place(BEGAN, UUID(int=1)))
    assert [one.message for one, _ in followed.new([line(0, 1), line(-1, 9), line(0, 2), line(3, 3)])] == ["2", "3"]
    assert followed.since == Place(BEGAN + timedelta(seconds=3) - LATE, UUID(int=0))
    assert followed.new([line(0, 2), line(3, 3)]) == []
    [(late, place)] = followed.new([line(2, 4)])
    assert (late.message, place) == ("4", Place(BEGAN + timedelta(seconds=3), UUID(int=3)))
    assert Followed().since is None


@pytest.mark.parametrize(
    ("number", "level"), [(0, "debug"), (10, "debug"), (25, "info"), (40, "error"), (99, "critical")]
)
def test_numbers_between_levels_belong_to_the_one_below(number: int, level: str) -> None:
    """A library's own levels have names that nobody else knows."""
    assert Level.of(number) == level
