"""What `helm test` runs: one run of a pipeline through the orchestrator, as any caller starts one.

Python's standard library alone: it is read from a ConfigMap into whichever image is there. TRIAL_* variables tell it
what to do; what it finds is a line each, and its exit code is 0 only where all of it is as it should be.
"""

import http.client
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

URL = os.environ["TRIAL_URL"]
PIPELINE = os.environ["TRIAL_PIPELINE"]
AUTH = os.environ.get("TRIAL_AUTH", "none")
SECONDS = float(os.environ.get("TRIAL_SECONDS", "240"))
DEADLINE = time.monotonic() + SECONDS

ANSWER_SECONDS = 15
PAUSE_SECONDS = 1
METRICS_SECONDS = 30
OVER = frozenset({"Completed", "Failed", "Crashed", "Cancelled"})
ROWS = re.compile(r"(\d+) rows")

# Nothing between this pod and the orchestrator is a proxy's business.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def say(mark: str, text: str) -> None:
    sys.stdout.write(f"{mark} {text}\n")
    sys.stdout.flush()


def fail(text: str) -> NoReturn:
    say("✗", text)
    sys.exit(1)


def credential() -> dict[str, str]:
    """The header that the orchestrator's door asks for; a token is read each time, because the kubelet renews it."""
    if AUTH == "apiKey":
        key = os.environ.get("TRIAL_API_KEY", "").strip()
        if not key:
            fail(
                "orchestrator.auth.mode is apiKey, and this test has no key: name a Secret that holds one in"
                " tests.apiKey.existingSecret, whose rights are read and start in the pipeline " + PIPELINE
            )
        return {"Authorization": f"Bearer {key}"}
    if AUTH == "kubernetes":
        return {"Authorization": f"Bearer {Path(os.environ['TRIAL_TOKEN_FILE']).read_text().strip()}"}
    return {}


def ask(path: str, *, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None) -> str:
    """The answer's text, asked for again while nobody answers or the answer may become another, until the deadline."""
    data = None if body is None else json.dumps(body).encode()
    while True:
        request = urllib.request.Request(  # noqa: S310 - the chart's own URL
            URL + path, data=data, headers={"Content-Type": "application/json", **credential(), **(headers or {})}
        )
        try:
            with opener.open(request, timeout=ANSWER_SECONDS) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as exc:
            told = f"{exc.code} {detail(exc)}"
            if exc.code < 500 and exc.code != 429:
                fail(f"{request.get_method()} {path} is refused: {told}")
        except (OSError, http.client.HTTPException) as exc:
            told = str(getattr(exc, "reason", exc)) or type(exc).__name__
        if time.monotonic() > DEADLINE:
            fail(f"{request.get_method()} {path} had no good answer within {SECONDS:g} s; the last was: {told}")
        time.sleep(PAUSE_SECONDS)


def detail(error: urllib.error.HTTPError) -> str:
    """What a problem document says."""
    text = error.read().decode(errors="replace")
    try:
        return str(json.loads(text)["detail"])
    except (ValueError, KeyError, TypeError):
        return text[:300]


def start() -> str:
    """Have a run accepted, once, however often that is asked for."""
    day = os.environ.get("TRIAL_LOGICAL_DATE")
    key = {"Idempotency-Key": f"helm-test-{uuid.uuid4()}"}
    answer = json.loads(ask(f"/api/{PIPELINE}/start", body={"logical_date": day} if day else {}, headers=key))
    return str(answer["run_id"])


def outcome(run_id: str) -> dict[str, Any]:
    """The run's status once it is over; each state on the way is said, and what holds it."""
    began, said = time.monotonic(), ""
    while True:
        status: dict[str, Any] = json.loads(ask(f"/api/{PIPELINE}/status/{run_id}"))
        held = f": {why(status)}" if status["reason"] else ""
        if said != (said := f"{status['state_name']}{held}"):
            say(" ", f"{time.monotonic() - began:5.1f} s  {said}")
        if status["state"] in OVER:
            return status
        if time.monotonic() > DEADLINE:
            fail(f"run {run_id} was not over within {SECONDS:g} s, and is {said}; see tests.timeoutSeconds")
        time.sleep(PAUSE_SECONDS)


def why(status: Mapping[str, Any]) -> str:
    reason = status["reason"]
    return f"{reason['id']} {reason['title']}, {reason['detail']}; fix: {reason['fix']}" if reason else "no reason told"


def judge(status: Mapping[str, Any]) -> None:
    """Completed under that very name, and with rows, where the flow says how many."""
    message = status["message"] or ""
    if status["state"] != "Completed":
        fail(f"the run ended {status['state_name']}: {message or 'no message'} ({why(status)})")
    if status["state_name"] != "Completed":
        fail(f"the run is Completed, but {status['state_name']}: {message}")
    rows = ROWS.search(message)
    if rows and int(rows[1]) == 0:
        fail(f"the run is Completed and loaded nothing: {message}")
    say("✓", f"Completed in {(status['duration_ms'] or 0) / 1000:.1f} s: {message or 'no message'}")


def counted(status: Mapping[str, Any]) -> None:
    """The metrics know of it: a Completed run is counted, and the last success is this run's end, or a later one's.

    Each replica counts what it wrote down itself, and any may answer: asked again until one says so.
    """
    ended = datetime.fromisoformat(status["ended_at"]).timestamp()
    until = min(DEADLINE, time.monotonic() + METRICS_SECONDS)
    while True:
        text = ask("/metrics")
        completed = metric(text, "orchestrator_run_states_total", state="Completed")
        success = metric(text, "orchestrator_last_success_timestamp_seconds")
        # To the second: a float carries no more of today's microseconds than it must.
        if completed and success is not None and success >= ended - 1:
            return say(
                "✓",
                f"/metrics counts it: {completed:g} runs of {PIPELINE} Completed, the last at its end or later",
            )
        if time.monotonic() > until:
            fail(f"/metrics does not count it: Completed {completed}, last success {success}, this run's end {ended}")
        time.sleep(PAUSE_SECONDS)


def metric(text: str, name: str, **labels: str) -> float | None:
    """A sample of this pipeline."""
    wanted = {"pipeline": PIPELINE, **labels}
    for found, value in re.findall(rf"^{name}\{{(.*)\}} (\S+)$", text, flags=re.MULTILINE):
        if dict(re.findall(r'(\w+)="([^"]*)"', found)) == wanted:
            return float(value)
    return None


def main() -> None:
    """All of it."""
    ask("/readyz")
    say("✓", f"{URL} is ready")
    run_id = start()
    say("✓", f"run {run_id} of {PIPELINE} is accepted")
    status = outcome(run_id)
    judge(status)
    counted(status)


if __name__ == "__main__":
    main()
