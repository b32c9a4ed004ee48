"""`accept` and `status`: what the orchestrator's API does in a second, against Prefect's own calls for the same."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from orchestrator import migrations

from ..benchmark import Benchmark, Figures, Growth, Setting, Target, Variant
from ..machine import HOST, Unready, free_port, postgres, serving

CONNECTIONS = 16
# More than Prefect can take, with its process busy all the time.
STEADY_PER_SECOND = 50
RUNS = 1_000_000
SHORT_RUNS = 20_000
FEW_RUNS = 1_000
# as many as people who look at it, each looking again whenever something changed
PAGES_PER_SECOND = 5
PAGE_PIPELINES = 20

_PREFECT = str(Path(sys.executable).with_name("prefect"))
MANY_PIPELINES = 100


@contextmanager
def accepting(setting: Setting) -> Iterator[Callable[[Variant], Figures]]:
    """An empty ledger for each sample, a Prefect server with one deployment."""
    with _servers(setting) as servers:
        servers.ledger("accept-empty")
        servers.ledger("accept-many", pipelines=MANY_PIPELINES)

        def take(variant: Variant) -> Figures:
            if variant.name == "prefect":
                path = f"/api/deployments/{servers.deployment}/create_flow_run"
                return servers.hammered([servers.prefect], "POST", [path], body="{}")
            many = variant.name == "many"
            url = servers.postgres.database("accept", template="accept-many" if many else "accept-empty")
            steady = STEADY_PER_SECOND if variant.name.startswith("steady") else None
            with ExitStack() as stack:
                ours = [
                    stack.enter_context(
                        servers.orchestrator(
                            url,
                            number,
                            prefect=variant.name in ("up", "steady"),
                            pipelines=MANY_PIPELINES if many else 1,
                        )
                    )
                    for number in range(3 if variant.name == "three" else 1)
                ]
                return servers.hammered(ours, "POST", ["/api/etl/start"], body="{}", per_second=steady)

        yield take


@contextmanager
def reading(setting: Setting) -> Iterator[Callable[[Variant], Figures]]:
    """A ledger with a million runs and one with a thousand, and a Prefect server with a few."""
    sizes = {"few": FEW_RUNS, "status": SHORT_RUNS if setting.short else RUNS}
    with _servers(setting) as servers, ExitStack() as stack:
        ours, runs = dict[str, Server](), dict[str, list[UUID]]()
        for number, (size, count) in enumerate(sizes.items()):
            name = f"status-{count}-{migrations.head()}"
            if servers.postgres.fetch("postgres", f"SELECT count(*) FROM pg_database WHERE datname = '{name}'") == 0:
                setting.say(f"  a ledger of {count:,} runs is made")
                servers.ledger("status-unfinished")
                servers.postgres.execute("status-unfinished", *many_runs(count))
                servers.postgres.execute("postgres", f'ALTER DATABASE "status-unfinished" RENAME TO "{name}"')
            runs[size] = servers.postgres.fetch(
                name,
                "SELECT array_agg(run_id) FROM"
                " (SELECT run_id FROM runs ORDER BY md5(run_id::text) LIMIT 5000) AS picked",
            )
            url = servers.postgres.url(name)
            ours[size] = stack.enter_context(servers.orchestrator(url, number, prefect=False))
        servers.ledger("status-page", pipelines=PAGE_PIPELINES)
        servers.postgres.execute("status-page", *a_year([one["name"] for one in _pipelines(PAGE_PIPELINES)]))
        url = servers.postgres.url("status-page")
        page = stack.enter_context(servers.orchestrator(url, len(ours), prefect=False, pipelines=PAGE_PIPELINES))
        flow_runs = [servers.create_flow_run() for _ in range(20 if setting.short else 200)]

        def take(variant: Variant) -> Figures:
            if variant.name == "prefect":
                return servers.hammered([servers.prefect], "GET", [f"/api/flow_runs/{one}" for one in flow_runs])
            if variant.name == "runs":
                return servers.hammered([ours["status"]], "GET", ["/api/etl/runs?limit=50"])
            if variant.name == "page":
                return servers.hammered([page], "GET", ["/"], per_second=PAGES_PER_SECOND)
            paths = [f"/api/etl/status/{one}" for one in runs[variant.name]]
            return servers.hammered([ours[variant.name]], "GET", paths)

        yield take


@dataclass(frozen=True, kw_only=True)
class Server:
    """A process that answers HTTP."""

    port: int
    process: int


class _Servers:
    """What both benchmarks ask: Prefect and the ledger, each on a PostgreSQL of its own, and orchestrators."""

    def __init__(self, setting: Setting, stack: ExitStack) -> None:
        self._setting = setting
        # a port that is taken, so that no other server gets it, and at which nobody listens
        taken = stack.enter_context(socket.socket())
        taken.bind((HOST, 0))
        self._nobodys = taken.getsockname()[1]
        self.postgres = stack.enter_context(postgres(setting.folder))
        home = setting.folder / "prefect"
        shutil.rmtree(home / "home", ignore_errors=True)
        (home / "home").mkdir(parents=True)
        theirs = stack.enter_context(postgres(home))
        port = free_port()
        url = f"http://{HOST}:{port}/api"
        environment = _clean() | {
            "PREFECT_HOME": str(home / "home"),
            "PREFECT_API_URL": url,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": theirs.database("bench").replace(
                "postgresql://", "postgresql+asyncpg://", 1
            ),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        command = [_PREFECT, "server", "start", "--host", HOST, "--port", str(port)]
        log = setting.folder / "prefect.log"
        setting.say("  a Prefect server is started")
        process = stack.enter_context(serving(command, port=port, log=log, environment=environment, within=240))
        self.prefect = Server(port=port, process=process)
        _until_ready(f"{url}/ready", within=240, log=log)
        flow = _call(f"{url}/flows/", {"name": "bench"})["id"]
        schema = {"type": "object", "properties": {}}
        told = {"name": "bench", "flow_id": flow, "parameter_openapi_schema": schema}
        self.deployment = UUID(_call(f"{url}/deployments/", told)["id"])

    def create_flow_run(self) -> str:
        """One flow run that nobody will execute; its id."""
        path = f"/api/deployments/{self.deployment}/create_flow_run"
        return str(_call(f"http://{HOST}:{self.prefect.port}{path}", {})["id"])

    def ledger(self, name: str, *, pipelines: int = 1) -> None:
        """A new, migrated ledger that knows the pipelines' deployments, as one has it that has ever seen Prefect."""
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", "migrate"],
            env=_clean() | {"ORCHESTRATOR_DATABASE_URL": self.postgres.database(name)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unready(f"the ledger cannot be migrated:\n{done.stderr[-2000:]}")
        self.postgres.execute(
            name,
            "INSERT INTO pipelines (pipeline, deployment, deployment_id, parameter_schema, defaults, schedules,"
            f" next_starts, paused, seen_at) SELECT name, deployment, '{self.deployment}',"
            """ '{"type": "object", "properties": {}}', '{}', '[]', '[]', false, now()"""
            f" FROM jsonb_to_recordset('{json.dumps(_pipelines(pipelines))}') AS told (name text, deployment text)",
        )

    @contextmanager
    def orchestrator(self, ledger: str, number: int, *, prefect: bool, pipelines: int = 1) -> Iterator[Server]:
        """`python -m orchestrator serve`, which has one core at most. Without `prefect`, nobody listens where it is."""
        port = free_port()
        environment = _clean() | {
            "ORCHESTRATOR_DATABASE_URL": ledger,
            "ORCHESTRATOR_PREFECT_API_URL": f"http://{HOST}:{self.prefect.port if prefect else self._nobodys}/api",
            "ORCHESTRATOR_PIPELINES": json.dumps(_pipelines(pipelines)),
            "ORCHESTRATOR_HOST": HOST,
            "ORCHESTRATOR_PORT": str(port),
            # limits of how often one caller may come are what this is not about
            "ORCHESTRATOR_READS_PER_SECOND": "100000",
            "ORCHESTRATOR_WRITES_PER_SECOND": "100000",
        }
        log = self._setting.folder / f"orchestrator-{number}.log"
        command = [sys.executable, "-m", "orchestrator", "serve"]
        with serving(command, port=port, log=log, environment=environment) as process:
            _until_ready(f"http://{HOST}:{port}/readyz", within=60, log=log)
            yield Server(port=port, process=process)

    def hammered(
        self,
        asked: Sequence[Server],
        method: str,
        paths: Sequence[str],
        *,
        body: str = "",
        per_second: float | None = None,
    ) -> dict[str, float]:
        """Requests for some seconds, by turns to the servers asked, and what that cost their processes.

        As many as get answers, or `per_second` in all, evenly.
        """
        head = f"Host: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        short = self._setting.short
        wanted = {
            "host": HOST,
            "ports": [one.port for one in asked],
            "connections": CONNECTIONS,
            "per_second": per_second,
            "warm_seconds": 0.5 if short else 2,
            "seconds": 1.5 if short else 8,
            "requests": [f"{method} {path} HTTP/1.1\r\n{head}" for path in paths],
        }
        processes = [psutil.Process(one.process) for one in asked]
        before = sum(map(_cpu_seconds, processes))
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.api.hammer"],
            input=json.dumps(wanted),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unready(f"the requests were not sent:\n{done.stderr[-2000:]}")
        told = json.loads(done.stdout)
        if not told["count"] or set(told["statuses"]) - {"200", "201", "202"}:
            raise Unready(f"{method} {paths[0]} answered {told['statuses']}: look into {self._setting.folder}/*.log")
        cpu_seconds = sum(map(_cpu_seconds, processes)) - before
        return {
            "requests_per_second": told["per_second"],
            "requests_per_cpu_second": told["count_with_warm"] / cpu_seconds,
            "p50_ms": told["p50_ms"],
            "p99_ms": told["p99_ms"],
            "cpu_seconds": cpu_seconds,
            "sender_cpu_seconds": told["own_cpu_seconds"],
            "rss_bytes": float(sum(one.memory_info().rss for one in processes)),
        }


@contextmanager
def _servers(setting: Setting) -> Iterator[_Servers]:
    with ExitStack() as stack:
        yield _Servers(setting, stack)


def many_runs(count: int, *, pipelines: Sequence[str] = ("etl",)) -> tuple[str, ...]:
    """Statements that make runs of a few years, all of them over, each with its two events, and statistics on them."""
    names = ", ".join(f"'{name}'" for name in pipelines)
    return (
        f"""
        INSERT INTO runs (run_id, pipeline, flow_run_id, logical_date, state, state_name, message, parameters, origin,
            correlation_id, accepted_at, dispatched_at, started_at, ended_at, dispatch_attempts)
        SELECT md5('run' || n)::uuid, (ARRAY[{names}])[1 + n % {len(pipelines)}], md5('flow run' || n)::uuid,
            date '2020-01-01' + n % 2000,
            CASE WHEN n % 50 = 0 THEN 'Failed' ELSE 'Completed' END,
            CASE WHEN n % 50 = 0 THEN 'Failed' ELSE 'Completed' END,
            'loaded', '{{}}', 'api', md5('correlation' || n), accepted, accepted + interval '1 s',
            accepted + interval '5 s', accepted + interval '30 s', 1
        FROM (SELECT n, now() - n * interval '1 min' AS accepted FROM generate_series(1, {count}) AS n) AS made
        """,
        """
        INSERT INTO run_events (run_id, pipeline, kind, at, state, state_name, message, duration_ms)
        SELECT run_id, pipeline, kind, at, state, state, message, duration_ms FROM (
            SELECT run_id, pipeline, 'submitted' AS kind, accepted_at AS at, 'Scheduled' AS state,
                NULL AS message, NULL::bigint AS duration_ms FROM runs
            UNION ALL SELECT run_id, pipeline, 'ended', ended_at, state, message, 25000 FROM runs) AS told ORDER BY at
        """,
        "VACUUM ANALYZE runs, run_events",
    )


def a_year(pipelines: Sequence[str]) -> tuple[str, ...]:
    """Statements that make a run of each of the last 365 days for each pipeline, one in twenty of them Failed."""
    names = ", ".join(f"'{name}'" for name in pipelines)
    return (
        f"""
        INSERT INTO runs (run_id, pipeline, flow_run_id, logical_date, state, state_name, message, parameters, origin,
            correlation_id, accepted_at, dispatched_at, started_at, ended_at, dispatch_attempts)
        SELECT md5('run/' || name || '/' || day)::uuid, name, md5('flow run/' || name || '/' || day)::uuid,
            current_date - day,
            CASE WHEN day % 20 = 0 THEN 'Failed' ELSE 'Completed' END,
            CASE WHEN day % 20 = 0 THEN 'Failed' ELSE 'Completed' END,
            'loaded', '{{}}', 'schedule', md5('correlation/' || name || '/' || day), begun, begun, begun,
            begun + interval '30 s', 1
        FROM unnest(ARRAY[{names}]) AS name, generate_series(1, 365) AS day,
            LATERAL (SELECT now() - day * interval '1 day' AS begun) AS moment
        """,
        "VACUUM ANALYZE runs",
    )


def _pipelines(count: int) -> list[dict[str, str]]:
    others = [{"name": f"etl-{number}", "deployment": f"bench/bench-{number}"} for number in range(1, count)]
    return [{"name": "etl", "deployment": "bench/bench"}, *others]


def _clean() -> dict[str, str]:
    """This process's environment without anybody's settings."""
    prefixes = ("PREFECT_", "ORCHESTRATOR_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def _cpu_seconds(process: psutil.Process) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))


def _call(url: str, body: Mapping[str, object]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - a server of ours
        return json.load(answer)


def _until_ready(url: str, *, within: float, log: Path) -> None:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - a server of ours
                return
        except OSError:
            time.sleep(0.2)
    raise Unready(f"{url} was not there within {within:g} s; its log is {log}")


_NOTES = f"""
{CONNECTIONS} connections, each sending the next request when it has its answer, from a process of its own. An
orchestrator is one process, so it has one core at most; so is Prefect's server. Each side has a PostgreSQL of its own,
the embedded one with its default settings, so each commit reaches the disk. The orchestrator writes its log, and
nobody's requests are limited; Prefect has its settings at the defaults, and no flow run of these is ever executed.
While Prefect is up, runs are handed over to it all the time, on the same machine.

A profile of status reads: a fifth of the CPU writes the answer to the socket, a tenth asks the database for all that
wait at one moment, a twelfth is the line in the log; most of the rest is FastAPI's and Starlette's, some of which an
accept pays for as well. Tried: routes found in one list, answers serialised once, validators kept, one statement for
many accepts and their events, what an orchestrator starts with kept out of garbage collections (0.3 s each, in which
nobody was answered).
"""

ACCEPT = Benchmark(
    name="accept",
    what="runs accepted in a second, each committed before its answer, against `create_flow_run` at Prefect's own API",
    variants=(
        Variant(name="up", title="POST start, Prefect up", ours=True),
        Variant(name="down", title="POST start, Prefect down", ours=True),
        Variant(name="three", title="POST start at three processes, Prefect down", ours=True),
        Variant(name="many", title=f"POST start, {MANY_PIPELINES} pipelines, Prefect down", ours=True),
        Variant(name="steady", title=f"POST start, {STEADY_PER_SECOND} a second, Prefect up", ours=True),
        Variant(name="steady-down", title=f"POST start, {STEADY_PER_SECOND} a second, Prefect down", ours=True),
        Variant(name="prefect", title="Prefect's create_flow_run"),
    ),
    targets=(
        Target(
            what="accepts in a second of one core, against `create_flow_run`",
            figure="requests_per_cpu_second",
            of="up",
            against="prefect",
            must=25,
            aim=50,
            least=True,
        ),
        Target(
            what="accepts in a second while sender, databases and Prefect share the machine, against `create_flow_run`",
            figure="requests_per_second",
            of="up",
            against="prefect",
            must=25,
            aim=50,
            least=True,
        ),
        Target(
            what=f"an accept's 99th percentile at {STEADY_PER_SECOND} a second", figure="p99_ms", of="steady", must=25
        ),
        Target(what="the same with Prefect down", figure="p99_ms", of="steady-down", must=25),
    ),
    growth=(
        Growth(what=f"pipelines, 1 → {MANY_PIPELINES}", figure="requests_per_cpu_second", before="down", after="many"),
        Growth(what="orchestrators, 1 → 3, on two cores", figure="requests_per_second", before="down", after="three"),
    ),
    opened=accepting,
    rounds=3,
    notes=_NOTES,
)

STATUS = Benchmark(
    name="status",
    what="reads of a run's status in a second, a million runs in the ledger, against Prefect's `GET /flow_runs/{id}`",
    variants=(
        Variant(name="status", title="GET status, 1 M runs", ours=True),
        Variant(name="few", title="GET status, 1 k runs", ours=True),
        Variant(name="runs", title="GET runs, 50 of 1 M", ours=True),
        Variant(
            name="page",
            title=f"the page, {PAGE_PIPELINES} pipelines × 365 days, {PAGES_PER_SECOND} a second",
            ours=True,
        ),
        Variant(name="prefect", title="Prefect's GET flow_runs, 200 runs"),
    ),
    targets=(
        Target(
            what="status reads in a second of one core with 1 M runs, against Prefect's `GET /flow_runs/{id}` with 200",
            figure="requests_per_cpu_second",
            of="status",
            against="prefect",
            must=10,
            aim=20,
            least=True,
        ),
        Target(
            what="the same, while sender and databases share the machine",
            figure="requests_per_second",
            of="status",
            against="prefect",
            must=10,
            aim=20,
            least=True,
        ),
        Target(
            what=f"the page's 99th percentile, {PAGE_PIPELINES} pipelines × 365 days",
            figure="p99_ms",
            of="page",
            must=150,
        ),
        Target(
            what="status reads in a second of one core with 1 M runs, against 1 k",
            figure="requests_per_cpu_second",
            of="status",
            against="few",
            must=0.8,
            least=True,
        ),
    ),
    growth=(
        Growth(what="runs in the ledger, 1 k → 1 M", figure="requests_per_cpu_second", before="few", after="status"),
    ),
    opened=reading,
    rounds=3,
    notes=_NOTES,
)
