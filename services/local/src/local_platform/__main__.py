"""The command: `python -m local_platform demo` and `python -m local_platform dev` (make demo, make dev)."""

import argparse
import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from local_platform.database import without_password
from local_platform.demo import run_once, show_result
from local_platform.errors import PlatformError
from local_platform.pipelines import DAILY, installed
from local_platform.ports import free_port, require_free
from local_platform.screen import Screen
from local_platform.stack import Ports, run_stack


async def demo(state: Path, postgres_url: str | None, screen: Screen) -> None:
    """Start everything, run the ETL once, show what came of it, stop everything."""
    ports = Ports(prefect=free_port(), orchestrator=free_port(), source=free_port())
    async with run_stack(state=state, ports=ports, postgres_url=postgres_url, pipelines=[DAILY], steps=screen) as stack:
        started = time.monotonic()
        status = await run_once(stack, on_state=lambda text: screen.event(time.monotonic() - started, text))
        await show_result(stack, status, screen.console)
        screen.console.print(f"\nlogs: {state / 'logs'}; keep it running, with Prefect's UI: [bold]make dev[/]")


async def dev(state: Path, ports: Ports, postgres_url: str | None, screen: Screen) -> None:
    """Start everything and keep it running until the process is told to stop."""
    async with run_stack(
        state=state,
        ports=ports,
        postgres_url=postgres_url,
        pipelines=installed(),
        steps=screen,
        echo=screen.line,
    ) as stack:
        screen.console.print(
            f"\nPrefect UI  {stack.prefect_url.replace('127.0.0.1', 'localhost')}"
            f"\nPipelines   {stack.api_url.replace('127.0.0.1', 'localhost')}/"
            f"\nAPI         {stack.api_url.replace('127.0.0.1', 'localhost')}/api/pipelines"
            f"\nsource      {stack.source_url}/docs"
            f"\nwarehouse   {without_password(stack.warehouse_url)}"
            f"\n\ncurl -X POST http://localhost:{ports.orchestrator}/api/etl/start"
            "\nCtrl-C stops everything.\n",
            highlight=False,
            soft_wrap=True,
        )
        while True:
            stack.processes.check()
            await asyncio.sleep(0.5)


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Hold the state folder; two platforms on one database would take each other's runs."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise PlatformError(
                f"another `make demo` or `make dev` runs on {state}: stop it first, or use another folder with STATE=…"
            ) from exc
        yield


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local_platform", description=__doc__)
    parser.add_argument("command", choices=["demo", "dev"])
    parser.add_argument("--state", type=Path, default=Path(".local"), help="where databases and logs are kept")
    parser.add_argument("--prefect-port", type=int, default=4200, help="dev: Prefect's API and UI (4200)")
    parser.add_argument("--api-port", type=int, default=8080, help="dev: the orchestrator's API (8080)")
    parser.add_argument("--source-port", type=int, default=8090, help="dev: the source (8090)")
    return parser.parse_args()


async def _run(arguments: argparse.Namespace, screen: Screen) -> None:
    state = arguments.state.resolve()
    # A URL carries a password: it comes by the environment, which `ps` does not show.
    postgres_url = os.environ.get("DATABASE_URL") or None
    this = asyncio.current_task()
    assert this is not None  # noqa: S101 - called by asyncio.run
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    with _alone(state):
        if arguments.command == "demo":
            await demo(state, postgres_url, screen)
            return
        ports = Ports(
            prefect=require_free(arguments.prefect_port, part="the Prefect server", option="PREFECT_PORT"),
            orchestrator=require_free(arguments.api_port, part="the orchestrator", option="API_PORT"),
            source=require_free(arguments.source_port, part="the source", option="SOURCE_PORT"),
        )
        await dev(state, ports, postgres_url, screen)


def main() -> None:
    """Exit status: 0 done, 1 something failed, 130 interrupted during a demo."""
    arguments = _parse()
    screen = Screen(Console(), Console(stderr=True))
    try:
        asyncio.run(_run(arguments, screen))
    except PlatformError as error:
        screen.failure(error)
        sys.exit(1)
    except (asyncio.CancelledError, KeyboardInterrupt):
        screen.console.print("stopped")
        sys.exit(0 if arguments.command == "dev" else 130)


if __name__ == "__main__":
    main()
