"""`accept` and `status`: what the orchestrator's API does in a second, against Prefect's own calls for the same."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from uuid import UUID

from orchestrator import migrations

from ..benchmark import Benchmark, Figures, Growth, Setting, Target, Variant
from .ledgers import a_year, many_runs, pipelines_told
from .servers import CONNECTIONS, Server, servers_of

# More than Prefect can take, with its process busy all the time.
STEADY_PER_SECOND = 50
RUNS = 1_000_000
SHORT_RUNS = 20_000
FEW_RUNS = 1_000
# as many as people who look at it, each looking again whenever something changed
PAGES_PER_SECOND = 5
PAGE_PIPELINES = 20
MANY_PIPELINES = 100


@contextmanager
def accepting(setting: Setting) -> Iterator[Callable[[Variant], Figures]]:
    """An empty ledger for each sample, and where Prefect is up a deployment without runs."""
    with servers_of(setting) as servers:
        servers.ledger("accept-empty")
        servers.ledger("accept-many", pipelines=MANY_PIPELINES)

        def take(variant: Variant) -> Figures:
            if variant.name == "prefect":
                path = f"/api/deployments/{servers.deployment}/create_flow_run"
                return servers.hammered([servers.prefect], "POST", [path], body="{}")
            many, prefect = variant.name == "many", variant.name in ("up", "steady")
            url = servers.postgres.database("accept", template="accept-many" if many else "accept-empty")
            if prefect:
                servers.deploy_anew("accept")
            steady = STEADY_PER_SECOND if variant.name.startswith("steady") else None
            with ExitStack() as stack:
                ours = [
                    stack.enter_context(
                        servers.orchestrator(
                            url,
                            number,
                            prefect=prefect,
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
    with servers_of(setting) as servers, ExitStack() as stack:
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
        servers.postgres.execute("status-page", *a_year([one["name"] for one in pipelines_told(PAGE_PIPELINES)]))
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


_NOTES = f"""
{CONNECTIONS} connections, each sending the next request when it has its answer, from a process of its own. An
orchestrator is one process, so it has one core at most; so is Prefect's server. Each side has a PostgreSQL of its own,
the embedded one with its default settings, so each commit reaches the disk. The orchestrator writes its log, and
nobody's requests are limited; Prefect has its settings at the defaults, and no flow run of these is ever executed.
While Prefect is up, runs are handed over to it all the time, on the same machine.

Profiles by py-spy, 2,500 samples each. How FastAPI finds a route's arguments was a sixth of a status read and of an
accept, and lines of the log, written through the standard library, a ninth and a sixth. Plain requests have their
arguments found by hand now, structlog alone writes the log, and statements are made once: half as many requests again
of one core, for both, measured in one sitting. Then what may be asked twice got a connection that nobody tries before:
a round trip less. Of what an accept costs now, sending the answer is a tenth, the layers of FastAPI and Starlette an
eighth, the log and the statement a sixteenth each, the facts of the pipeline a twentieth. Tried earlier: routes found
in one list, answers serialised once, validators kept, one statement for many accepts and their events, what an
orchestrator starts with kept out of garbage collections (0.3 s each, in which nobody was answered).
"""

_ACCEPT_NOTES = """
What an accept waits for at 50 a second is seldom the disk: a row committed alone takes 1.7 ms, and 3 ms at the 99th
percentile, in two of three tries of ten seconds; in the first, right after other data was written, that was 189 ms.
It is the processor. In earlier runs the orchestrator of a sample also adopted the thousands of runs that other samples
had left in Prefect under the same deployment: 33 to 79 ms with Prefect up, where it is 13 to 20 now that each sample
has a deployment of its own. What is adopted is written down fifty at a time since: beside 1,500 such runs the 99th
percentile was 76, 27 and 44 ms, before that 102, 75 and 53, by turns. With Prefect down a part of it is saying of each
waiting run why it waits: fifty at a time in these samples, fifteen since, 8.5, 8.0, 9.4 and 10.0 ms against 10.5, 11.6,
24.2 and 10.1, by turns. With Prefect up, accepts share their core with handing runs over, which is what they lack to
those with Prefect down. Tried: four round trips made two.
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
    notes=_NOTES + _ACCEPT_NOTES,
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
