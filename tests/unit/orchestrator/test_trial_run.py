"""The script of `helm test`, as its pod runs it: against the service as a process on a real Prefect server."""

import asyncio
import json
import os
import secrets
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from .conftest import eventually
from .test_command import serving, wait_for
from .test_with_prefect import Prefect, prefect

__all__ = ["prefect"]  # a fixture of the whole path's tests, used here by name

pytestmark = pytest.mark.processes

SCRIPT = Path(__file__).parents[3] / "charts" / "pipelines" / "files" / "trial-run.py"
KEY, READER = secrets.token_hex(32), secrets.token_hex(32)
KEYS = {
    "keys": [
        {"name": "trial", "key": KEY, "may": {"etl": ["read", "start"]}},
        {"name": "reader", "key": READER, "may": {"etl": ["read"]}},
    ]
}


@dataclass(frozen=True)
class Told:
    """What the script left behind."""

    code: int
    text: str


async def trial(url: str, **variables: str) -> Told:
    """The script, to its end."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRIAL_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        env=environment | {"TRIAL_URL": url, "TRIAL_PIPELINE": "etl", "TRIAL_SECONDS": "180"} | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(240):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return Told(process.returncode, output.decode())


@pytest.fixture
async def url(
    tmp_path: Path, database_url: str, free_port: int, prefect: Prefect, request: pytest.FixtureRequest
) -> AsyncIterator[str]:
    """The service; behind keys, for /metrics too, where a test asks for that."""
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(KEYS))
    door = {
        "ORCHESTRATOR_AUTH": "apiKey",
        "ORCHESTRATOR_METRICS_OPEN": "false",
        "ORCHESTRATOR_API_KEYS_FILE": str(keys),
    }
    pipelines = json.dumps([{"name": "etl", "deployment": prefect.deployment}])
    with serving(
        tmp_path,
        free_port,
        ORCHESTRATOR_DATABASE_URL=database_url,
        ORCHESTRATOR_PREFECT_API_URL=prefect.api,
        ORCHESTRATOR_PREFECT_AUTH_STRING=None,
        ORCHESTRATOR_PIPELINES=pipelines,
        ORCHESTRATOR_POLL_SECONDS="0.1",
        **(door if getattr(request, "param", "none") == "apiKey" else {}),
    ):
        base = f"http://127.0.0.1:{free_port}"
        await asyncio.to_thread(wait_for, f"{base}/healthz", within=180)
        yield base


@asynccontextmanager
async def worked(url: str, prefect: Prefect, *states: tuple[str, str | None, str | None]) -> AsyncIterator[list[str]]:
    """A worker's part: the next run of the service is taken through these states; its logical date, once it came."""
    days: list[str] = []

    async def work() -> None:
        reader = {"X-API-Key": READER}
        async with httpx.AsyncClient(base_url=url, headers=reader, timeout=60, trust_env=False) as client:

            async def handed_over() -> str | None:
                listed = await client.get("/api/etl/runs", params={"state": "Scheduled"})
                [run] = listed.raise_for_status().json()["runs"] or [{"flow_run_id": None}]
                days[:] = [run["logical_date"]] if run["flow_run_id"] else []
                return run["flow_run_id"]  # type: ignore[no-any-return]

            flow_run_id = await eventually(handed_over, within=180, what="the run is handed over")
        for state, name, message in states:
            await prefect.move(flow_run_id, state, name, message)

    task = asyncio.create_task(work())
    try:
        yield days
        await task
    finally:
        task.cancel()


BEGUN = (("PENDING", None, None), ("RUNNING", None, None))


async def test_a_run_that_completes_is_a_test_that_passes(url: str, prefect: Prefect) -> None:
    """Ready, accepted, each state, the rows, the metrics: a line each. The day is the one asked for."""
    async with worked(url, prefect, *BEGUN, ("COMPLETED", None, "2013-01-15: 890 rows loaded, 0 rejected")) as days:
        told = await trial(url, TRIAL_LOGICAL_DATE="2013-01-15")
    assert told.code == 0, told.text
    assert days == ["2013-01-15"]
    assert "of etl is accepted" in told.text
    assert "890 rows loaded, 0 rejected" in told.text
    assert "/metrics counts it: 1 runs of etl Completed" in told.text
    assert "✗" not in told.text


ENDINGS = [
    (("FAILED", None, "the source answers 503"), "the run ended Failed: the source answers 503"),
    (("COMPLETED", "Degraded", "the day keeps 890 flights"), "Completed, but Degraded: the day keeps"),
    (("COMPLETED", None, "2013-01-15: 0 rows loaded, 0 rejected"), "Completed and loaded nothing"),
    (("CANCELLED", None, "by hand"), "the run ended Cancelled: by hand"),
]


async def test_any_other_end_is_a_test_that_fails(url: str, prefect: Prefect) -> None:
    """And says which end, with Prefect's word on it."""
    for last, says in ENDINGS:
        async with worked(url, prefect, *BEGUN, last):
            told = await trial(url)
        assert told.code == 1, told.text
        assert says in told.text
        assert "/metrics counts it" not in told.text


