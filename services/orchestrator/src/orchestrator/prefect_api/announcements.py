"""Prefect's announcements of what happens to flow runs: a hint where to look now, never the truth itself.

They may be late, doubled or lost; the sync's poll is what states rest on.
"""

import asyncio
import json
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.frames import CloseCode
from websockets.typing import Subprotocol

from orchestrator.resilience import backoff
from orchestrator.settings import PREFIX, Settings

GATHER_SECONDS = 0.1  # what is announced together is looked at together
ANSWER_SECONDS = 5.0
FOR_EVER = timedelta(days=3650)
FLOW_RUN = "prefect.flow-run."
HEARTBEAT = "prefect.flow-run.heartbeat"

log = structlog.get_logger(__name__)


class Announcements:
    """A subscription to the events of flow runs, kept up for as long as `work` goes on."""

    def __init__(self, settings: Settings, *, heard: Callable[[Collection[UUID]], None]) -> None:
        """`heard` is called soon after something was announced, with the flow runs; with none, it may be any."""
        scheme, _, rest = settings.prefect_api_url.partition("://")
        self._url = f"{'wss' if scheme == 'https' else 'ws'}://{rest}/events/out"
        secret = settings.prefect_auth_string
        self._token = secret.get_secret_value() if secret else None
        self._heard = heard

    async def work(self) -> None:
        """Subscribe, and again when the connection is lost; returns only by cancellation."""
        failures = 0
        while True:
            try:
                options: dict[str, Any] = {"open_timeout": ANSWER_SECONDS, "close_timeout": 1, "proxy": None}
                async with connect(self._url, subprotocols=[Subprotocol("prefect")], **options) as socket:
                    await self._subscribe(socket)
                    failures = 0
                    await self._listen(socket)
            except (OSError, TimeoutError, ValueError, WebSocketException) as exc:
                if failures == 0:
                    log.warning(
                        "Prefect's events are not heard; the poll goes on", reason=str(exc) or type(exc).__name__
                    )
            failures += 1
            await asyncio.sleep(backoff(failures))

    async def _subscribe(self, socket: ClientConnection) -> None:
        await socket.send(json.dumps({"type": "auth", "token": self._token}))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = json.loads(await socket.recv())
        except ConnectionClosed as exc:
            if exc.rcvd is None or exc.rcvd.code != CloseCode.POLICY_VIOLATION:
                raise
            raise ValueError(f"Prefect refuses our credentials ({exc}); set {PREFIX}PREFECT_AUTH_STRING") from exc
        if not isinstance(answer, dict) or answer.get("type") != "auth_success":
            raise ValueError("what answers does not speak like Prefect")
        now = datetime.now(UTC)
        # without an end that lies ahead, Prefect sends what was until now and then nothing more
        occurred = {"since": now.isoformat(), "until": (now + FOR_EVER).isoformat()}
        wanted = {"event": {"prefix": [FLOW_RUN]}, "occurred": occurred}
        await socket.send(json.dumps({"type": "filter", "backfill": False, "filter": wanted}))
        self._heard(())  # whatever happened while nobody listened

    async def _listen(self, socket: ClientConnection) -> None:
        async for message in socket:
            announced = _flow_runs(message)
            with suppress(TimeoutError):
                async with asyncio.timeout(GATHER_SECONDS):
                    while True:
                        announced |= _flow_runs(await socket.recv())
            if announced:
                self._heard(announced)


def _flow_runs(message: str | bytes) -> set[UUID]:
    """The flow run that an announcement is about; none where it changes nothing, or is about no flow run after all.

    Raises:
        ValueError: it is no announcement.
    """
    told = json.loads(message)
    try:
        event, resource = told["event"]["event"], told["event"]["resource"]["prefect.resource.id"]
    except (KeyError, TypeError) as exc:
        raise ValueError(f"what announces does not speak like Prefect: it lacks {exc}") from exc
    if event == HEARTBEAT or not str(resource).startswith(FLOW_RUN):
        return set()
    try:
        return {UUID(str(resource).removeprefix(FLOW_RUN))}
    except ValueError:  # anybody may emit an event of any name: it must not end the subscription
        return set()
