"""One of the two platforms under test: how a run is asked for there, how far the runs are, and what became of them.

What both have in common: a namespace with Prefect, a worker, a source and a PostgreSQL, all asked directly.
"""

import json
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, ClassVar, Self

import asyncpg
import httpx

from ..integration.platform import Kubectl
from .cluster import Forward, Hands, Pod
from .facts import Attempt, Case, Day, Effect, FlowRun, Job, Seen, SideName, Strays

# What a connection that breaks, or a database that starts, looks like from here.
AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# Every other load takes so long that it can be met, and every other fetch.
SLOW_LOAD_SECONDS = 2.0
SLOW_SOURCE_SECONDS = 1.5

# Before the insert that records an effect, inside the transaction that loads: what is killed there has loaded nothing.
_SLOW_LOADS = """
CREATE OR REPLACE FUNCTION slow_load() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF abs(hashtext(NEW.flow_run_id::text)) % 2 = 0 THEN PERFORM pg_sleep({seconds}); END IF;
  RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER slow_load BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION slow_load();
"""

_FLOW_RUNS = """
SELECT f.id::text AS flow_run_id, f.idempotency_key, f.state_type::text AS state_type, s.message, f.run_count, f.tags,
  f.auto_scheduled,
  (SELECT json_agg(json_build_array(t.type::text, t.name, extract(epoch FROM t.timestamp)) ORDER BY t.timestamp)
     FROM flow_run_state t WHERE t.flow_run_id = f.id) AS states
FROM flow_run f LEFT JOIN flow_run_state s ON s.id = f.state_id
WHERE f.created >= to_timestamp($1)
"""


