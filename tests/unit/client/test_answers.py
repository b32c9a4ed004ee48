"""Why, logs, backfill, calendar: what the command makes of the API's answers."""

import asyncio
import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

from ..orchestrator.conftest import eventually
from ..orchestrator.wire import PrefectWire, refused
from .running import Pipelines, finished
from .test_runs import moved, started

REFUSED = "Flow run encountered an exception: SourceRefused: GET /flights?date={} answered 404"


async def failed(pipelines: Pipelines, wire: PrefectWire, day: str) -> str:
    """A run that failed and is explained."""
    run_id: str = (await started(pipelines, "--date", day))["run_id"]
    await moved(pipelines, wire, run_id, "RUNNING", "FAILED", message=REFUSED.format(day))

    async def explained() -> Any:
        return (await pipelines("status", run_id, "--json")).json["reason"]

    await eventually(explained, within=60, what="the failure is explained")
    return run_id


async def test_why_names_the_cause_and_what_to_do(pipelines: Pipelines, wire: PrefectWire) -> None:
    """The typed reason, the last error of the log, whether it is a known one, and commands."""
    await failed(pipelines, wire, "2013-01-14")
    run_id = await failed(pipelines, wire, "2013-01-15")
    flow_run_id = (await pipelines("status", run_id, "--json")).json["flow_run_id"]
    wire.say(flow_run_id, "Encountered an exception during execution:\nTraceback\n  x\nSourceRefused: 404\n", level=40)
    wire.say(flow_run_id, "Finished in state Failed()", level=40)
    for meant in ([run_id], ["2013-01-15"], []):
        done = await pipelines("why", *meant, "--json")
        assert done.code == 0, done.err
        told = done.json
        assert (told["run"]["run_id"], told["reason"]["id"]) == (run_id, "PL102")
        assert told["last_error"]["line"] == "SourceRefused: 404"
        assert (told["same_earlier"], told["same_first"], told["looked_through"]) == (1, "2013-01-14", 1)
        assert told["commands"] == [told["reason"]["fix"], "pipelines start etl --date 2013-01-15 --watch"]
    shown = (await pipelines("why")).out
    for line in (
        "etl of 2013-01-15: Failed after",
        "PL102 Source refused\n",
        "  SourceRefused: 404\n",
        "same as 1 earlier failure, the first about 2013-01-14\n",
        "  pipelines start etl --date 2013-01-15 --watch\n",
    ):
        assert line in shown
    assert "the first of its kind in 1 runs" in (await pipelines("why", "2013-01-14")).out


async def test_why_without_a_failure(pipelines: Pipelines, wire: PrefectWire) -> None:
    """Nothing is explained that needs no explanation, and a log that cannot be read does not hide the cause."""
    assert (await pipelines("why")).code == 1
    run = await started(pipelines)
    await moved(pipelines, wire, run["run_id"], "RUNNING", "COMPLETED")
    assert (await pipelines("why")).code == 1
    done = await pipelines("why", run["run_id"])
    assert done.code == 0
    assert "there is nothing to explain" in done.out
    run_id = await failed(pipelines, wire, "2013-01-15")
    wire.fault = refused
    done = await pipelines("why", run_id, "--json")
    assert (done.json["reason"]["id"], done.json["last_error"]) == ("PL102", None)
    assert "log cannot be read now" in done.err


async def test_logs_are_shown_whole_and_followed(pipelines: Pipelines, wire: PrefectWire) -> None:
    """Page after page; as JSON in one document; followed, a line each, until the run is over."""
    run = await started(pipelines)
    await moved(pipelines, wire, run["run_id"], "RUNNING")
    flow_run_id = next(iter(wire.flow_runs))
    began = datetime.now(UTC) - timedelta(minutes=10)
    for number in range(250):
        wire.say(flow_run_id, f"line {number}", at=began + timedelta(milliseconds=number))
    wire.say(flow_run_id, '{"step": "load", "rows": 896}')
    wire.say(flow_run_id, "bad", level=40)
    shown = (await pipelines("logs")).out.splitlines()
    assert len(shown) == 252
    assert shown[0].endswith("INFO     line 0")
    assert shown[-2].endswith("INFO     load: rows 896")
    told = (await pipelines("logs", run["run_id"], "--json")).json
    assert len(told["lines"]) == 252
    errors = (await pipelines("logs", run["run_id"], "--level", "error", "--json")).json["lines"]
    assert [line["message"] for line in errors] == ["bad"]
    process = await pipelines.begin("logs", run["run_id"], "-f", "--tail", "2", "--json")
    await asyncio.sleep(3)
    wire.say(flow_run_id, "the last")
    wire.move(flow_run_id, "COMPLETED")
    wire.say(flow_run_id, "Finished in state Completed()")
    done = await finished(process, "logs", "-f", "--json")
    assert done.code == 0, done.err
    lines = [json.loads(line)["message"] for line in done.out.splitlines()]
    assert lines[1:] == ["bad", "the last", "Finished in state Completed()"]
    assert done.err.splitlines()[-1] == "-- Completed"
    wire.fault = refused
    away = await pipelines("logs", run["run_id"])
    assert away.code == 1
    assert "Prefect" in away.err


