"""Why one run does not go on, or ended, in the same words everywhere: status, runs, metrics, log and events."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from orchestrator.catalogue import CATALOGUE, Kind


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why one run does not go on, or ended: the evidence, a command to paste, and since when."""

    id: str
    detail: str
    fix: str
    since: datetime

    @property
    def title(self) -> str:
        """What it is called; for an id of a newer release, the id itself."""
        known = CATALOGUE.get(self.id)
        return known.title if known else self.id

    def __str__(self) -> str:
        return f"{self.id} {self.title}: {self.detail}"


@dataclass(frozen=True, kw_only=True)
class Commands:
    """How the commands of a fix are begun where this service runs."""

    namespace: str | None
    prefect_api: str

    def fix(self, kind: Kind, names: Mapping[str, object]) -> str:
        """The command for a reason of that kind, with each of `names` quoted as a shell needs it."""
        written = kind.fix if self.namespace or kind.fix_here is None else kind.fix_here
        quoted = {name: shlex.quote(str(value)) for name, value in names.items()}
        begun = {"kubectl": "kubectl", "prefect": "prefect", "prefect_api": shlex.quote(self.prefect_api)}
        if self.namespace:
            begun["kubectl"] = f"kubectl --namespace {self.namespace}"
            server = (urlsplit(self.prefect_api).hostname or "prefect-server").split(".", maxsplit=1)[0]
            begun["server"] = server
            begun["prefect"] = f"{begun['kubectl']} exec service/{server} -- prefect"
        return written.format_map(begun | quoted)

    def reason(self, kind: str, detail: str, *, since: datetime, **names: object) -> Reason:
        """A reason of the catalogue's `kind`; `names` are those its fix asks for."""
        return Reason(id=kind, detail=detail, fix=self.fix(CATALOGUE[kind], names), since=since)
