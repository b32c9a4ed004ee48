"""Mornings to look at: a year of runs in the ledger, and runs that end as they are told on the wire."""

import json
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import httpx
from orchestrator.ledger import following
from orchestrator.ledger.tables import runs
from orchestrator.runs import Facts, Schedule
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from .conftest import eventually
from .wire import SCHEMA, PrefectWire

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}\"'"


def yesterday(*, lasting: timedelta) -> date:
    """Yesterday where the pipelines are. With midnight nearer than `lasting`, which tests take, it waits it out."""
    now = datetime.now(ZoneInfo("Europe/Madrid"))
    after = now + lasting
    if after.date() != now.date():
        midnight = datetime(after.year, after.month, after.day, tzinfo=after.tzinfo)
        time.sleep((midnight.astimezone(UTC) - datetime.now(UTC)).total_seconds() + 1)
    return datetime.now(ZoneInfo("Europe/Madrid")).date() - timedelta(days=1)


def names(count: int) -> list[str]:
    return [f"pipeline-{number:02}" for number in range(count)]


def configured(count: int) -> str:
    """That many pipelines, as the setting has them."""
    return json.dumps([{"name": name, "deployment": f"{name}/daily"} for name in names(count)])


async def note(db: AsyncEngine, name: str, deployment: str, *, cron: str = "0 9 * * *") -> None:
    """What Prefect told of a pipeline, which runs every day."""
    facts = Facts(
        deployment=deployment,
        deployment_id=uuid4(),
        flow=deployment.split("/", maxsplit=1)[0],
        parameter_schema=SCHEMA,
        defaults={},
        schedules=(Schedule(slug="daily", cron=cron, timezone="Europe/Madrid"),),
        paused=False,
    )
    await following.note_pipeline(db, name, facts, (datetime.now(UTC) + timedelta(hours=12),))


def a_run(pipeline: str, day: date, state: str = "Completed", **more: Any) -> dict[str, Any]:
    """A row of a run that ran in the morning after its day."""
    accepted = datetime(day.year, day.month, day.day, 8, tzinfo=UTC) + timedelta(days=1)
    over = state in {"Completed", "Failed", "Crashed", "Cancelled"}
    return {
        "run_id": uuid4(),
        "pipeline": pipeline,
        "flow_run_id": uuid4(),
        "logical_date": day,
        "state": state,
        "state_name": state,
        "message": None,
        "parameters": {"logical_date": day.isoformat()},
        "origin": "schedule",
        "correlation_id": "c",
        "accepted_at": accepted,
        "dispatched_at": accepted,
        "started_at": accepted + timedelta(seconds=6),
        "ended_at": accepted + timedelta(seconds=40 + day.toordinal() % 17) if over else None,
    } | more


async def keep(db: AsyncEngine, rows: Sequence[dict[str, Any]]) -> None:
    async with db.begin() as connection:
        await connection.execute(insert(runs), list(rows))


async def started(client: httpx.AsyncClient, wire: PrefectWire, day: date | None = None) -> tuple[str, str]:
    """A run that Prefect has: its id, and its flow run's."""
    body = {"logical_date": day.isoformat()} if day else {}
    run_id = (await client.post("/api/etl/start", json=body)).raise_for_status().json()["run_id"]

    async def known() -> Any:
        return (await client.get(f"/api/etl/status/{run_id}")).json()["flow_run_id"]

    return run_id, await eventually(known, within=10, what="the run has a flow run")


async def ended(
    client: httpx.AsyncClient,
    wire: PrefectWire,
    state: str,
    *,
    day: date | None = None,
    name: str | None = None,
    message: str | None = None,
    error: str | None = None,
) -> tuple[str, str]:
    """A run that came to that end; with `error`, its log's last line. One that failed has its reason."""
    run_id, flow_run = await started(client, wire, day)
    wire.move(flow_run, "RUNNING")
    if error is not None:
        wire.say(flow_run, error, level=40)
    wire.move(flow_run, state, name=name, message=message)

    async def over() -> bool:
        told = (await client.get(f"/api/etl/status/{run_id}")).json()
        return told["ended_at"] is not None and (state == "COMPLETED" or told["reason"] is not None)

    await eventually(over, within=10, what="the run's end and its reason are known")
    return run_id, flow_run


class Page(HTMLParser):
    """What a page holds: its tags with their attributes, and the text outside of scripts."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        assert answer.headers["content-type"] == "text/html; charset=utf-8", answer.text
        self.tags: list[tuple[str, dict[str, str]]] = []
        self._text: list[str] = []
        self.feed(answer.text)
        self.text = " ".join(" ".join(self._text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        """The attributes of each such tag."""
        return [found for name, found in self.tags if name == tag and attributes.items() <= found.items()]

    def form(self, action: str) -> dict[str, str]:
        """The fields of the form whose action ends so, as a browser would send them unchanged."""
        inside, fields, chosen = False, {}, ""
        for tag, found in self.tags:
            if tag == "form":
                inside = found["action"].endswith(action)
            elif inside and tag == "input":
                fields[found["name"]] = found.get("value", "")
            elif inside and tag == "select":
                chosen = found["name"]
            elif inside and tag == "option" and "selected" in found:
                fields[chosen] = found["value"]
        assert fields, f"there is no form {action}: {self.all('form')}"
        return fields


async def send(client: httpx.AsyncClient, path: str, fields: dict[str, str], **headers: str) -> httpx.Response:
    """A form as a browser sends it from a page of the service; a header that is empty is left out."""
    told = {"origin": str(client.base_url).rstrip("/"), "sec-fetch-site": "same-origin"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return await client.post(path, data=fields, headers={name: value for name, value in told.items() if value})


def run_of(answer: httpx.Response) -> UUID:
    """The run that a form leads to."""
    assert answer.status_code == 303, answer.text
    return UUID(answer.headers["location"].rpartition("/")[2])
