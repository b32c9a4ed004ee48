"""The server's command: `python -m prefect_server start …` is `prefect server start …`, with more patience.

Prefect's background services are tasks of a queue. Its worker asks for what is new four times a second, and as often
moves what has become due: a third of what an idle server costs. Their shortest interval is five seconds, to which a
second is exact enough; what is to be done now is taken at once, as before, by a request that waits.
"""

import sys
from datetime import timedelta
from typing import Any

from docket import Docket, Worker
from prefect.cli import app
from prefect.server.api import background_workers

PATIENCE = timedelta(seconds=1)


class Patient(Worker):
    """Prefect's worker for its background tasks, which asks once a second."""

    def __init__(self, docket: Docket, **options: Any) -> None:
        """As the worker's."""
        super().__init__(docket, minimum_check_interval=PATIENCE, scheduling_resolution=PATIENCE, **options)


def main() -> None:
    """Run Prefect's command, which finds the worker by its name."""
    vars(background_workers)["Worker"] = Patient
    sys.argv = ["prefect", "server", *sys.argv[1:]]
    app()


if __name__ == "__main__":
    main()
