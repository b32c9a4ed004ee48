"""Stock Prefect, as its tutorial has it: runs are asked for at Prefect's own API, and Prefect says how they are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Self

import httpx

from ..facts import Attempt, Case, Effect, Strays
from ..side import Found, Side, ago, effects_by_run

_EFFECTS = """
SELECT flow_run_id::text AS flow_run_id, rows, extract(epoch FROM loaded_at) AS at
FROM effects WHERE loaded_at >= to_timestamp($1) ORDER BY id
"""
_TABLE = "SELECT logical_date, count(*) FROM flights WHERE logical_date = ANY($1::date[]) GROUP BY 1"
_NEWEST = """
SELECT DISTINCT ON (logical_date) logical_date, rows FROM effects
WHERE logical_date = ANY($1::date[]) ORDER BY logical_date, id DESC
"""


class Stock(Side):
    """What `tests/faults/stock/up` installs. A run's id is Prefect's, and its key is Prefect's idempotency key."""

    name = "stock"
    effects_table = "effects"
    door = "prefect-server"
    door_port = 4200
    clients_of_prefect = ("worker",)
    deployment = "daily/stock"
    _deployment_id = ""

    def object_name(self, part: str) -> str:
        return part

    def selector(self, part: str) -> str:
        return "prefect.io/flow-run-id" if part == "flow-run" else f"app={part}"

    def prefect_auth(self) -> tuple[str, str] | None:
        return None

    def superuser(self) -> tuple[str, str]:
        return "postgres", "stock"

    def open(self) -> Self:
        super().open()
        answer = httpx.get(f"{self.api}/api/deployments/name/{self.deployment}", timeout=30)
        self._deployment_id = answer.raise_for_status().json()["id"]
        return self

    async def prepare(self, seed: int) -> None:
        # The flow only ever adds to a day, so each scenario begins with empty tables.
        await self.sql("warehouse", "TRUNCATE flights, effects")
        await super().prepare(seed)

    def start(self, key: str, day: date) -> tuple[str, Mapping[str, Any], Mapping[str, str]]:
        url = f"{self.api}/api/deployments/{self._deployment_id}/create_flow_run"
        return url, {"parameters": {"day": day.isoformat()}, "idempotency_key": key}, {}

    def promised(self, answer: httpx.Response) -> str | None:
        return str(answer.json()["id"]) if answer.status_code in {httpx.codes.OK, httpx.codes.CREATED} else None

    async def states(self, prefix: str) -> Counter[str]:
        query = "SELECT state_type::text, count(*) FROM flow_run WHERE starts_with(idempotency_key, $1) GROUP BY 1"
        return Counter({row[0].capitalize(): row[1] for row in await self.sql("prefect", query, prefix, patience=5)})

    async def collect(self, asked: Mapping[str, tuple[date, Sequence[Attempt]]], *, since: float) -> Found:
        told = await self.flow_runs(since)
        jobs = self.jobs(since)
        effects = effects_by_run(
            Effect(
                run_id=row["flow_run_id"], flow_run_id=row["flow_run_id"], rows=row["rows"], at=ago(row["at"], since)
            )
            for row in await self.sql("warehouse", _EFFECTS, since)
        )
        tables = await self.tables(_TABLE, _NEWEST, {day for day, _ in asked.values()})
        cases = []
        for key, (day, attempts) in asked.items():
            flow_runs = [one.run for one in told if one.key == key]
            ids = [run.flow_run_id for run in flow_runs]
            cases.append(
                Case(
                    key=key,
                    day=day,
                    attempts=tuple(attempts),
                    flow_runs=tuple(flow_runs),
                    jobs=tuple(job for flow_run_id in ids for job in jobs.get(flow_run_id, ())),
                    effects=tuple(effect for flow_run_id in ids for effect in effects.get(flow_run_id, ())),
                    table=tables.get(day),
                )
            )
        known = {one.run.flow_run_id for one in told if one.key in asked}
        return Found(
            cases=tuple(cases),
            strays=Strays(
                flow_runs=tuple(one.run for one in told if one.run.flow_run_id not in known),
                jobs=tuple(job for one, several in jobs.items() if one not in known for job in several),
                effects=tuple(effect for one, several in effects.items() if one not in known for effect in several),
            ),
        )
