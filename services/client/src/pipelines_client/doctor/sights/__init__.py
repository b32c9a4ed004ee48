"""What the checks look at, each thing read once in a run, however many checks ask for it, and only if one does."""

import shlex
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pipelines_client.doctor.sights.cluster import ClusterSight
    from pipelines_client.doctor.sights.machine import MachineSight
    from pipelines_client.doctor.sights.service import ServiceSight

T = TypeVar("T")


class Unseen(Exception):
    """This user may not see what a check is about: `verb` on `what`."""

    def __init__(self, verb: str, what: str, *, command: str) -> None:
        super().__init__(f"you may not {verb} {what}: that is not looked at")
        self.command = command


class Memory:
    """Base of the sights: what was read once, or the error that it ended in, for every thread that asks."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._known: dict[Any, Future[Any]] = {}

    def once(self, key: Any, read: Callable[[], T]) -> T:
        """What `read` returns; the first who asks reads, the others wait."""
        with self._guard:
            future = self._known.get(key)
            mine = future is None
            if future is None:
                future = self._known[key] = Future()
        if mine:
            try:
                future.set_result(read())
            except BaseException as exc:
                future.set_exception(exc)
                raise
        told: T = future.result()
        return told

    def _had(self, key: str) -> Any:
        """What was read already; None where nothing was, or that failed."""
        known = self._known.get(key)
        had = known is not None and known.done() and known.exception() is None
        return known.result() if known is not None and had else None


def remembered(method: Callable[[Any], T]) -> property:
    """A property of a Memory that is computed once."""
    return property(lambda self: self.once(method.__name__, lambda: method(self)), doc=method.__doc__)


class _Names(dict[str, str]):
    """Names to fill in; one that is not known stands in capitals, for a person to replace."""

    def __missing__(self, name: str) -> str:
        return name.upper()


def filled(template: str, names: Mapping[str, str]) -> str:
    """A command with its names filled in."""
    return template.format_map(_Names(names))


@dataclass(frozen=True, kw_only=True)
class Sights:
    """This machine, the cluster and the service, none of which has been looked at yet.

    `in_cluster`: the platform is looked for in the cluster; `before`: it is yet to be installed there.
    """

    machine: "MachineSight"
    cluster: "ClusterSight"
    service: "ServiceSight"
    in_cluster: bool
    before: bool = False

    def command(self, template: str, names: Mapping[str, object]) -> str:
        """A command to paste, with each of `names` quoted as a shell needs it."""
        known = {"kubectl": self.cluster.kubectl, "helm": self.cluster.helm}
        known |= {"release": self.cluster.instance, "prefix": self.cluster.prefix}
        return filled(template, known | {name: shlex.quote(str(value)) for name, value in names.items()})
