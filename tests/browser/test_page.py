"""The page as somebody uses it in the morning, in a real browser: by mouse, by keys alone, with and without scripts."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conftest import Postgres
from tests.unit.orchestrator.test_keys import OPS, write

from .conftest import LAST_LINE, RED, YESTERDAY, Morning, listening, serving
from .conftest import Wire as PrefectServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

IMAGES = Path(__file__).parents[2] / "docs" / "images"
MOST_BYTES = 150_000
SCHEMES = ("light", "dark")


def in_sight(page: "Page", text: str) -> None:
    """The text stands on the first screen: nothing was clicked or scrolled."""
    found = page.get_by_text(text).first
    box = found.bounding_box()
    assert box is not None, f"{text} is not on the page"
    assert box["y"] + box["height"] <= 800, f"{text} is below the first screen: {box}"


def test_why_yesterday_failed_is_on_the_first_screen(plain: "Page", morning: Morning) -> None:
    """The reason without a click, its log line by one; no script runs."""
    plain.goto(morning.url)
    in_sight(plain, "PL101 Source unavailable")
    in_sight(plain, f"etl, {YESTERDAY}")
    in_sight(plain, "prefect flow-run logs")
    plain.locator(".item.F").first.get_by_role("link", name="Log").click()
    assert plain.url.endswith(f"/runs/{morning.failed}#log")
    line = plain.locator("ol.log li", has_text=LAST_LINE)
    assert line.is_visible()
    assert "error" in (line.get_attribute("class") or "")
    steps = plain.get_by_role("row", name=re.compile("step start"))
    assert steps.count() == 1
    assert plain.get_by_role("link", name="In Prefect").get_attribute("href", timeout=1000)


def test_what_is_degraded_and_what_is_stuck(plain: "Page", morning: Morning) -> None:
    """Each with what was said and a command; the stuck one says who is missing."""
    plain.goto(morning.url)
    degraded = plain.locator(".item.D")
    assert "kept the 1,204 invoices" in degraded.inner_text()
    assert "--mode degraded" in degraded.inner_text()
    held = plain.locator(".item.H")
    assert "PL001 No worker online" in held.inner_text()
    held.get_by_role("link").first.click()
    assert plain.url.endswith(morning.stuck)
    assert "prefect worker start --pool pipelines" in plain.locator(".cmd").first.inner_text()


def test_a_backfill_from_a_red_date_in_three(plain: "Page", morning: Morning) -> None:
    """The date, the plan, confirmed: three clicks, without scripts."""
    plain.goto(morning.url)
    plain.get_by_title(f"{RED} Failed").first.click()
    plain.get_by_role("button", name="Backfill: show the plan").click()
    assert "1 of 1 date would run" in plain.inner_text("main")
    plain.get_by_role("button", name="Run exactly this").click()
    assert re.search(r"/backfill/[0-9a-f-]{36}$", plain.url)
    assert "1 run" in plain.inner_text("main")
    listed = httpx.get(f"{morning.url}/api/etl/runs", params={"logical_date": f"{RED}"}, trust_env=False).json()
    assert len(listed["runs"]) == 2


def test_by_keys_alone(page: "Page", morning: Morning) -> None:
    """The skip link first, every control reachable and seen, a command copied, a run opened and left again."""
    page.goto(morning.url)
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    assert skip.inner_text() == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")
    wanted = page.locator("main").locator("a[href], button:visible, [tabindex='0']").count()
    reached = 0
    while page.evaluate("document.activeElement.closest('main') !== null"):
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", page.evaluate("document.activeElement.outerHTML")
        reached += 1
        assert reached <= wanted
        page.keyboard.press("Tab")
    assert reached == wanted
    page.goto(morning.url)
    page.locator(f"main a[href$='{morning.failed}']").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/runs/{morning.failed}")
    assert page.get_by_role("heading", level=1).inner_text() == f"etl, {YESTERDAY}"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_barrier_that_axe_knows(browser: "Browser", morning: Morning, scheme: Any) -> None:
    """0 violations on each kind of page, in both schemes."""
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415 -- with playwright

    context = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 800})
    page = context.new_page()
    for address in morning.pages:
        page.goto(address)
        result = Axe().run(page)
        assert result.violations_count == 0, f"{scheme} {address}: {result.generate_report()}"
    context.close()


def test_nothing_is_asked_of_another_host(page: "Page", morning: Morning) -> None:
    """Every request stays here, the policy is broken by nothing, and no script complains."""
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in {"error", "warning"} else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for address in morning.pages:
        page.goto(address)
        page.wait_for_load_state("load")
    assert {urlsplit(one).netloc for one in asked if not one.startswith("data:")} == {urlsplit(morning.url).netloc}
    assert any(one.endswith("/live") for one in asked)
    # the last page is a refusal on purpose, which the console tells
    assert [one for one in complaints if "422" not in one] == []


def test_the_page_follows_what_happens(page: "Page", morning: Morning) -> None:
    """A run that is accepted elsewhere shows in its day, without a reload; focus stays where it was."""
    page.goto(morning.url)
    page.get_by_text(", live").wait_for()
    day = YESTERDAY.fromordinal(YESTERDAY.toordinal() - 1)
    page.get_by_title(f"{day} Completed").first.focus()
    page.evaluate("window.unchanged = true")
    made = httpx.post(f"{morning.url}/api/etl/start", json={"logical_date": f"{day}"}, trust_env=False).json()["run_id"]
    page.get_by_title(f"{day} not over").first.wait_for(timeout=15_000)
    assert page.evaluate("window.unchanged") is True
    assert page.evaluate("document.activeElement.title").startswith(f"{day}")
    httpx.post(f"{morning.url}/api/etl/cancel/{made}", trust_env=False).raise_for_status()


def test_a_day_of_the_year_under_the_pointer(page: "Page", morning: Morning) -> None:
    """The drawing of a year leads to the day that was clicked."""
    page.goto(morning.url)
    drawing = page.locator(".y svg").first
    told = json.loads(page.evaluate("JSON.stringify(document.querySelector('.y svg').dataset)"))
    box = drawing.bounding_box()
    assert box is not None
    drawing.click(position={"x": box["width"] * 3.5 / 53, "y": box["height"] * 2.5 / 7})
    page.wait_for_url("**/pipelines/etl/20*")
    since = YESTERDAY.fromisoformat(told["from"])
    assert page.url.endswith(f"{since.fromordinal(since.toordinal() + 3 * 7 + 2)}")


@pytest.fixture(scope="module")
def guarded(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Another orchestrator, behind a door of API keys."""
    tmp_path = tmp_path_factory.mktemp("guarded")
    keys = write(tmp_path / "keys.json", {"name": "ops", "key": OPS})
    door = {"AUTH": "apiKey", "API_KEYS_FILE": str(keys)}
    with listening(PrefectServer()) as prefect, serving(postgres.create_database(), prefect, tmp_path, **door) as url:
        yield url


