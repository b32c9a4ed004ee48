"""What a bundle holds: versions, objects, events and logs, as far as this user may see them, each without secrets."""

import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from pipelines_client.doctor.checks import Side
from pipelines_client.doctor.redaction import Redactor
from pipelines_client.doctor.sights import Sights, Unseen
from pipelines_client.doctor.sights.cluster import Object, name
from pipelines_client.errors import ClientError

SECONDS = 60.0
LINES = 200
LOG_BYTES = 256 * 1024
# No Secrets, and of ConfigMaps the registration alone: what others put there is not ours to hand on.
KINDS = (
    "pods",
    "deployments",
    "statefulsets",
    "jobs",
    "services",
    "networkpolicies",
    "persistentvolumeclaims",
)
PATHS = {"pipelines": "/api/pipelines", "readyz": "/readyz"}


def collected(sights: Sights, sides: frozenset[Side], report: Any, redactor: Redactor) -> Iterator[tuple[str, str]]:
    """Each file's name and text. The last, missing.txt, says what could not be had, and why."""
    ends = time.monotonic() + SECONDS
    missing: list[str] = []

    def had(file: str, read: Callable[[], str]) -> Iterator[tuple[str, str]]:
        if time.monotonic() > ends:
            missing.append(f"{file}: there was no time left for it")
            return
        try:
            yield file, read()
        except (ClientError, Unseen, OSError, ValueError, LookupError, TypeError) as exc:
            missing.append(f"{file}: {redactor.text(str(exc))}")

    def document(told: Any) -> str:
        return json.dumps(redactor.value(told), indent=1, ensure_ascii=False, default=str)

    yield "report.json", document(report)
    yield "versions.json", document(_versions(sights, sides))
    if Side.CLUSTER in sides:
        for kind in KINDS:
            yield from had(f"cluster/{kind}.json", lambda kind=kind: document(sights.cluster.listed(kind)))  # type: ignore[misc]
        yield from had("cluster/events.json", lambda: document(_events(sights)))
        yield from had("cluster/quotas.json", lambda: document(sights.cluster.listed("resourcequotas", whole=True)))
        yield from had("cluster/nodes.json", lambda: document(_conditions(sights)))
        yield from had("cluster/registration.json", lambda: document(sights.cluster.registration))
        yield from had("cluster/revisions.json", lambda: document(sights.cluster.revisions))
        for pod, container, previous in _containers(sights, missing):
            file = f"logs/{pod}/{container}{'.previous' if previous else ''}.log"
            yield from had(file, lambda of=(pod, container, previous): redactor.text(_log(sights, *of)))  # type: ignore[misc]
    for file, path in PATHS.items():
        yield from had(f"service/{file}.json", lambda path=path: document(sights.service.answered(path).json))  # type: ignore[misc]
    yield from had(
        "service/metrics.txt", lambda: redactor.text(sights.service.look("/metrics", accept="text/plain").text)
    )
    if Side.MACHINE in sides:
        for log in sorted((sights.machine.state / "logs").glob("*.log")):
            yield from had(f"machine/{log.name}", lambda log=log: redactor.text(_tail(log.read_bytes())))  # type: ignore[misc]
    yield "missing.txt", "".join(f"{one}\n" for one in missing)


def _versions(sights: Sights, sides: frozenset[Side]) -> Object:
    told: Object = {
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "client": version("pipelines-client"),
        "python": sys.version,
        "system": platform.platform(),
        "packages": sights.machine.installed if Side.MACHINE in sides else {},
    }
    for what, read in (
        ("service", lambda: sights.service.look("/openapi.json").json["info"]),
        ("kubernetes", lambda: sights.cluster.version if Side.CLUSTER in sides else None),
        ("images", lambda: _images(sights) if Side.CLUSTER in sides else None),
    ):
        try:
            told[what] = read()
        except (ClientError, Unseen, LookupError, TypeError, ValueError) as exc:
            told[what] = f"not seen: {exc}"
    return told


def _images(sights: Sights) -> dict[str, str]:
    return {
        f"{name(pod)}/{one['name']}": one.get("imageID") or one.get("image", "")
        for pod in sights.cluster.listed("pods")
        for one in pod["status"].get("containerStatuses") or ()
    }


def _events(sights: Sights) -> list[Object]:
    kept = ("type", "reason", "message", "count", "involvedObject", "firstTimestamp", "lastTimestamp", "eventTime")
    return [{key: one.get(key) for key in kept} for one in sights.cluster.listed("events", whole=True)]


def _conditions(sights: Sights) -> list[Object]:
    """Of nodes what may matter here: not their addresses, nor who else's images they hold."""
    kept = ("conditions", "allocatable", "nodeInfo")
    return [{"name": name(one), **{key: one["status"].get(key) for key in kept}} for one in sights.cluster.nodes()]


def _containers(sights: Sights, missing: list[str]) -> Iterable[tuple[str, str, bool]]:
    try:
        pods = sights.cluster.listed("pods")
    except (ClientError, Unseen) as exc:
        missing.append(f"logs: {exc}")
        return
    for pod in pods:
        for one in (
            *(pod["status"].get("initContainerStatuses") or ()),
            *(pod["status"].get("containerStatuses") or ()),
        ):
            yield name(pod), one["name"], False
            if one.get("restartCount"):
                yield name(pod), one["name"], True


def _log(sights: Sights, pod: str, container: str, previous: bool) -> str:
    return _tail(sights.cluster.log(pod, container, lines=LINES, previous=previous).encode())


def _tail(log: bytes) -> str:
    lines = log[-LOG_BYTES:].decode(errors="replace").splitlines()[-LINES:]
    return "".join(f"{line}\n" for line in lines)
