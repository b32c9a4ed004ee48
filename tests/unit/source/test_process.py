"""The service as a process: faults on a real socket, its log, and how it refuses to start."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import httpx
import polars as pl
import pytest
from source import settings
from source.settings import Settings, SettingsError

pytestmark = pytest.mark.processes

ARROW = "application/vnd.apache.arrow.stream"


class Server(Protocol):
    """The fixture's running service."""

    url: str

    def log_lines(self) -> list[dict[str, Any]]:
        """What it logged so far."""
        ...


def _set(server: Server, faults: Any) -> None:
    httpx.put(f"{server.url}/faults", json=faults).raise_for_status()


def _raw(server: Server, path: str) -> bytes:
    """Every byte that comes back before the connection closes."""
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port or 80), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: source\r\n\r\n".encode())
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


def test_a_drop_closes_without_a_byte(server: Server) -> None:
    """The connection ends where the answer would begin, and the service goes on."""
    _set(server, {"kind": "drop", "count": 2})
    assert _raw(server, "/airlines") == b""
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        httpx.get(f"{server.url}/airlines")
    assert httpx.get(f"{server.url}/airlines").status_code == 200


@pytest.mark.parametrize("path", ["/airlines", "/flights?date=2013-07-04", "/planes"])
def test_truncation_breaks_a_promise(server: Server, path: str) -> None:
    """The full Content-Length is promised, and half of exactly these bytes come."""
    whole = httpx.get(f"{server.url}{path}").content
    _set(server, {"kind": "truncate", "count": 2})
    head, _, body = _raw(server, path).partition(b"\r\n\r\n")
    assert f"content-length: {len(whole)}".encode() in head.lower()
    assert body == whole[: len(whole) // 2]
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        httpx.get(f"{server.url}{path}")
    assert httpx.get(f"{server.url}{path}").content == whole


def test_an_empty_body_cannot_be_cut(server: Server) -> None:
    """There is no middle of nothing: the answer is the ordinary one."""
    _set(server, {"kind": "truncate"})
    answer = httpx.get(f"{server.url}/weather?date=2013-12-31")
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("accept", ["*/*", ARROW])
def test_garbage_is_neither_representation(server: Server, accept: str) -> None:
    """A complete 200 that says it is what was asked for, and is not."""
    _set(server, {"kind": "garbage", "count": 1})
    answer = httpx.get(f"{server.url}/flights?date=2013-01-01", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == (ARROW if accept == ARROW else "application/x-ndjson")
    with pytest.raises(ValueError, match="codec can't decode"):
        json.loads(answer.content)
    with pytest.raises(pl.exceptions.PolarsError):
        pl.read_ipc_stream(answer.content)


def test_each_request_is_one_json_line(server: Server) -> None:
    """With its correlation id and the faults it met; probes are silent."""
    _set(server, [{"kind": "latency", "seconds": 0.01, "count": 1}, {"kind": "drop", "count": 1}])
    headers = {"X-Correlation-ID": "run-42"}
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{server.url}/airlines", headers=headers)
    httpx.get(f"{server.url}/flights?date=2013-01-01", headers=headers)
    httpx.get(f"{server.url}/healthz", headers=headers)
    httpx.get(f"{server.url}/planes", headers=headers | {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    lines = _eventually_logged(server, "run-42", path="/planes")
    told = [(line["path"], line["status"], line["faults"]) for line in lines]
    assert told == [("/airlines", None, ["latency", "drop"]), ("/flights", 200, []), ("/planes", 200, [])]
    assert [line.get("trace_id") for line in lines] == [None, None, "a" * 32]
    assert lines[1]["query"] == "date=2013-01-01"
    assert all(line["event"] == "request" and line["duration_ms"] > 0 for line in lines)
    assert not [line for line in server.log_lines() if line["level"] in ("warning", "error", "critical")]


def _eventually_logged(server: Server, correlation_id: str, *, path: str) -> list[dict[str, Any]]:
    """The lines of a correlation id once the one about `path` is there: it is written after the answer."""
    deadline = time.monotonic() + 5
    while True:
        lines = [line for line in server.log_lines() if line.get("correlation_id") == correlation_id]
        if any(line["path"] == path for line in lines):
            return lines
        assert time.monotonic() < deadline, f"no log line about {path} within 5 s: {server.log_lines()[-5:]}"
        time.sleep(0.02)


def _start(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "source"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_wrong_setting_ends_the_process() -> None:
    """Exit code 2 and one line, which names the variable and what to put there."""
    ended = _start(SOURCE_PORT="tcp://10.0.0.1:8090")
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert json.loads(line)["event"].startswith("set SOURCE_PORT to a free TCP port, from 1 to 65535")


def test_a_port_in_use_is_a_wrong_setting(free_port: Callable[[], int]) -> None:
    """The line says which variable to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = _start(SOURCE_HOST="127.0.0.1", SOURCE_PORT=str(port))
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert "set SOURCE_PORT to a free TCP port" in json.loads(line)["event"]
    assert "in use" in json.loads(line)["event"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SOURCE_PORT", ""),
        ("SOURCE_PORT", "0"),
        ("SOURCE_PORT", "65536"),
        ("SOURCE_HOST", ""),
        ("SOURCE_LOG_LEVEL", "loud"),
        ("SOURCE_LOG_LEVEL", ""),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Each on one line, with what was found."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"^set {name} to .+ \(it is '{value}'\)$"):
        settings.load()


def test_all_wrong_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to start twice to learn of the second."""
    monkeypatch.setenv("SOURCE_PORT", "x")
    monkeypatch.setenv("SOURCE_LOG_LEVEL", "y")
    with pytest.raises(SettingsError, match=r"^set SOURCE_PORT .*; set SOURCE_LOG_LEVEL [^\n]*$"):
        settings.load()


def test_defaults_need_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing set is a working configuration; a level may be written in capitals."""
    for name in ("SOURCE_HOST", "SOURCE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SOURCE_LOG_LEVEL", "WARNING")
    assert settings.load() == Settings(host="0.0.0.0", port=8090, log_level="warning")  # noqa: S104 - the default
