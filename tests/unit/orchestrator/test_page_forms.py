"""Who may change what by a form: its proof, where it came from, who is signed in; over ASGI on a real ledger."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import structlog
from orchestrator.app import create_app
from orchestrator.doors import browsing
from orchestrator.doors.keys import ApiKeys
from orchestrator.ledger.tables import runs
from orchestrator.page.forms import Forms
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.datastructures import Headers

from .conftest import Serve, answering, eventually, settings
from .mornings import Page, a_run, keep, run_of, send, started, yesterday
from .test_api import problem
from .test_doors import BOTH, VIEWER
from .test_events import listening, received
from .test_keys import NEXT, OPS, write
from .test_tokens import CI, CI_NAME, ReviewsWire
from .test_tokens import guarded as behind_tokens
from .wire import PrefectWire, refused

YESTERDAY = yesterday(lasting=timedelta())  # none of these minds a midnight in between
DAY = f"/pipelines/etl/{YESTERDAY}"


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    """One of everything, one that reads one pipeline of two."""
    return write(
        tmp_path / "keys.json",
        {"name": "ops", "key": OPS},
        {"name": "viewer", "key": VIEWER, "may": {"etl": ["read"]}},
    )


@pytest.fixture
async def guarded(database_url: str, keys_file: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The application behind a door of API keys."""
    chosen = settings(database_url, pipelines=BOTH, auth="apiKey", api_keys_file=keys_file)
    async with answering(create_app(chosen, transport=PrefectWire())) as client:
        yield client


async def sign_in(client: httpx.AsyncClient, key: str, **headers: str) -> httpx.Response:
    return await send(client, "/sign-in", {"credential": key}, **headers)


async def count(db: AsyncEngine) -> int:
    async with db.connect() as connection:
        return int((await connection.execute(select(func.count()).select_from(runs))).scalar_one())


async def test_a_run_is_started_once_and_cancelled(serve: Serve, db: AsyncEngine) -> None:
    """The form sent twice, as a double click does, is one run; its page offers to cancel it."""
    wire = PrefectWire()
    async with serve(wire) as client:
        await started(client, wire)
        wire.fault = refused
        fields = Page(await client.get(DAY)).form("/start")
        first = run_of(await send(client, "/pipelines/etl/start", fields | {"parameters": '{"sample": 2}'}))
        assert run_of(await send(client, "/pipelines/etl/start", fields | {"parameters": '{"sample": 2}'})) == first
        assert await count(db) == 2
        told = (await client.get(f"/api/etl/status/{first}")).json()
        assert told["parameters"] == {"sample": 2, "logical_date": f"{YESTERDAY}"}
        page = Page(await client.get(f"/pipelines/etl/runs/{first}"))
        assert "it has no log" in page.text
        fields = page.form(f"/cancel/{first}")
        assert run_of(await send(client, f"/pipelines/etl/cancel/{first}", fields)) == first

        async def cancelled() -> bool:
            return bool((await client.get(f"/api/etl/status/{first}")).json()["state"] == "Cancelled")

        # at once, or after the try to hand it over that is under way
        await eventually(cancelled, within=10, what="the run is cancelled")
        again = await send(client, f"/pipelines/etl/cancel/{first}", fields)
        assert again.status_code == 409
        assert "there is nothing left to cancel" in Page(again).text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "none"}, 403),
        ({"sec_fetch_site": "", "origin": "http://elsewhere.test"}, 403),
        ({"sec_fetch_site": "", "origin": "null"}, 403),
        ({"sec_fetch_site": "", "origin": ""}, 403),
        ({"sec_fetch_site": ""}, 303),
        ({"origin": ""}, 303),
    ],
)
async def test_a_form_of_another_site_changes_nothing(
    serve: Serve, db: AsyncEngine, headers: dict[str, str], status: int
) -> None:
    """Whatever token it carries; a browser that says only one of the two is believed by that."""
    wire = PrefectWire()
    async with serve(wire) as client:
        fields = Page(await client.get(DAY)).form("/start")
        answer = await send(client, "/pipelines/etl/start", fields, **headers)
        assert answer.status_code == status, answer.text
        assert await count(db) == (status == 303)


