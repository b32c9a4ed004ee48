"""Degraded days made good: which are owed a load from the source, and the flow runs made for that, each once.

A day is owed while its newest load is a degraded one. Two moments make flow runs, of the very deployment that is
running, so that they queue, are limited and are followed like all others. Their idempotency keys carry what no other
warehouse repeats, since Prefect remembers a key for ever.

*A run ended as plainly loaded*, so the circuit is closed: a run for each owed day, the oldest first (`make_good`). The
key names the degraded load, so that any number of runs doing this, and one that died in the middle, make one run for
it in all. If that one is degraded in its turn, this leaves a new degraded load, owed anew.

*A run ended degraded*: a single run for the whole fleet at the time when the circuit should be probed
(`provide_probe`), since where one run comes by a day, nobody else would find out before tomorrow. The key names the
circuit's generation; each failed probe begins another, and the pause doubles (see etl.circuit.probe_due).

Both write nothing but `loads.catch_up`. When the pod dies in between, or Prefect does not answer, the next plain
success finds the same days owed.
"""

from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID, uuid4

from prefect.client.orchestration import PrefectClient, get_client
from prefect.states import Scheduled

from etl.circuit import Circuit
from etl.claim import connected

# The tag of the flow runs made here.
TAG = "catch-up"

# Days whose newest load is degraded, for which no run was made and which nobody is executing now: who claimed a day
# after its degraded load will load it, or be rerun.
_OWED = """
SELECT id, logical_date, run_id FROM loads AS owed
WHERE outcome = 'degraded' AND catch_up IS NULL
  AND NOT EXISTS (SELECT FROM loads AS newer WHERE newer.logical_date = owed.logical_date AND newer.id > owed.id)
  AND NOT EXISTS (
    SELECT FROM claims
    WHERE claims.logical_date = owed.logical_date AND claims.fence > owed.fence AND lease_until > clock_timestamp()
  )
ORDER BY logical_date LIMIT $1
"""

_NEWEST = "SELECT outcome, run_id FROM loads WHERE logical_date = $1 ORDER BY id DESC LIMIT 1"


@dataclass(frozen=True, kw_only=True)
class Made:
    """A flow run that loads a degraded day again, and the run that had left it degraded."""

    flow_run_id: UUID
    logical_date: date
    degraded_run_id: UUID


async def made_good_by(warehouse_url: str, logical_date: date) -> UUID | None:
    """The run that has loaded the day since it was degraded; None while the day is owed.

    Raises:
        OSError, asyncpg's errors: see etl.claim.UNREACHABLE.
    """
    async with connected(warehouse_url) as connection:
        newest = await connection.fetchrow(_NEWEST, logical_date)
    return newest["run_id"] if newest is not None and newest["outcome"] == "loaded" else None


async def make_good(warehouse_url: str, *, deployment_id: UUID, at_most: int) -> list[Made]:
    """Make a flow run for each owed day, the `at_most` oldest; the runs made load, and then do the same.

    Raises:
        httpx.HTTPError, prefect.exceptions.PrefectException: Prefect does not answer or refuses; what is missing is
            made by the next success.
        OSError, asyncpg's errors: see etl.claim.UNREACHABLE; the same.
    """
    made = []
    async with connected(warehouse_url) as connection:
        owed = await connection.fetch(_OWED, at_most)
        if not owed:
            return []
        async with get_client() as client:
            for row in owed:
                flow_run_id = await _make(
                    client,
                    deployment_id,
                    row["logical_date"],
                    key=f"catch-up:{row['id']}:{row['run_id']}",
                    degraded_run_id=row["run_id"],
                    due=None,
                )
                await connection.execute("UPDATE loads SET catch_up = $2 WHERE id = $1", row["id"], flow_run_id)
                made.append(
                    Made(flow_run_id=flow_run_id, logical_date=row["logical_date"], degraded_run_id=row["run_id"])
                )
    return made


async def provide_probe(
    deployment_id: UUID, logical_date: date, *, degraded_run_id: UUID, circuit: Circuit, due: datetime
) -> UUID:
    """Make sure that a flow run probes the open circuit at `due`, and return its id.

    It loads this run's day, unless another degraded run was quicker to provide one.

    Raises:
        httpx.HTTPError, prefect.exceptions.PrefectException: Prefect does not answer or refuses.
    """
    async with get_client() as client:
        return await _make(
            client,
            deployment_id,
            logical_date,
            key=f"probe:{circuit.generation}:{circuit.opened_at}",
            degraded_run_id=degraded_run_id,
            due=due,
        )


async def _make(
    client: PrefectClient,
    deployment_id: UUID,
    logical_date: date,
    *,
    key: str,
    degraded_run_id: UUID,
    due: datetime | None,
) -> UUID:
    flow_run = await client.create_flow_run_from_deployment(
        deployment_id,
        parameters={"logical_date": logical_date.isoformat()},
        tags=[TAG, f"{TAG}-of:{degraded_run_id}", f"correlation-id:{uuid4().hex}"],
        idempotency_key=key,
        state=Scheduled(scheduled_time=due),
    )
    return flow_run.id
