"""One day through the ETL's own steps, as its flow takes them: `python -m tests.bench.load.whole SOURCE WAREHOUSE`.

Prints how long each step took. The process is the flow pod's but for Prefect's bookkeeping; its modules are all there,
so that its memory is comparable.
"""

import asyncio
import json
import sys
import time
from uuid import uuid4

import etl.flow  # noqa: F401 - what a flow pod has in memory
from etl.claim import claim_date
from etl.extract import fetch_day, open_client
from etl.load import LoadedBy, load_day
from etl.transform import require_mostly_good, transform

from .day import LOGICAL


async def main(source: str, warehouse: str) -> None:
    """Claim, fetch, transform, validate, load."""
    begun = time.monotonic()
    run_id = uuid4()
    claim = await claim_date(warehouse, flow_run_id=run_id, run_id=run_id, logical_date=LOGICAL)
    by = LoadedBy(run_id=run_id, correlation_id="bench", claim=claim)
    async with open_client(source, timeout_seconds=60, correlation_id="bench") as client:
        flights, weather = await asyncio.gather(
            fetch_day(client, "flights", LOGICAL), fetch_day(client, "weather", LOGICAL)
        )
    fetched = time.monotonic()
    tables = transform(flights, weather, logical_date=LOGICAL)
    flights.close()
    require_mostly_good(tables, max_rejected_ratio=0.05)
    transformed = time.monotonic()
    loaded = load_day(warehouse, tables, loaded_by=by, statement_timeout_seconds=3600)
    ended = time.monotonic()
    told = {
        "rows": loaded.rows,
        "seconds": ended - begun,
        "fetch_seconds": fetched - begun,
        "transform_seconds": transformed - fetched,
        "load_seconds": ended - transformed,
    }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
