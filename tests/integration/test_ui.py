"""Pages on the cluster, in a real browser through port-forwards: the platform's own, and Prefect's."""

import base64
import json
from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import chromium

from .platform import Kubectl, Platform, Release

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

RUN_SECONDS = 180
SHOWN_SECONDS = 60
DAY = date(2013, 3, 14)


@pytest.fixture(scope="module")
def page() -> Iterator["Page"]:
    """A page of Chromium."""
    reason = chromium.missing()
    if reason is not None:
        if chromium.required():
            pytest.fail(f"REQUIRE_BROWSER=1, but {reason}")
        pytest.skip(f"no browser: {reason}")
    with chromium.running() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(SHOWN_SECONDS * 1000)
        yield page


@pytest.fixture(scope="module")
def run(release: Release) -> dict[str, Any]:
    """A run that is Completed; by port-forwards of its own, for the pods behind older ones may have been replaced."""
    with Platform.connect(release) as platform:
        run = platform.finished(platform.start({"logical_date": DAY.isoformat()}), within=RUN_SECONDS)
    assert run["state"] == "Completed", run
    return run


def test_the_platforms_page_tells_of_a_run(release: Release, kubectl: Kubectl, page: "Page", run: Any) -> None:
    """Its steps, its log and its artifact, read from Prefect in the cluster."""
    with kubectl.port_forward(f"service/{release.name}-orchestrator", 8080) as url:
        page.goto(f"{url}/pipelines/etl/runs/{run['run_id']}")
        assert page.get_by_role("heading", level=1).inner_text() == f"etl, {DAY}"
        text = page.inner_text("main")
    for told in ("Completed", "step load", "rows loaded", run["correlation_id"]):
        assert told in text, told


def test_prefects_page_shows_the_deployment_its_schedule_and_a_run(
    release: Release, kubectl: Kubectl, page: "Page", run: Any
) -> None:
    """As whoever opens it by a port-forward sees it, with the credential that the Secret holds."""
    credential = kubectl.secret(f"{release.name}-prefect-auth", "auth-string")
    with kubectl.port_forward(f"service/{release.name}-prefect-server", 4200) as url:

        def told_where(route: "Route") -> None:
            # the page looks for its API on the port that the values name, not on the one that was free here
            answer = route.fetch()
            route.fulfill(response=answer, body=json.dumps(answer.json() | {"api_url": f"{url}/api"}))

        page.route("**/ui-settings", told_where)
        kept = base64.b64encode(credential.encode()).decode()
        page.add_init_script(f"localStorage.setItem('prefect-password', {json.dumps(kept)})")
        page.goto(f"{url}/deployments")
        page.get_by_role("link", name="daily-0900").first.click()
        page.get_by_text("09:00").first.wait_for()
        page.goto(f"{url}/runs/flow-run/{run['flow_run_id']}")
        page.get_by_text("Completed").first.wait_for()
        page.get_by_text("Artifacts").first.click()
        page.get_by_text("daily-job").first.wait_for()
