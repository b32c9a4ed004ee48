"""This platform, as `make up` installs it: runs are asked for at the orchestrator, and its ledger says how they are."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property
from typing import Any

import httpx

from .facts import Attempt, Case, Effect, Event, Job, Row, Strays
from .side import Found, Side, ago, effects_by_run, short

_ROWS = """
SELECT r.run_id::text AS run_id, r.idempotency_key, r.origin, r.state, r.state_name, r.message,
  r.flow_run_id::text AS flow_run_id, extract(epoch FROM r.accepted_at) AS accepted_at,
  extract(epoch FROM r.dispatched_at) AS dispatched_at, extract(epoch FROM r.started_at) AS started_at,
  extract(epoch FROM r.ended_at) AS ended_at,
  (SELECT json_agg(json_build_array(e.id, e.state, extract(epoch FROM e.at)) ORDER BY e.id)
     FROM run_events e WHERE e.run_id = r.run_id AND e.kind IN ('submitted', 'changed', 'ended')) AS events
FROM runs r WHERE r.accepted_at >= to_timestamp($1) ORDER BY r.accepted_at
"""
_EFFECTS = """
SELECT run_id::text AS run_id, flow_run_id::text AS flow_run_id, rows, outcome, extract(epoch FROM loaded_at) AS at
FROM loads WHERE loaded_at >= to_timestamp($1) ORDER BY id
"""
_TABLE = "SELECT logical_date, count(*) FROM flights WHERE logical_date = ANY($1::date[]) GROUP BY 1"
_NEWEST = """
SELECT DISTINCT ON (logical_date) logical_date, rows FROM loads
WHERE outcome = 'loaded' AND logical_date = ANY($1::date[]) ORDER BY logical_date, id DESC
"""


class Ours(Side):
    """The release of the chart."""

    name = "ours"
    effects_table = "loads"
    door = "orchestrator"
    door_port = 8080
    clients_of_prefect = ("orchestrator", "worker")
    deployment = "daily_job/daily-0900"
    release = "pipelines"

    def object_name(self, part: str) -> str:
        return f"{self.release}-{part}"

    def selector(self, part: str) -> str:
        if part == "flow-run":
            return "prefect.io/flow-run-id"
        return f"app.kubernetes.io/instance={self.release},app.kubernetes.io/component={part}"

    def prefect_auth(self) -> tuple[str, str] | None:
        user, _, password = self.kubectl.secret(self.object_name("prefect-auth"), "auth-string").partition(":")
        return user, password

    def superuser(self) -> tuple[str, str]:
        return "postgres", self._postgres_password

    @cached_property
    def _postgres_password(self) -> str:
        return self.kubectl.secret(self.object_name("postgresql"), "postgres-password")

    def start(self, key: str, day: date) -> tuple[str, Mapping[str, Any], Mapping[str, str]]:
        return f"{self.api}/api/etl/start", {"logical_date": day.isoformat()}, {"Idempotency-Key": key}

    def promised(self, answer: httpx.Response) -> str | None:
        return str(answer.json()["run_id"]) if answer.status_code == httpx.codes.ACCEPTED else None

    async def states(self, prefix: str) -> Counter[str]:
        query = "SELECT state, count(*) FROM runs WHERE starts_with(idempotency_key, $1) GROUP BY 1"
        return Counter({row[0]: row[1] for row in await self.sql("orchestrator", query, prefix, patience=5)})

    async def collect(self, asked: Mapping[str, tuple[date, Sequence[Attempt]]], *, since: float) -> Found:
        ledger = await self.sql("orchestrator", _ROWS, since)
        told = await self.flow_runs(since)
        jobs = self.jobs(since)
        effects = effects_by_run(
            Effect(
                run_id=row["run_id"],
                flow_run_id=row["flow_run_id"],
                rows=row["rows"],
                at=ago(row["at"], since),
                degraded=row["outcome"] == "degraded",
            )
            for row in await self.sql("warehouse", _EFFECTS, since)
        )
        tables = await self.tables(_TABLE, _NEWEST, {day for day, _ in asked.values()})
        # A flow run belongs to the run it is tagged with; one that the schedule made goes by its own id.
        runs_of = {
            one.run.flow_run_id: next(
                (tag.removeprefix("run-id:") for tag in one.tags if tag.startswith("run-id:")), one.run.flow_run_id
            )
            for one in told
        }
        cases, known = [], {row["run_id"] for row in ledger}
        for key, (day, attempts) in asked.items():
            rows = [row for row in ledger if row["idempotency_key"] == key]
            ids = {row["run_id"] for row in rows} | {one.run_id for one in attempts if one.run_id}
            flow_runs = [one.run for one in told if runs_of[one.run.flow_run_id] in ids]
            cases.append(
                Case(
                    key=key,
                    day=day,
                    attempts=tuple(attempts),
                    rows=tuple(_row(row, since) for row in rows),
                    flow_runs=tuple(flow_runs),
                    jobs=tuple(job for run in flow_runs for job in jobs.get(run.flow_run_id, ())),
                    effects=tuple(effect for run_id in ids for effect in effects.get(run_id, ())),
                    table=tables.get(day),
                )
            )
            known |= ids
        over = {one.run.flow_run_id for one in told if runs_of[one.run.flow_run_id] in known}
        return Found(
            cases=tuple(cases),
            strays=Strays(
                flow_runs=tuple(
                    one.run for one in told if runs_of[one.run.flow_run_id] not in known and not one.made_by_schedule
                ),
                jobs=_unknown(jobs, over),
                effects=tuple(
                    effect for run_id, several in effects.items() if run_id not in known for effect in several
                ),
            ),
        )


def _unknown(jobs: Mapping[str, Sequence[Job]], known: set[str]) -> tuple[Job, ...]:
    return tuple(job for flow_run_id, several in jobs.items() if flow_run_id not in known for job in several)


def _row(row: Any, since: float) -> Row:
    def moment(column: str) -> float | None:
        return None if row[column] is None else ago(row[column], since)

    return Row(
        run_id=row["run_id"],
        state=row["state"],
        state_name="" if row["state_name"] == row["state"] else row["state_name"],
        message=short(row["message"]),
        flow_run_id=row["flow_run_id"],
        accepted_at=ago(row["accepted_at"], since),
        dispatched_at=moment("dispatched_at"),
        started_at=moment("started_at"),
        ended_at=moment("ended_at"),
        events=tuple(
            Event(id=id_, state=state, at=ago(at, since)) for id_, state, at in json.loads(row["events"] or "[]")
        ),
    )