def test_a_key_signs_in_and_starts_a_run(browser: "Browser", guarded: str) -> None:
    """A browser's own cookie, form and origin; scripts cannot read it, and signing out ends it."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(guarded)
    page.get_by_label("Key").fill(OPS)
    page.get_by_role("button", name="Sign in").click()
    assert "ops" in page.inner_text("header")
    [cookie] = context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert OPS not in json.dumps(context.cookies())
    assert page.evaluate("document.cookie") == ""
    page.goto(f"{guarded}/pipelines/etl/{YESTERDAY}")
    page.get_by_role("button", name=f"Start a run of {YESTERDAY}").click()
    page.wait_for_url("**/runs/*")
    assert page.get_by_role("heading", level=1).inner_text() == f"etl, {YESTERDAY}"
    page.get_by_role("button", name="Sign out").click()
    page.goto(guarded)
    assert page.get_by_label("Key").count() == 1
    context.close()


@pytest.mark.skipif(os.environ.get("SCREENSHOTS") != "1", reason="`make screenshots` takes them")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_screenshots(browser: "Browser", morning: Morning, scheme: Any) -> None:
    """What the README shows: the first screen, and a run."""
    IMAGES.mkdir(exist_ok=True)
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1200, "height": 900})
    page = context.new_page()
    for name, address in (("page", f"{morning.url}/"), ("run", f"{morning.url}/pipelines/etl/runs/{morning.failed}")):
        page.goto(address)
        page.wait_for_load_state("load")
        file = IMAGES / f"{name}-{scheme}.png"
        page.screenshot(path=file)
        assert file.stat().st_size <= MOST_BYTES, f"{file} has {file.stat().st_size} bytes"
    context.close()
