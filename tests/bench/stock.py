"""Stock Prefect without a cluster: `prefect server start` at its defaults, on a PostgreSQL, as a child process."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .machine import HOST, free_port, serving

PREFECT = str(Path(sys.executable).with_name("prefect"))


@dataclass(frozen=True, kw_only=True)
class PrefectServer:
    """One that listens; `environment` is what Prefect's other commands need to find it."""

    port: int
    process: int
    environment: Mapping[str, str]

    @property
    def api_url(self) -> str:
        """Where its API is."""
        return f"http://{HOST}:{self.port}/api"


@contextmanager
def prefect_server(folder: Path, database: str, settings: Mapping[str, str]) -> Iterator[PrefectServer]:
    """The server on the database of that URL, while the block lasts; its home is emptied, its log in the folder.

    `settings`: what else is in its environment.

    Raises:
        Unready: it does not listen in time.
    """
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.replace("postgresql://", "postgresql+asyncpg://", 1),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        **settings,
    }
    command = [PREFECT, "server", "start", "--host", HOST, "--port", str(port)]
    log = folder / "server.log"
    with serving(command, port=port, log=log, environment=environment, within=240) as process:
        yield PrefectServer(port=port, process=process, environment=environment)
