"""This machine: the checkout that the command runs in, its environment, its ports and the state of `make dev`."""

import os
import shutil
import socket
import sys
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pipelines_client.doctor.sights import Memory, remembered

LOCK = "uv.lock"
HOST = "127.0.0.1"
PART_OF_A_SECOND = 0.5


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where `make dev` listens on this machine."""

    api: int = 8080
    prefect: int = 4200
    source: int = 8090


class MachineSight(Memory):
    """What is known of this machine."""

    def __init__(self, *, folder: Path | None = None, ports: Ports | None = None) -> None:
        """`folder`: where the command runs; the checkout is that or one above it."""
        super().__init__()
        self._folder = folder or Path.cwd()
        self.ports = ports or Ports()
        # make dev is what somebody asks about: a port that is taken then is in its way
        self.wanted = False

    @remembered
    def checkout(self) -> Path | None:
        """The project's checkout, None where there is none."""
        for one in (self._folder, *self._folder.parents):
            if (one / LOCK).is_file() and (one / "services" / "local").is_dir():
                return one
        return None

    @property
    def state(self) -> Path:
        """Where `make dev` keeps its databases and logs."""
        return (self.checkout or self._folder) / os.environ.get("STATE", ".local")

    @remembered
    def environment(self) -> Path | None:
        """Where the checkout's packages are: those of this interpreter, if it is the checkout's own."""
        own = (self.checkout / ".venv") if self.checkout else None
        return own if own is not None and own.is_dir() else None

    @remembered
    def installed(self) -> dict[str, str]:
        """The version of each package that is installed for the checkout, or beside this client, by its name."""
        if self.environment is None:
            found = metadata.distributions()
        else:
            found = metadata.distributions(
                path=[str(one) for one in self.environment.glob("lib/python*/site-packages")]
            )
        return {normal(one.metadata["Name"]): one.version for one in found}

    @remembered
    def locked(self) -> list[dict[str, Any]]:
        """The packages of the checkout's lock."""
        if self.checkout is None:
            return []
        packages: list[dict[str, Any]] = tomllib.loads((self.checkout / LOCK).read_text())["package"]
        return packages

    @remembered
    def needed(self) -> list[str]:
        """What this client's own metadata says that it needs."""
        wanted = metadata.requires("pipelines-client") or []
        return [normal(one.replace(";", " ").split()[0].partition(">")[0].partition("=")[0]) for one in wanted]

    @property
    def python(self) -> str:
        """Which Python this is."""
        return f"{sys.version_info.major}.{sys.version_info.minor}"

    def listens(self, port: int) -> bool:
        """Whether anybody listens there."""
        with socket.socket() as probe:
            probe.settimeout(PART_OF_A_SECOND)
            return probe.connect_ex((HOST, port)) == 0

    def told(self, port: int, path: str) -> Any:
        """What answers there, None where nothing that speaks JSON does."""
        from pipelines_client.place import told  # noqa: PLC0415 -- httpx takes longer to import than help may take

        return told(f"http://{HOST}:{port}{path}")

    def free_bytes(self) -> int:
        """How much room there is where the state is, or will be."""
        folder = self.state
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return name.lower().replace("_", "-").replace(".", "-")
