"""The orchestrator as its callers see it: found where the other commands find it, asked once for each thing."""

import contextlib
import re
import time
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pipelines_client.doctor.sights import Memory, Unseen, remembered
from pipelines_client.errors import Unreachable

if TYPE_CHECKING:
    from pipelines_client.answers import Pipeline, Run
    from pipelines_client.api import Api, Looked
    from pipelines_client.place import Place, Wanted

REFUSALS = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
RUNS = 200
SAMPLE = re.compile(r"^(?P<name>[a-z_]+)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')


class ServiceSight(Memory):
    """What is known of the service. Every property raises what the client's own calls raise, and Unseen."""

    def __init__(self, wanted: "Wanted") -> None:
        super().__init__()
        self._wanted = wanted
        self._open = contextlib.ExitStack()

    def close(self) -> None:
        """Close what was opened to reach it."""
        self._open.close()

    @remembered
    def found(self) -> "tuple[Api, Place]":
        """The API and where it is."""
        from pipelines_client.place import Found  # noqa: PLC0415 -- the first lines are shown before it is loaded

        found = Found(wanted=self._wanted, say=lambda _: None)
        return self._open.enter_context(found.connected())

    def answered(self, path: str, *, accept: str = "application/json") -> "Looked":
        """What it answers at a path, a refusal too."""
        looked: Looked = self.once(path, lambda: self.found[0].look(path, accept=accept))
        return looked

    def look(self, path: str, *, accept: str = "application/json") -> "Looked":
        """What it answers at a path. Raises Unseen where a credential is wanted, or another one."""
        looked = self.answered(path, accept=accept)
        if looked.status in REFUSALS:
            raise Unseen("get", f"{path} of the API ({looked.status})", command="export PIPELINES_API_KEY=YOUR-KEY")
        if looked.status != HTTPStatus.OK:
            told = looked.json
            detail = told.get("detail") if isinstance(told, dict) else None
            raise Unreachable(f"GET {looked.url} is answered {looked.status}: {detail or 'by something else'}")
        return looked

    @property
    def dependencies(self) -> dict[str, Any]:
        """What /readyz says of each thing that it needs."""
        told: dict[str, Any] = self.answered("/readyz").json["dependencies"]
        return told

    @remembered
    def pipelines(self) -> "list[Pipeline]":
        """The pipelines that this user may read."""
        from pipelines_client.answers import Pipelines  # noqa: PLC0415 -- as above

        return Pipelines.model_validate_json(self.look("/api/pipelines").text).pipelines

    def runs(self, pipeline: str, state: str) -> "list[Run]":
        """The latest runs in a state, newest first."""
        from pipelines_client.answers import RunPage  # noqa: PLC0415 -- as above

        path = f"/api/{pipeline}/runs?state={state}&limit={RUNS}"
        return RunPage.model_validate_json(self.look(path).text).runs

    @remembered
    def samples(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        """What it tells Prometheus: each sample's labels and value, by the metric's name."""
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for one in SAMPLE.finditer(self.look("/metrics", accept="text/plain").text):
            of = dict(LABEL.findall(one["labels"] or ""))
            found.setdefault(one["name"], []).append((of, float(one["value"])))
        return found

    def gauge(self, metric: str) -> dict[str, float]:
        """A metric's value by pipeline."""
        return {of["pipeline"]: value for of, value in self.samples.get(metric, ()) if "pipeline" in of}


def ago(moment: datetime) -> str:
    """How long ago something was, roughly."""
    return span((datetime.now(UTC) - moment).total_seconds())


def since(timestamp: float) -> float:
    """Seconds since a Unix timestamp."""
    return time.time() - timestamp


def span(seconds: float) -> str:
    """A duration in two units at most."""
    whole = int(max(0, seconds))
    for unit, size, below, of in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // of
            return f"{whole // size} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"
