"""Runs by the command: started, asked about, listed, cancelled."""

import asyncio
import csv
import io
from typing import Any

import httpx
import pytest

from ..orchestrator.conftest import eventually
from ..orchestrator.test_events import listening
from ..orchestrator.test_keys import CI, OPS, write
from ..orchestrator.wire import PrefectWire, saying
from .running import Pipelines, finished


async def started(pipelines: Pipelines, *arguments: str) -> dict[str, Any]:
    """A run that was begun by the command."""
    done = await pipelines("start", "etl", "--json", *arguments)
    assert done.code == 0, done.err
    run: dict[str, Any] = done.json
    return run


async def moved(pipelines: Pipelines, wire: PrefectWire, run_id: str, *states: str, **more: Any) -> None:
    """Prefect's run goes through these states, and the service knows the last of them."""
    assert pipelines.url is not None
    async with httpx.AsyncClient(base_url=pipelines.url) as client:

        async def told() -> Any:
            return (await client.get(f"/api/etl/status/{run_id}")).json()

        async def handed_over() -> Any:
            return (await told())["flow_run_id"]

        flow_run_id = await eventually(handed_over, within=20, what="the run has a flow run")
        for state in states:
            wire.move(flow_run_id, state, **more)

        async def known() -> bool:
            return bool((await told())["state"] == states[-1].title())

        await eventually(known, within=20, what=f"the run is {states[-1]}")


async def test_pipelines_are_listed(pipelines: Pipelines) -> None:
    """For people a table, for programs what the API says."""
    await started(pipelines)
    told = await pipelines("list", "--json")
    assert (told.code, told.err) == (0, "")
    assert [one["name"] for one in told.json["pipelines"]] == ["etl"]
    shown = await pipelines("list")
    heading, row = shown.out.splitlines()
    assert heading.split("  ")[0] == "pipeline"
    assert row.startswith("etl       0 9 * * * Europe/Madrid")
    assert "Scheduled" in row


async def test_a_run_is_started_and_told(pipelines: Pipelines, wire: PrefectWire) -> None:
    """Its id is data, the next command a remark; parameters are JSON where they can be."""
    done = await pipelines("start", "--date", "2013-01-15", "--parameter", "sample=3", "--parameter", "note=a b")
    assert done.code == 0
    assert done.out.startswith("run ")
    assert "of etl for 2013-01-15 is accepted" in done.out
    run_id = done.out.split()[1]
    assert done.err == f"follow it: pipelines logs {run_id} -f\n"
    told = (await pipelines("status", run_id, "--json")).json
    assert told["parameters"] == {"sample": 3, "note": "a b", "logical_date": "2013-01-15"}
    refused = await pipelines("start", "etl", "--parameter", "sample=0")
    assert (refused.code, refused.out) == (1, "")
    assert "parameters.sample" in refused.err
    assert (await pipelines("start", "etl", "--parameter", "sample")).code == 2
    assert (await pipelines("start", "elt")).code == 1


@pytest.mark.parametrize(
    ("state", "more", "code"),
    [
        ("RUNNING", {}, 8),
        ("COMPLETED", {"name": "Degraded"}, 0),
        ("FAILED", {"message": "Flow run encountered an exception: BadData: 400 of 890 rows are bad"}, 5),
    ],
)
async def test_a_runs_outcome_is_the_exit_code(
    pipelines: Pipelines, wire: PrefectWire, state: str, more: dict[str, Any], code: int
) -> None:
    """Also for people, who see the state and why."""
    run = await started(pipelines, "--date", "2013-01-15")
    await moved(pipelines, wire, run["run_id"], "RUNNING", state, **more)
    for meant in ([run["run_id"]], [run["run_id"][:8]], ["2013-01-15"], []):
        done = await pipelines("status", *meant, "--json")
        assert done.code == code, done.err
        assert done.json["run_id"] == run["run_id"]
    shown = (await pipelines("status")).out
    finer = f" ({more['name']})" if "name" in more else ""
    assert f"state     {state.title()}{finer}\n" in shown
    assert more.get("message", "") in shown


async def test_a_run_that_is_not_there_is_told(pipelines: Pipelines) -> None:
    """1, and what would make one."""
    for meant in ([], ["2013-01-15"], ["abcd"], ["00000000-0000-0000-0000-000000000007"]):
        done = await pipelines("status", *meant)
        assert (done.code, done.out) == (1, "")
        assert "pipelines start etl" in done.err or "pipelines runs" in done.err
    assert (await pipelines("status", "someday")).code == 2