async def test_a_form_without_its_proof_changes_nothing(serve: Serve, db: AsyncEngine, database_url: str) -> None:
    """None, another's, one that is too old, one of another secret, and one that is no form at all."""
    wire = PrefectWire()
    async with serve(wire) as client:
        fields = Page(await client.get(DAY)).form("/start")
        await asyncio.sleep(0)
        someone = type("Someone", (), {"name": "mallory", "known": True})()
        nobody = type("Nobody", (), {"name": "anonymous", "known": False})()
        ours = Forms(database_url)
        assert (
            fields["token"].partition(".")[2]
            == ours.token(
                nobody, None, now=int(fields["token"].partition(".")[0], 16) - browsing.SESSION_SECONDS
            ).partition(".")[2]
        ), "any replica makes the same"
        wrong = ["", "x", ".", "zz.zz", f"{2**31:x}.é", fields["token"][:-1], "1" + fields["token"]]
        wrong += [ours.token(someone, None), ours.token(nobody, "a session"), Forms("another").token(nobody, None)]
        wrong += [ours.token(nobody, None, now=time.time() - browsing.SESSION_SECONDS - 1)]
        for token in wrong:
            answer = await send(client, "/pipelines/etl/start", fields | {"token": token})
            assert answer.status_code == 403, token
            assert "load its page again" in Page(answer).text
        without = {name: value for name, value in fields.items() if name != "token"}
        assert (await send(client, "/pipelines/etl/start", without)).status_code == 403
        for body in (b"token", b"token=a&token=b", b"token=%ff"):
            answer = await client.post(
                "/pipelines/etl/start",
                content=body,
                headers={"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin"},
            )
            assert answer.status_code == 422, body
        answer = await client.post("/pipelines/etl/start", json=fields, headers={"sec-fetch-site": "same-origin"})
        assert answer.status_code == 422
        assert await count(db) == 0
        assert run_of(await send(client, "/pipelines/etl/start", fields))


async def test_a_form_that_asks_for_the_impossible(serve: Serve, db: AsyncEngine) -> None:
    """The API's own words, on a page."""
    wire = PrefectWire()
    async with serve(wire) as client:
        page = Page(await client.get(DAY))
        start, backfill = page.form("/start"), page.form("/backfill")
        wrong: list[tuple[str, dict[str, str], str]] = [
            ("start", start | {"logical_date": "2999-01-01"}, "lies in the future"),
            ("start", start | {"parameters": "[1]"}, "write a JSON object"),
            ("start", start | {"parameters": "{"}, "is not JSON"),
            ("start", start | {"parameters": '{"unknown": 1}'}, "is not a parameter of"),
            ("start", start | {"once": ""}, "load its page again"),
            ("backfill", backfill | {"to": f"{YESTERDAY + timedelta(days=4)}"}, "lies in the future"),
            ("backfill", backfill | {"mode": "some"}, "mode"),
            ("backfill", backfill | {"max_concurrent": "many"}, "max_concurrent"),
        ]
        for what, fields, words in wrong:
            answer = await send(client, f"/pipelines/etl/{what}", fields)
            assert answer.status_code == 422, answer.text
            assert words in Page(answer).text
        changed = await send(client, "/pipelines/etl/backfill", backfill | {"digest": "0" * 64})
        assert changed.status_code == 409
        assert "ask for a new preview" in Page(changed).text
        assert await count(db) == 0


async def test_a_backfill_is_paused_resumed_and_cancelled(serve: Serve) -> None:
    """Each by a form of its page."""
    wire = PrefectWire()
    async with serve(wire) as client:
        fields = Page(await client.get(DAY)).form("/backfill") | {"from": "2026-03-01", "to": "2026-03-03"}
        plan = Page(await send(client, "/pipelines/etl/backfill", fields)).form("/backfill")
        wire.fault = refused
        made = str(run_of(await send(client, "/pipelines/etl/backfill", plan)))
        path = f"/pipelines/etl/backfill/{made}"
        for what, status in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
            fields = Page(await client.get(path)).form(f"{made}/{what}")
            assert str(run_of(await send(client, f"{path}/{what}", fields))) == made
            assert f"It is {status}" in Page(await client.get(path)).text
        assert not Page(await client.get(path)).all("form")
        assert (await send(client, f"{path}/forget", fields)).status_code == 422


