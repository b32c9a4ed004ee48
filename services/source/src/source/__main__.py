"""Start the service: python -m source."""

import argparse
import errno
import socket
import sys

import uvicorn

from source import logs, settings
from source.app import create_app
from source.records import DatasetError, Records
from source.sabotage import HangUpProtocol
from source.settings import Settings, SettingsError


def main() -> int:
    """Serve until SIGTERM or SIGINT. The exit code is 2 for wrong settings and 1 for an unusable data set."""
    argparse.ArgumentParser(
        prog="python -m source",
        description=__doc__,
        epilog="Settings come from the environment: SOURCE_HOST, SOURCE_PORT, SOURCE_LOG_LEVEL.",
    ).parse_args()
    logs.configure("info")
    try:
        config = settings.load()
        listening = listen(config)
    except SettingsError as exc:
        logs.log.critical(str(exc))
        return 2
    logs.configure(config.log_level)
    with listening:
        try:
            app = create_app(records=Records.load())
        except DatasetError as exc:
            logs.log.critical(str(exc))
            return 1
        serve(app, config=config, listening=listening)
    return 0


def listen(config: Settings) -> socket.socket:
    """A listening socket at the configured address; raises SettingsError where there can be none."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=2048)
    except (OSError, UnicodeError) as exc:
        elsewhere = isinstance(exc, socket.gaierror | UnicodeError) or exc.errno == errno.EADDRNOTAVAIL
        name, value = ("host", config.host) if elsewhere else ("port", config.port)
        reason = getattr(exc, "strerror", None) or exc
        raise SettingsError(settings.wrong(name, f"{value}, and listening on {config.host} failed: {reason}")) from exc


def serve(app: object, *, config: Settings, listening: socket.socket) -> None:
    """Run the server until a signal ends it."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]  # FastAPI is an ASGI application, typed by Starlette's own names
            loop="uvloop",
            http=HangUpProtocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            # Longer than a client keeps an idle connection (httpx: 5 s), so that it is never the server that closes
            # one just as the client reuses it.
            timeout_keep_alive=30,
            timeout_graceful_shutdown=5,
        )
    )
    logs.log.info("listening", host=config.host, port=config.port)
    server.run(sockets=[listening])


if __name__ == "__main__":
    sys.exit(main())