async def test_runs_are_a_table_json_and_csv(pipelines: Pipelines) -> None:
    """Newest first, as many as asked for; the table is whole also where no terminal is."""
    made = [(await started(pipelines, "--date", f"2013-01-{day}"))["run_id"] for day in (14, 15, 16)]
    page = (await pipelines("runs", "--json", "--limit", "2")).json
    assert [one["run_id"] for one in page["runs"]] == made[:0:-1]
    assert page["next_cursor"]
    shown = await pipelines("runs", "etl", "--limit", "2")
    heading, *rows = shown.out.splitlines()
    assert heading.split() == ["run", "date", "state", "accepted", "took", "attempt", "reason"]
    assert [row.split()[:3] for row in rows] == [
        [made[2], "2013-01-16", "Scheduled"],
        [made[1], "2013-01-15", "Scheduled"],
    ]
    assert "--limit shows more" in shown.err
    lines = list(csv.DictReader(io.StringIO((await pipelines("runs", "--csv", "--date", "2013-01-14")).out)))
    assert [(line["flow"], line["state"]) for line in lines] == [("daily_job", "Scheduled")]
    assert (await pipelines("runs", "--state", "Failed", "--json")).json["runs"] == []
    assert (await pipelines("runs", "--csv", "--json")).code == 2


async def test_runs_are_cancelled(pipelines: Pipelines) -> None:
    """Also one that Prefect has; a second time there is nothing left to cancel."""
    run = await started(pipelines)
    done = await pipelines("cancel", run["run_id"], "--json")
    assert (done.code, done.json["kind"], done.json["id"]) == (0, "run", run["run_id"])

    async def over() -> bool:
        return (await pipelines("status", run["run_id"])).code == 5

    await eventually(over, within=60, what="the run is Cancelled")
    again = await pipelines("cancel", run["run_id"])
    assert again.code == 1
    assert "nothing left to cancel" in again.err


async def test_a_run_is_watched_to_its_end(pipelines: Pipelines, wire: PrefectWire) -> None:
    """Its states and steps on stderr as they come, what became of it on stdout."""
    process = await pipelines.begin("start", "etl", "--watch", "--json")

    async def made() -> Any:
        return next(iter(wire.flow_runs), None)

    flow_run_id = await eventually(made, within=30, what="Prefect has the run")
    wire.move(flow_run_id, "RUNNING")
    wire.say(flow_run_id, '{"step": "extract", "flights": 896, "run_id": "x"}')
    wire.say(flow_run_id, "only for the log")
    wire.say(flow_run_id, "the source is slow", level=30)
    await asyncio.sleep(1)
    wire.move(flow_run_id, "FAILED", message="Flow run encountered an exception: SourceRefused: no such day")
    wire.say(flow_run_id, "Finished in state Failed()", level=40)
    done = await finished(process, "start", "--json")
    assert done.code == 5, done.err
    assert done.json["state"] == "Failed"
    assert done.json["reason"]["id"] == "PL102"
    told = [line.split("  ")[-1] for line in done.err.splitlines()]
    expected = ["Running", "extract: flights 896", "warning: the source is slow"]
    assert sorted(one for one in told if one in expected) == sorted(expected)  # Prefect's word on states comes apart
    assert told[-1] == "Failed"
    assert "only for the log" not in done.err


async def test_a_watch_has_an_end(pipelines: Pipelines) -> None:
    """3 once the time is over; the run goes on."""
    done = await pipelines("start", "etl", "--watch", "--timeout", "1")
    assert (done.code, done.out) == (3, "")
    assert "is not over yet" in done.err
    assert (await pipelines("status")).code == 8


async def test_ctrl_c_leaves_the_run_and_says_so(pipelines: Pipelines, wire: PrefectWire) -> None:
    """130."""
    process = await pipelines.begin("start", "etl", "--watch")

    async def made() -> Any:
        return next(iter(wire.flow_runs), None)

    await eventually(made, within=30, what="Prefect has the run")
    await asyncio.sleep(1.5)
    process.send_signal(2)
    done = await finished(process)
    assert done.code == 130
    assert "the run goes on: pipelines status" in done.err


async def test_the_door_is_told_apart(
    database_url: str, wire: PrefectWire, pipelines: Pipelines, tmp_path: Any
) -> None:
    """4 without a key, and with one that may not; the key comes by the environment alone."""
    keys = write(
        tmp_path / "keys.json", {"name": "ops", "key": OPS}, {"name": "ci", "key": CI, "may": {"etl": ["read"]}}
    )
    async with listening(database_url, wire, auth="apiKey", api_keys_file=keys) as client:
        guarded = Pipelines(str(client.base_url), home=tmp_path)
        for key, arguments, code in (
            (None, ["list"], 4),
            (CI, ["list"], 0),
            (CI, ["start", "etl"], 4),
            (OPS, ["start", "etl"], 0),
        ):
            done = await guarded(*arguments, **({"PIPELINES_API_KEY": key} if key else {}))
            assert done.code == code, done.err
            assert ("PIPELINES_API_KEY" in done.err) == (code == 4)
            assert key is None or key not in done.err + done.out


async def test_prefect_being_away_does_not_hinder_a_start(pipelines: Pipelines, wire: PrefectWire) -> None:
    """What is accepted is durable; its log is what cannot be read."""
    await started(pipelines)
    wire.fault = saying(503)
    run = await started(pipelines)
    done = await pipelines("logs", run["run_id"])
    assert (done.code, done.out) == (0, "")
    assert "not been handed over to Prefect" in done.err