@dataclass
class Side(ABC):
    """A platform on the cluster. Opened before use, closed afterwards."""

    cluster: str
    namespace: str
    forwards: dict[str, Forward] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    name: ClassVar[SideName]
    effects_table: ClassVar[str]
    door: ClassVar[str]  # the part at which runs are asked for, and its port
    door_port: ClassVar[int]
    clients_of_prefect: ClassVar[tuple[str, ...]]  # the parts with lasting connections to the Prefect server
    deployment: ClassVar[str]  # Prefect's name of what is run: flow/deployment

    @property
    def kubectl(self) -> Kubectl:
        return Kubectl(f"kind-{self.cluster}", self.namespace)

    @property
    def hands(self) -> Hands:
        return Hands(self.kubectl)

    @abstractmethod
    def object_name(self, part: str) -> str:
        """The name of a part's Deployment (or StatefulSet) and Service."""

    @abstractmethod
    def selector(self, part: str) -> str:
        """What selects a part's pods; the part `flow-run` is the pods of runs."""

    @abstractmethod
    def start(self, key: str, day: date) -> tuple[str, Mapping[str, Any], Mapping[str, str]]:
        """The request that starts a run: URL, JSON body, headers."""

    @abstractmethod
    def promised(self, answer: httpx.Response) -> str | None:
        """The run id that an answer promises; None where it promises none."""

    @abstractmethod
    async def states(self, prefix: str) -> Counter[str]:
        """How many runs are in which state, of those whose key begins with `prefix`."""

    @abstractmethod
    async def collect(self, asked: Mapping[str, tuple[date, Sequence[Attempt]]], *, since: float) -> "Found":
        """Everything that is known of the runs asked for, and what belongs to none of them."""

    @abstractmethod
    def prefect_auth(self) -> tuple[str, str] | None:
        """User and password at Prefect's API, where it asks for them."""

    @abstractmethod
    def superuser(self) -> tuple[str, str]:
        """PostgreSQL's superuser and its password."""

    def open(self) -> Self:
        """Open the ways in."""
        self.forwards = {
            "api": Forward(self.kubectl, f"service/{self.object_name(self.door)}", self.door_port),
            "postgresql": Forward(self.kubectl, f"service/{self.object_name('postgresql')}", 5432),
            "source": Forward(self.kubectl, f"service/{self.object_name('source')}", 8090),
        }
        for forward in self.forwards.values():
            self._stack.callback(forward.close)
            forward.open()
        return self

    def close(self) -> None:
        """Close them."""
        self._stack.close()

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.forwards['api'].port}"

    def pods(self, part: str) -> list[Pod]:
        return self.hands.pods(self.selector(part))

    async def sql(self, database: str, query: str, *arguments: Any, patience: float = 20) -> list[Any]:
        """Rows of a query; several statements without arguments give none."""
        user, password = self.superuser()
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=self.forwards["postgresql"].port,
            user=user,
            password=password,
            database=database,
            timeout=patience,
            command_timeout=patience,
        )
        try:
            if arguments or query.lstrip().upper().startswith("SELECT"):
                return list(await connection.fetch(query, *arguments))
            await connection.execute(query)
            return []
        finally:
            await connection.close(timeout=5)

    @contextmanager
    def prefect(self) -> Iterator[httpx.Client]:
        """Prefect's API, for a moment."""
        with (
            self.kubectl.port_forward(f"service/{self.object_name('prefect-server')}", 4200) as url,
            httpx.Client(base_url=f"{url}/api", auth=self.prefect_auth(), timeout=30) as client,
        ):
            yield client

    def job_variables(self) -> dict[str, Any]:
        """What the deployment asks for in every run's Job."""
        with self.prefect() as client:
            document = client.get(f"/deployments/name/{self.deployment}").raise_for_status().json()
        variables: dict[str, Any] = document["job_variables"]
        return variables

    def set_job_variables(self, variables: Mapping[str, Any]) -> None:
        """Ask for something else."""
        with self.prefect() as client:
            deployment_id = client.get(f"/deployments/name/{self.deployment}").raise_for_status().json()["id"]
            client.patch(f"/deployments/{deployment_id}", json={"job_variables": dict(variables)}).raise_for_status()

    async def prepare(self, seed: int) -> None:
        """Make every other load and every other fetch slow, so that a fault meets runs in every state."""
        await self.sql("warehouse", _SLOW_LOADS.format(seconds=SLOW_LOAD_SECONDS, table=self.effects_table))
        fault = {"kind": "latency", "seconds": SLOW_SOURCE_SECONDS, "rate": 0.5, "seed": seed, "paths": ["/flights"]}
        async with httpx.AsyncClient(timeout=10) as client:
            answer = await client.put(f"http://127.0.0.1:{self.forwards['source'].port}/faults", json=fault)
            answer.raise_for_status()

    async def restore(self) -> None:
        """Take back what `prepare` did."""
        await self.sql("warehouse", "DROP FUNCTION IF EXISTS slow_load() CASCADE")
        async with httpx.AsyncClient(timeout=10) as client:
            await client.delete(f"http://127.0.0.1:{self.forwards['source'].port}/faults")

    async def loading(self) -> set[str]:
        """The addresses of the pods that are in the middle of a load now."""
        query = "SELECT DISTINCT host(client_addr) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        return {row[0] for row in await self.sql("warehouse", query, patience=5)}

    async def flow_runs(self, since: float) -> list["Told"]:
        """Every flow run made since then, as Prefect's database has it."""
        return [
            Told(
                key=row["idempotency_key"] or "",
                tags=tuple(json.loads(row["tags"])),
                made_by_schedule=row["auto_scheduled"],
                run=FlowRun(
                    flow_run_id=row["flow_run_id"],
                    state=row["state_type"].capitalize(),
                    message=short(row["message"]),
                    processes=row["run_count"],
                    states=tuple(
                        Seen(state=kind.capitalize(), name="" if name == kind.capitalize() else name, at=ago(at, since))
                        for kind, name, at in json.loads(row["states"] or "[]")
                    ),
                ),
            )
            for row in await self.sql("prefect", _FLOW_RUNS, since)
        ]

    def jobs(self, since: float) -> dict[str, list[Job]]:
        """The Jobs of flow runs made since then, by flow run."""
        found: dict[str, list[Job]] = defaultdict(list)
        for job in self.kubectl.items("jobs", "--selector", "prefect.io/flow-run-id"):
            created = datetime.fromisoformat(job["metadata"]["creationTimestamp"]).timestamp()
            flow_run_id = job["metadata"]["labels"]["prefect.io/flow-run-id"]
            if created >= int(since):
                active = job["status"].get("active", 0) + job["status"].get("terminating", 0)
                name = job["metadata"]["name"]
                found[flow_run_id].append(
                    Job(name=name, flow_run_id=flow_run_id, created_at=ago(created, since), active=active)
                )
        return found

    async def tables(self, rows: str, loaded: str, days: Iterable[date]) -> dict[date, Day]:
        """What the loaded table holds of each day beside what its newest load says. Two queries over a list of days."""
        asked = list(days)
        holds = {row[0]: row[1] for row in await self.sql("warehouse", rows, asked)}
        return {
            row[0]: Day(rows=holds.get(row[0], 0), loaded=row[1]) for row in await self.sql("warehouse", loaded, asked)
        }


@dataclass(frozen=True, kw_only=True)
class Told:
    """A flow run with what ties it to a run."""

    key: str
    tags: tuple[str, ...]
    made_by_schedule: bool
    run: FlowRun


@dataclass(frozen=True, kw_only=True)
class Found:
    """What collecting gave."""

    cases: tuple[Case, ...]
    strays: Strays


def ago(moment: float, since: float) -> float:
    """Seconds since the scenario began, to a hundredth."""
    return round(float(moment) - since, 2)


def short(message: str | None) -> str | None:
    """The start of a message: enough to say why."""
    return message[:200] if message else None


def effects_by_run(effects: Iterable[Effect]) -> dict[str, list[Effect]]:
    found: dict[str, list[Effect]] = defaultdict(list)
    for effect in effects:
        found[effect.run_id].append(effect)
    return found


def now() -> float:
    """Seconds since the epoch: every clock here is this machine's."""
    return time.time()