async def test_a_run_that_nothing_executes_is_given_up_in_time(url: str) -> None:
    """The last line names its state, and the value that gives it longer."""
    told = await trial(url, TRIAL_SECONDS="4")
    assert told.code == 1
    last = told.text.splitlines()[-1]
    assert "was not over within 4 s, and is Scheduled" in last
    assert "tests.timeoutSeconds" in last


async def test_an_orchestrator_that_does_not_answer_is_named(free_port: int) -> None:
    """After the time, with the last reason."""
    told = await trial(f"http://127.0.0.1:{free_port}", TRIAL_SECONDS="2")
    assert told.code == 1
    assert "GET /readyz had no good answer within 2 s" in told.text
    assert "refused" in told.text


@pytest.mark.parametrize("url", ["apiKey"], indirect=True)
async def test_a_key_opens_the_way(url: str, prefect: Prefect) -> None:
    """One that may read and start this pipeline is enough; none, a wrong one and a poorer one are told apart."""
    missing = await trial(url, TRIAL_AUTH="apiKey")
    assert missing.code == 1
    assert "tests.apiKey.existingSecret" in missing.text
    wrong = await trial(url, TRIAL_AUTH="apiKey", TRIAL_API_KEY=secrets.token_hex(32))
    assert wrong.code == 1
    assert "POST /api/etl/start is refused: 401" in wrong.text
    poorer = await trial(url, TRIAL_AUTH="apiKey", TRIAL_API_KEY=READER)
    assert poorer.code == 1
    assert "the key reader may not start in the pipeline etl" in poorer.text
    async with worked(url, prefect, *BEGUN, ("COMPLETED", None, None)):
        told = await trial(url, TRIAL_AUTH="apiKey", TRIAL_API_KEY=f"{KEY}\n")
    assert told.code == 0, told.text


@dataclass
class Wire:
    """An orchestrator's side of the wire, whose answers are set here; the headers that came with each path."""

    url: str = ""
    answers: dict[str, str] = field(default_factory=dict)
    came: dict[str, list[str | None]] = field(default_factory=dict)


@pytest.fixture
def wire() -> Iterator[Wire]:
    told = Wire()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            told.came.setdefault(self.path, []).append(self.headers.get("authorization"))
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(told.answers[self.path].encode())

        do_GET = do_POST = answer  # noqa: N815 - the base class's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told.url = f"http://127.0.0.1:{server.server_port}"
        status = {"state": "Completed", "state_name": "Completed", "message": None, "reason": None, "duration_ms": 1}
        told.answers = {
            "/readyz": "{}",
            "/api/etl/start": json.dumps({"run_id": "one"}),
            "/api/etl/status/one": json.dumps(status | {"ended_at": "2026-03-02T08:00:41.730Z"}),
            "/metrics": "",
        }
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield told
        server.shutdown()
        thread.join()


COUNTED = 'orchestrator_run_states_total{pipeline="etl",state="Completed"} 3.0\n'
SUCCESS = 'orchestrator_last_success_timestamp_seconds{pipeline="etl"} '
ENDED = 1772438441.73


@pytest.mark.parametrize(
    ("metrics", "code"),
    [
        (f"{COUNTED}{SUCCESS}{ENDED}\n", 0),
        (f"{COUNTED}{SUCCESS}{ENDED + 60}\n", 0),
        (f"{COUNTED}{SUCCESS}{ENDED - 60}\n", 1),
        (f"{SUCCESS}{ENDED}\n", 1),
        (f"{COUNTED}{SUCCESS}{ENDED}\n".replace("etl", "other"), 1),
        ("", 1),
    ],
    ids=["this run", "a later one", "an earlier one", "none counted", "another pipeline", "nothing"],
)
async def test_metrics_that_disagree_fail_the_test(metrics: str, code: int, wire: Wire) -> None:
    """The run is Completed, and only what /metrics says of it decides."""
    wire.answers["/metrics"] = metrics
    told = await trial(wire.url, TRIAL_SECONDS="2")
    assert told.code == code, told.text
    assert ("/metrics does not count it" in told.text) is bool(code)


async def test_a_token_is_read_anew_for_each_request(wire: Wire, tmp_path: Path) -> None:
    """The kubelet puts another in its place."""
    token = tmp_path / "token"
    token.write_text("first\n")
    running = {"state": "Running", "state_name": "Running", "message": None, "reason": None}
    done = wire.answers["/api/etl/status/one"]
    wire.answers |= {"/api/etl/status/one": json.dumps(running), "/metrics": f"{COUNTED}{SUCCESS}{ENDED}\n"}

    async def renewed() -> None:
        async def asked() -> bool:
            return "/api/etl/status/one" in wire.came

        await eventually(asked, within=30, what="the run's status is asked for")
        token.write_text("second\n")
        wire.answers["/api/etl/status/one"] = done

    told, _ = await asyncio.gather(trial(wire.url, TRIAL_AUTH="kubernetes", TRIAL_TOKEN_FILE=str(token)), renewed())
    assert told.code == 0, told.text
    assert wire.came["/readyz"] == ["Bearer first"]
    assert wire.came["/metrics"] == ["Bearer second"]
