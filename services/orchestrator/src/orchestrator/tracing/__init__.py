"""Spans about requests and runs, for whoever collects them.

What one step hands to the next is a `traceparent`, and between two steps it lies in the ledger: a run's trace survives
restarts and goes on in whichever replica takes the next step.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Literal, Protocol

Kind = Literal["internal", "server", "producer"]


class Span(Protocol):
    """One step under way."""

    @property
    def traceparent(self) -> str | None:
        """What the next step continues; None where nobody traces."""

    def told(self, *, name: str | None = None, error: str | None = None, **attributes: str | int) -> None:
        """Add what is known only later; an `error` marks the step as failed."""


class Tracing(Protocol):
    """Where spans go. No method waits for a collector or fails for want of one."""

    def span(
        self, name: str, *, parent: str | None, kind: Kind = "internal", **attributes: str | int
    ) -> AbstractContextManager[Span]:
        """A step that lasts as long as the block, in the trace that `parent` names; an exception marks it as failed."""

    def record(
        self,
        name: str,
        *,
        parent: str | None,
        began: datetime,
        ended: datetime,
        error: str | None = None,
        **attributes: str | int,
    ) -> None:
        """A step that is over, in the trace that `parent` names."""

    async def close(self) -> None:
        """Send what is left, for a few seconds at most."""


class Passing:
    """Nobody collects: a traceparent is handed on as it came."""

    @contextmanager
    def span(
        self, name: str, *, parent: str | None, kind: Kind = "internal", **attributes: str | int
    ) -> Iterator[Span]:
        """See Tracing."""
        yield _Passed(parent)

    def record(
        self,
        name: str,
        *,
        parent: str | None,
        began: datetime,
        ended: datetime,
        error: str | None = None,
        **attributes: str | int,
    ) -> None:
        """See Tracing."""

    async def close(self) -> None:
        """See Tracing."""


class _Passed:
    def __init__(self, traceparent: str | None) -> None:
        self.traceparent = traceparent

    def told(self, *, name: str | None = None, error: str | None = None, **attributes: str | int) -> None:
        """See Span."""


def opened(endpoint: str | None) -> Tracing:
    """Tracing to the OTLP collector at `endpoint`, a base URL; without one, nothing of OpenTelemetry is imported."""
    if endpoint is None:
        return Passing()
    from orchestrator.tracing.otlp import Exporting  # noqa: PLC0415 -- it costs time and memory, where it is asked for

    return Exporting(endpoint)
