"""What a flow run's process hears of its run while the flow runs, and the signs of life that it gives.

A thread asks for the run's state, seldom while Prefect's events tell of changes, more often while they cannot be had;
it never gives up, however long the server is away. Events only wake it: what counts is the state. Prefect's own
observers stop for good when the server has been away for half a minute, and would take two websockets for each run;
a run that is over within a second takes none here.
"""

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from prefect.client.schemas.objects import FlowRun, State
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

from etl.prefect_api import ApiRefused, PrefectApi

# The run is Running by then; and events are listened to only in runs that last.
_FIRST_LOOK_SECONDS = 0.25
_LISTEN_AFTER_SECONDS = 1.0

# Between two looks: while events tell of changes, and while they do not.
_SELDOM_SECONDS = 60.0
_OFTEN_SECONDS = 5.0

_LONGEST_PAUSE_SECONDS = 30.0
_CONNECT_SECONDS = 10.0

_log = logging.getLogger(__name__)


class Watch:
    """Watches one flow run from `start` on until `stop`, or for the rest of the process."""

    def __init__(
        self, flow_run: FlowRun, *, flow_name: str, api: PrefectApi, on_cancelling: Callable[[], None]
    ) -> None:
        """`on_cancelling` is called once, in the thread, when the run is seen in Cancelling."""
        self._flow_run = flow_run
        self._flow_name = flow_name
        self._api = api
        self._on_cancelling = on_cancelling
        self._on_suspended: Callable[[State[Any]], None] | None = None
        self._beat_seconds: float | None = None
        self._next_beat = 0.0
        self._listening = False
        self._stopped = False
        self._stop_listening: Callable[[], object] | None = None
        self._wake = threading.Event()

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._look_after, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Neither look nor tell any more, as the run is over."""
        self._stopped = True
        self._wake.set()
        if self._stop_listening is not None:
            self._stop_listening()

    @contextlib.contextmanager
    def suspension(self, mark: Callable[[State[Any]], None]) -> Iterator[None]:
        """While the block runs, `mark` is called with the state when the run is seen to be Suspended."""
        self._on_suspended = mark
        try:
            yield
        finally:
            self._on_suspended = None

    @contextlib.contextmanager
    def beating(self, every_seconds: float) -> Iterator[None]:
        """While the block runs, the run's heartbeat is sent, so often."""
        self._beat_seconds = every_seconds
        try:
            yield
        finally:
            self._beat_seconds = None

    def _look_after(self) -> None:
        self._wake.wait(_FIRST_LOOK_SECONDS)
        listener: threading.Thread | None = None
        while not self._stopped:
            self._wake.clear()
            if self._look():
                return
            self._beat()
            if listener is None:
                self._wake.wait(_LISTEN_AFTER_SECONDS)
                listening = self._listen_until_stopped()
                listener = threading.Thread(target=asyncio.run, args=(listening,), name="listen", daemon=True)
                listener.start()
            pause = _SELDOM_SECONDS if self._listening else _OFTEN_SECONDS
            if self._beat_seconds is not None:
                pause = min(pause, max(0.0, self._next_beat - time.monotonic()))
            self._wake.wait(pause)

    def _look(self) -> bool:
        """Whether the run was cancelled, which leaves nothing more to watch."""
        try:
            state = self._api.read_state(self._flow_run.id)
        except (TimeoutError, ApiRefused, OSError) as exc:
            _log.debug("the run's state cannot be read: %s", exc)
            return False
        if self._stopped:
            return True
        if state["type"] == "CANCELLING":
            self._on_cancelling()
            return True
        if state["type"] == "PAUSED" and state["name"] == "Suspended" and self._on_suspended is not None:
            self._on_suspended(State.model_validate(state))
        return False

    def _beat(self) -> None:
        now = time.monotonic()
        if self._beat_seconds is None or now < self._next_beat:
            return
        self._next_beat = now + self._beat_seconds
        try:
            self._api.emit(self._heartbeat())
        except (OSError, ValueError) as exc:
            self._next_beat = now + _OFTEN_SECONDS
            _log.debug("the heartbeat was not sent: %s", exc)

    def _heartbeat(self) -> dict[str, Any]:
        run = self._flow_run
        related = [
            {
                "prefect.resource.id": f"prefect.flow.{run.flow_id}",
                "prefect.resource.role": "flow",
                "prefect.resource.name": self._flow_name,
            },
            *({"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in run.tags),
        ]
        if run.deployment_id is not None:
            related.append(
                {
                    "prefect.resource.id": f"prefect.deployment.{run.deployment_id}",
                    "prefect.resource.role": "deployment",
                }
            )
        return {
            "id": str(uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": "prefect.flow-run.heartbeat",
            "resource": {"prefect.resource.id": _resource(run.id), "prefect.resource.name": run.name},
            "related": related,
            "payload": {},
        }

    async def _listen_until_stopped(self) -> None:
        loop = asyncio.get_running_loop()
        listening = loop.create_task(self._listen())
        self._stop_listening = lambda: loop.call_soon_threadsafe(listening.cancel)
        if not self._stopped:
            with contextlib.suppress(asyncio.CancelledError):
                await listening

    async def _listen(self) -> None:
        """Wake the thread for each event that may matter; connect again and again."""
        failures = 0
        while True:
            try:
                subscriber = get_events_subscriber(
                    filter=EventFilter(
                        event=EventNameFilter(name=["prefect.flow-run.Cancelling", "prefect.flow-run.Suspended"]),
                        resource=EventResourceFilter(id=[_resource(self._flow_run.id)]),
                    ),
                    reconnection_attempts=0,
                )
                async with asyncio.timeout(_CONNECT_SECONDS):
                    await subscriber.__aenter__()
                try:
                    failures = 0
                    self._listening = True
                    self._wake.set()  # what happened before is in the state
                    async for _ in subscriber:
                        self._wake.set()
                finally:
                    self._listening = False
                    await subscriber.__aexit__(None, None, None)
            except Exception as exc:  # noqa: BLE001 - whatever keeps events away, the state is asked for all the same
                _log.debug("no events, the run's state is asked for instead: %s: %s", type(exc).__name__, exc)
            failures += 1
            pause = min(_LONGEST_PAUSE_SECONDS, 2.0 ** min(failures, 10))
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - not a secret: a fleet shall not return at once


def _resource(flow_run_id: UUID) -> str:
    return f"prefect.flow-run.{flow_run_id}"
