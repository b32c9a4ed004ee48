"""The server's command: `python -m prefect_server start …` is `prefect server start …`, which costs less while idle.

Prefect's background services are tasks of a queue. Its worker asks for what is new four times a second, and as often
moves what has become due: a third of what an idle server costs. Their shortest interval is five seconds, to which a
second is exact enough; what is to be done now is taken at once, as before, by a request that waits.

A burst of runs opens as many connections to the database as the pool may have. Each is a process of PostgreSQL that
keeps 8 MB of its own, so those that nobody uses are closed by PostgreSQL after a minute. The pool asks each connection
whether it is there before it gives it out, and gives out the one that was used last.
"""

import sys
from datetime import timedelta
from typing import Any

from asyncpg import Connection
from docket import Docket, Worker
from prefect.cli import app
from prefect.server.api import background_workers
from sqlalchemy import event
from sqlalchemy.pool import Pool

PATIENCE = timedelta(seconds=1)
UNUSED = timedelta(minutes=1)


class Patient(Worker):
    """Prefect's worker for its background tasks, which asks once a second."""

    def __init__(self, docket: Docket, **options: Any) -> None:
        """As the worker's."""
        super().__init__(docket, minimum_check_interval=PATIENCE, scheduling_resolution=PATIENCE, **options)


def close_unused(connection: Any, _: Any) -> None:
    """Let PostgreSQL close a new connection once nobody has used it for a while. Other databases have no such thing."""
    if isinstance(connection.driver_connection, Connection):
        milliseconds = round(UNUSED.total_seconds() * 1000)
        connection.run_async(lambda driver: driver.execute(f"SET idle_session_timeout = {milliseconds}"))


def main() -> None:
    """Run Prefect's command, which finds the worker by its name."""
    event.listen(Pool, "connect", close_unused)
    vars(background_workers)["Worker"] = Patient
    sys.argv = ["prefect", "server", *sys.argv[1:]]
    app()


if __name__ == "__main__":
    main()
