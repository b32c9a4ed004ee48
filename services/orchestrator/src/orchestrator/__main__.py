"""The command line: `serve`, `migrate`, `check-schema`. Settings are read here and nowhere else."""

import argparse
import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from kubernetes.aio.client import Configuration
from pydantic import ValidationError

from orchestrator import kubernetes_api, migrations
from orchestrator.app import create_app
from orchestrator.connections import Connection
from orchestrator.doors.keys import UnusableKeys
from orchestrator.errors import KubernetesUnavailable, OrchestratorError
from orchestrator.ledger.connection import open_ledger
from orchestrator.settings import PREFIX, DatabaseSettings, Settings, complaints

WRONG_SETTINGS = 2
DRAIN_SECONDS = 20
BACKLOG = 2048

log = structlog.get_logger("orchestrator")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 settings or arguments are wrong."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator", description="The HTTP API in front of Prefect.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="answer the HTTP API until SIGTERM")
    migrate = commands.add_parser("migrate", help="bring the database's schema to this version")
    migrate.add_argument(
        "--wait", type=float, default=60.0, metavar="SECONDS", help="how long to wait for the database"
    )
    check = commands.add_parser("check-schema", help="exit 0 once the database's schema is this version's")
    check.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="how long to wait for it")
    asked = parser.parse_args(arguments)
    try:
        settings = Settings() if asked.command == "serve" else DatabaseSettings()
    except ValidationError as exc:
        for line in complaints(exc):
            print(line, file=sys.stderr)  # noqa: T201 -- for a person, before there is a log
        return WRONG_SETTINGS
    kubernetes = None
    if isinstance(settings, Settings) and (settings.kubernetes_namespace or settings.auth == "kubernetes"):
        try:
            kubernetes = kubernetes_api.configuration()
        except KubernetesUnavailable as exc:
            asking = "KUBERNETES_NAMESPACE" if settings.kubernetes_namespace else "AUTH"
            print(f"{PREFIX}{asking} asks for a cluster, but {exc}", file=sys.stderr)  # noqa: T201 -- as above
            return WRONG_SETTINGS
    log_as_json(settings.log_level)
    if isinstance(settings, Settings):
        return serve(settings, kubernetes)
    return asyncio.run(tend_schema(settings, command=asked.command, seconds=asked.wait))


class Server(uvicorn.Server):
    """uvicorn, which waits for open answers before it closes the application: event streams are ended first."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start up as uvicorn does; what is there then stays, so that no collection of garbage looks through it again.

        To do so took 0.3 s of every busy ten, in which nobody was answered.
        """
        await super().startup(sockets)
        gc.collect()
        gc.freeze()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let event streams come to their end, then shut down as uvicorn does."""
        app = self.config.app
        if isinstance(app, FastAPI) and hasattr(app.state, "parts"):
            app.state.parts.feed.end()
        await super().shutdown(sockets)


def serve(settings: Settings, kubernetes: Configuration | None) -> int:
    """Answer the HTTP API until SIGTERM or SIGINT, then finish what is being answered."""
    # uvicorn raises the signal again once it has shut down in order: that is a success, not a death by signal
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: sys.exit(0))
    try:
        app = create_app(settings, kubernetes=kubernetes)
    except UnusableKeys as exc:
        log.error("cannot serve", reason=str(exc))  # noqa: TRY400 -- the reason says it all
        return WRONG_SETTINGS
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as exc:
        log.error(  # noqa: TRY400 -- the reason says it all
            "cannot listen", host=settings.host, port=settings.port, reason=f"{exc}; choose another ORCHESTRATOR_PORT"
        )
        return 1
    log.info("serving", host=settings.host, port=settings.port, pipelines=[one.name for one in settings.pipelines])
    server = Server(
        uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            # nobody in front of this service is trusted to say whom a request is from
            proxy_headers=False,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )
    server.run(sockets=[listener])
    return 0 if server.started else 1


async def tend_schema(settings: DatabaseSettings, *, command: str, seconds: float) -> int:
    """Migrate the database, or wait until it is migrated; the exit code."""
    db = open_ledger(settings.database_url.get_secret_value(), statement_seconds=None, unused_seconds=0)
    try:
        if command == "migrate":
            await migrations.upgrade(db, seconds=seconds)
        else:
            await migrations.wait(db, seconds=seconds)
    except OrchestratorError as exc:
        log.error(f"{command} failed", reason=str(exc))  # noqa: TRY400 -- the reason says it all
        return 1
    finally:
        await db.dispose()
    log.info(f"{command} done", revision=migrations.head())
    return 0


def log_as_json(level: str) -> None:
    """One JSON object a line on stderr, for our events and for the libraries' alike."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    written: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *written],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # httpx tells every request, alembic every step: the metrics and our own lines already do
    for noisy in ("httpx", "httpcore", "alembic"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))
    structlog.configure(
        processors=[*shared, *written],
        logger_factory=_Lines,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLogger().level),
        cache_logger_on_first_use=True,
    )


class _Lines(structlog.WriteLogger):
    """A logger's lines on stderr. Through the standard library each would cost twice as much, a tenth of an accept."""

    def __init__(self, name: str) -> None:
        super().__init__(sys.stderr)
        self.name = name


if __name__ == "__main__":
    sys.exit(main())