async def completing(wire: PrefectWire, failing: set[str]) -> None:
    """Prefect's part of a backfill: each run completes but those of some days."""
    while True:
        await asyncio.sleep(0.1)
        for flow_run in list(wire.flow_runs.values()):
            if flow_run["state"]["type"] == "SCHEDULED":
                wire.move(flow_run["id"], "RUNNING")
                day = flow_run["parameters"]["logical_date"]
                if day in failing:
                    wire.move(flow_run["id"], "FAILED", message=REFUSED.format(day))
                else:
                    wire.move(flow_run["id"], "COMPLETED")


RANGE = ("--from", "2013-01-01", "--to", "2013-01-05")


async def test_a_backfill_is_shown_confirmed_followed_and_judged(pipelines: Pipelines, wire: PrefectWire) -> None:
    """Nothing is started before somebody says yes; what failed is named, and the exit code says so."""
    shown = await pipelines("backfill", "etl", *RANGE, "--dry-run")
    assert shown.code == 0
    assert shown.out == (
        "5 of 5 dates, 4 at a time, mode missing\n  run  2013-01-01 … 2013-01-05 (5): no run of this date\n"
    )
    told = (await pipelines("backfill", "etl", *RANGE, "--dry-run", "--json")).json
    assert (told["preview"]["count"], told["backfill"], told["failed"]) == (5, None, [])
    unsure = await pipelines("backfill", "etl", *RANGE)
    assert (unsure.code, unsure.out) == (3, "")
    assert "--yes" in unsure.err
    assert (await pipelines("runs", "--json")).json["runs"] == []

    prefect = asyncio.create_task(completing(wire, {"2013-01-03"}))
    try:
        done = await pipelines("backfill", "etl", *RANGE, "--yes", "--json")
        assert done.code == 5, done.err
        assert done.json["backfill"]["counts"] == {"Completed": 4, "Failed": 1}
        assert [one["logical_date"] for one in done.json["failed"]] == ["2013-01-03"]
        assert "5 of 5: 4 Completed, 1 Failed" in done.err
        again = await pipelines("backfill", "etl", *RANGE, "--yes")
        assert again.code == 5
        assert "run  2013-01-03: the last run is Failed" in again.err
        assert "skip 2013-01-04 … 2013-01-05 (2): the last run is Completed" in again.err
        assert "--from 2013-01-01 --to 2013-01-05 --mode failed" in again.err
    finally:
        prefect.cancel()
    nothing = await pipelines("backfill", "etl", *RANGE, "--mode", "degraded", "--yes")
    assert (nothing.code, nothing.out) == (0, "there is nothing to do\n")


async def test_a_backfill_is_left_and_cancelled(pipelines: Pipelines) -> None:
    """It goes on without the command; its id ends it as a whole."""
    late = await pipelines("backfill", "etl", *RANGE, "--yes", "--timeout", "1")
    assert late.code == 3
    backfill_id = late.err.split("backfill ")[1].split()[0]
    assert f"pipelines cancel {backfill_id}" in late.err
    done = await pipelines("cancel", backfill_id, "--json")
    assert (done.code, done.json["kind"], done.json["id"]) == (0, "backfill", backfill_id)
    assert done.json["state"] in {"cancelling", "cancelled"}
    assert (await pipelines("cancel", "00000000-0000-0000-0000-000000000007")).code == 1
    one = ("--from", "2013-02-01", "--to", "2013-02-01", "--runs-per-pod", "3")
    accepted = await pipelines("backfill", "etl", *one, "--yes", "--no-wait")
    assert "4 at a time, 3 in a pod, mode missing" in accepted.err
    assert accepted.code == 0
    assert accepted.out.endswith("is accepted\n")


async def test_a_calendar_has_a_letter_a_day(pipelines: Pipelines, wire: PrefectWire) -> None:
    """Of the day's last run; the whole range is there, days without a run too."""
    first = await started(pipelines, "--date", "2013-01-02")
    await moved(pipelines, wire, first["run_id"], "FAILED")
    again = await started(pipelines, "--date", "2013-01-02")
    await moved(pipelines, wire, again["run_id"], "COMPLETED", name="Degraded")
    await started(pipelines, "--date", "2013-01-03")
    told = (await pipelines("calendar", "--from", "2013-01-01", "--to", "2013-01-08", "--json")).json
    assert [day["date"] for day in told["days"]] == [f"2013-01-0{number}" for number in range(1, 9)]
    assert told["days"][1] == {
        "date": "2013-01-02",
        "state": "Completed",
        "state_name": "Degraded",
        "run_id": again["run_id"],
        "runs": 2,
    }
    shown = (await pipelines("calendar", "--from", "2013-01-01", "--to", "2013-01-08")).out
    assert shown == (
        "etl, the last run of each day\n"
        "            Mo Tu We Th Fr Sa Su\n"
        "2012-12-31      .  D  R  .  .  .\n"
        "2013-01-07   .  .\n"
        "D Degraded: 1, R not over: 1, . no run: 6\n"
    )
    usual = (await pipelines("calendar", "--json")).json["days"]
    assert usual[-1]["date"] == datetime.now().astimezone().date().isoformat()
    assert date.fromisoformat(usual[0]["date"]).weekday() == 0
    assert (await pipelines("calendar", "--from", "2013-01-02", "--to", "2013-01-01")).code == 2
