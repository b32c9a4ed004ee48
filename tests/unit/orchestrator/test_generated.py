"""Requests generated from the OpenAPI document against the running application: thousands, seeded, and every check.

The ledger is a real one, Prefect is played at the wire. schemathesis sends what the document allows and what not, and
judges each answer by the document: statuses, media types, headers, schemas, refusals, methods, credentials, links.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .test_events import listening
from .test_keys import OPS, write
from .wire import PrefectWire

pytestmark = pytest.mark.processes

SEED = 20130101
EXAMPLES = 100
FEWEST = 2000
MOST_SECONDS = 900
STREAM_SECONDS = 0.2
# Whether a schema-valid start is accepted depends on more than a schema: on the calendar, and on the deployment's own.
LEFT_OUT = "positive_data_acceptance"


class Leaving:
    """The application to a caller who leaves an event stream soon: one that stayed would never see its end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/events"):
            await self._app(scope, receive, send)
            return
        asked = False
        unfinished = False

        async def left() -> Message:
            nonlocal asked
            if not asked:
                asked = True
                return await receive()
            await asyncio.sleep(STREAM_SECONDS)
            return {"type": "http.disconnect"}

        async def noted(message: Message) -> None:
            nonlocal unfinished
            unfinished = message["type"] == "http.response.start" or message.get("more_body", False)
            await send(message)

        await self._app(scope, left, noted)
        if unfinished:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def generated(url: str, report: Path, *, key: str) -> dict[str, Any]:
    """What a run of schemathesis reports; fails the test with its output where it found something."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        *("run", f"{url}/openapi.json", f"--report-json-path={report}", "--report=json"),
        *("--checks=all", f"--exclude-checks={LEFT_OUT}", f"--seed={SEED}", "--generation-database=none"),
        # One worker: threads that parse at the same time make Python 3.11 fail, https://github.com/python/cpython/issues/106905
        *("--workers=1", "--continue-on-failure", "--request-timeout=20", "--no-color"),
        *(f"--max-examples={EXAMPLES}", f"--header=Authorization: Bearer {key}"),
        cwd=report.parent,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), MOST_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        pytest.fail(f"the generated requests were not through after {MOST_SECONDS} s")
    assert process.returncode == 0, output.decode()[-20_000:]
    told: dict[str, Any] = json.loads(report.read_text())  # noqa: ASYNC240 -- written, and small
    return told


async def test_no_generated_request_breaks_the_document(
    database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 failures in at least 2,000 cases, behind a door of API keys; each route is reached, and none is left out."""
    keys = write(tmp_path / "keys.json", {"name": "ops", "key": OPS})
    limits = dict.fromkeys(("reads_per_second", "writes_per_second", "refusals_per_second"), 100_000)
    guarded: dict[str, Any] = {"auth": "apiKey", "api_keys_file": keys} | limits
    async with listening(database_url, PrefectWire(), around=Leaving, **guarded) as client:
        told = await generated(str(client.base_url).rstrip("/"), tmp_path / "report.json", key=OPS)
    assert told["operations"]["tested"] == told["operations"]["total"] >= 15
    assert told["failures"] == told["errors"] == []
    assert {phase["status"] for phase in told["phases"].values()} == {"success"}
    cases = told["test_cases"]["generated"] - told["test_cases"]["without_checks"]
    with capsys.disabled():
        print(f"\n{cases} generated cases in {told['running_time']:.0f} s, seed {SEED}: 0 failures")  # noqa: T201
    assert cases >= FEWEST, f"{cases} cases were checked"