async def test_nothing_is_shown_before_signing_in(guarded: httpx.AsyncClient, db: AsyncEngine) -> None:
    """401 and the form, wherever one comes to; files alone need nobody's name."""
    run = a_run("etl", YESTERDAY)
    await keep(db, [run])
    for path in ("/", "/pipelines/etl", DAY, f"/pipelines/etl/runs/{run['run_id']}", "/pipelines/other/x", "/live"):
        answer = await guarded.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"].startswith("Bearer")
        page = Page(answer)
        assert page.all("input", name="credential", type="password")
        assert "etl" not in page.text
    await problem(await guarded.get("/api/etl/runs"), 401, "unauthenticated")
    style = Page(answer).all("link", rel="stylesheet")[0]["href"]
    assert (await guarded.get(style.removeprefix("."))).status_code == 200


async def test_a_key_signs_in_and_out(guarded: httpx.AsyncClient) -> None:
    """By a cookie that no script reads and no other site sends, in which the key is not, and which the API ignores."""
    with structlog.testing.capture_logs() as lines:
        answer = await sign_in(guarded, f" {OPS}\n")
    assert answer.status_code == 303
    set_cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/", f"Max-Age={browsing.SESSION_SECONDS}"} <= set(
        set_cookie.split("; ")
    )
    assert "Secure" not in set_cookie
    assert OPS not in set_cookie + str(answer.headers) + str(lines)
    assert [one["caller"] for one in lines if one["event"] == "signed in"] == ["ops"]
    page = Page(await guarded.get("/"))
    assert "ops" in page.text
    assert "other" in page.text
    await problem(await guarded.get("/api/etl/runs"), 401, "unauthenticated")
    await problem(await guarded.post("/api/etl/start"), 401, "unauthenticated")
    fields = Page(await guarded.get(DAY)).form("/start")
    with structlog.testing.capture_logs() as lines:
        run_of(await send(guarded, "/pipelines/etl/start", fields))
    assert [one["caller"] for one in lines if one["event"] == "request"] == ["ops"]
    assert [one["event"] for one in lines if one.get("pipeline") == "etl" and one["event"] == "run accepted"]
    out = await send(guarded, "/sign-out", {})
    assert "Max-Age=0" in out.headers["set-cookie"]
    assert (await guarded.get("/")).status_code == 401
    assert (await send(guarded, "/pipelines/etl/start", fields)).status_code == 401
    secure = await sign_in(guarded, OPS, origin="https://pipelines.example.com")
    assert "Secure" in secure.headers["set-cookie"].split("; ")


async def test_a_key_that_is_none(guarded: httpx.AsyncClient) -> None:
    """Said on the form, without what was sent; a form of another site does not even get so far."""
    for wrong in (NEXT, "", "a b", "x" * 20_000):
        answer = await sign_in(guarded, wrong)
        assert answer.status_code == 401
        page = Page(answer)
        assert page.all("p", role="alert")
        assert "set-cookie" not in answer.headers
        assert not wrong or wrong not in answer.text
    answer = await sign_in(guarded, OPS, sec_fetch_site="cross-site")
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_guesses_are_slowed(database_url: str, keys_file: Path) -> None:
    """As many as the API bears, then 429, on a page."""
    chosen = settings(database_url, auth="apiKey", api_keys_file=keys_file, refusals_per_second=1)
    async with answering(create_app(chosen, transport=PrefectWire())) as client:
        statuses = [(await sign_in(client, f"{NEXT}{number}")).status_code for number in range(6)]
        answer = await sign_in(client, f"{NEXT}x")
    assert statuses[0] == 401
    assert statuses[-1] == answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert "too many requests" in Page(answer).text


async def test_a_session_ends_with_its_key_and_with_its_time(keys_file: Path) -> None:
    """What stands for a key is worth nothing once the key is gone, or later, or longer than it was given."""
    keys = ApiKeys(keys_file)
    session = keys.session(Headers({"x-api-key": OPS}))
    until, _, proof = session.partition(".")

    def nobody_doubts() -> None:
        """Nothing is asked of anybody else."""

    assert (await keys.resume(session, doubt=nobody_doubts)).name == "ops"
    later = f"{int(until, 16) + 1:x}"
    for wrong in ("", "x", until, f"{later}.{proof}", f"{until}.{'0' * 64}", session + "0", f"{until}.{proof.upper()}"):
        with pytest.raises(Exception, match="sign in again"):
            await keys.resume(wrong, doubt=nobody_doubts)
    write(keys_file, {"name": "viewer", "key": VIEWER})
    keys.look()
    with pytest.raises(Exception, match="sign in again"):
        await keys.resume(session, doubt=nobody_doubts)


async def test_rights_are_those_of_the_key(guarded: httpx.AsyncClient, db: AsyncEngine) -> None:
    """What one may not do is not offered, and refused all the same; what one may not know of is not there."""
    await keep(db, [a_run("etl", YESTERDAY), run := a_run("other", YESTERDAY)])
    await sign_in(guarded, VIEWER)
    assert "other" not in Page(await guarded.get("/")).text.replace("another", "")
    page = Page(await guarded.get(DAY))
    assert [one["action"] for one in page.all("form")] == ["../../sign-out"]
    token = Forms(str(guarded.base_url)).token(type("V", (), {"name": "viewer"})(), None)
    for path in ("start", "backfill", f"cancel/{uuid4()}", "nowhere"):
        answer = await send(guarded, f"/pipelines/etl/{path}", {"token": token})
        assert answer.status_code == 403, path
        assert "the key viewer may not" in Page(answer).text
    for path in ("/pipelines/other", f"/pipelines/other/runs/{run['run_id']}"):
        answer = await guarded.get(path)
        assert answer.status_code == 404
        assert Page(answer).text.count("there is: etl") == 1


async def test_a_form_belongs_to_the_session_it_was_shown_to(guarded: httpx.AsyncClient, db: AsyncEngine) -> None:
    """The same caller, signed in elsewhere, cannot use it."""
    await sign_in(guarded, OPS)
    fields = Page(await guarded.get(DAY)).form("/start")
    await asyncio.sleep(1.1)
    await sign_in(guarded, OPS)
    assert (await send(guarded, "/pipelines/etl/start", fields)).status_code == 403
    assert await count(db) == 0


async def test_a_token_of_the_cluster_signs_in(database_url: str, db: AsyncEngine) -> None:
    """RBAC decides what is offered, by the rights of the API's own paths."""
    wire = ReviewsWire()
    wire.rules[CI_NAME] = [
        ("get", "/orchestrator/api/pipelines"),
        ("get", "/orchestrator/api/etl/runs"),
        ("post", "/orchestrator/api/etl/start"),
    ]
    await keep(db, [run := a_run("etl", YESTERDAY)])
    async with behind_tokens(database_url, wire) as client:
        assert (await sign_in(client, CI[:-1])).status_code == 401
        assert (await sign_in(client, CI)).status_code == 303
        page = Page(await client.get("/"))
        assert CI_NAME in page.text
        assert "of 1 pipeline" in page.text
        page = Page(await client.get(DAY))
        assert [one["action"] for one in page.all("form")] == ["../../sign-out", "../../pipelines/etl/start"]
        shown = Page(await client.get(f"/pipelines/etl/runs/{run['run_id']}"))
        assert "The log cannot be shown: you may not read it" in shown.text
        fields = page.form("/start")
        run_of(await send(client, "/pipelines/etl/start", fields))
        answer = await send(client, "/pipelines/etl/backfill", fields)
        assert answer.status_code == 403
        assert "/orchestrator/api/etl/backfill" in Page(answer).text


async def test_the_page_hears_of_changes(database_url: str, keys_file: Path, db: AsyncEngine) -> None:
    """An event names the pipelines that changed, of those that one may read, and nothing else."""
    wire = PrefectWire()
    more: dict[str, Any] = {"pipelines": BOTH, "auth": "apiKey", "api_keys_file": keys_file}
    async with listening(database_url, wire, **more) as client:
        await sign_in(client, VIEWER)
        async with client.stream("GET", "/live") as answer, asyncio.timeout(20):
            assert answer.headers["content-type"].startswith("text/event-stream")
            headers = {"authorization": f"Bearer {OPS}"}
            assert (await client.post("/api/etl/start", headers=headers)).status_code == 202
            async for event in received(answer):
                if event.get("event") == "change":
                    assert event["data"] == "etl"
                    break
