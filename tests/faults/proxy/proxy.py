"""A proxy before an HTTP API that can be told to misbehave: late, refusing, garbled, silent, or losing answers.

    python proxy.py --upstream prefect-real:4200 --port 4200 --control 9000 [--certificate tls.crt --key tls.key]
        [--upstream-ca ca.crt]

It forwards one request a connection, whatever the client wished, so that each request is judged; an upgrade (a
websocket) is passed through. With a certificate it speaks TLS on both sides. The control port takes one rule at a time:

    PUT /rule {"act": "late", "seconds": 5, "method": "POST", "path": "/jobs$", "count": 3}
    DELETE /rule        everything passes again; what is held is dropped
    GET /rule           {"seen": …, "hit": …, "held": …}

`act` is one of: late (waits, then forwards), refuse (answers `status`, with `retry_after`), garble (bytes that are not
HTTP, and HTTP that is not JSON, in turn), hold (never forwards, never answers), lose (forwards, keeps the answer to
itself), cut (closes at once). `method` and `path` (a regular expression) choose the requests, `count` how many of them.
Only the standard library, so that any image with Python runs it.
"""

import argparse
import asyncio
import contextlib
import json
import re
import ssl
from dataclasses import dataclass, field
from typing import Any

_HEAD_LIMIT = 64 * 1024
_CHUNK = 64 * 1024

ACTS = ("late", "refuse", "garble", "hold", "lose", "cut")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Rule:
    """What happens to which requests; `ended` is set once it no longer holds."""

    act: str
    seconds: float = 0.0
    status: int = 500
    retry_after: int | None = None
    method: str = ""
    path: str = ""
    count: int | None = None
    hit: int = 0
    held: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def read(cls, document: dict[str, Any]) -> "Rule":
        """A rule as the control port takes it.

        Raises:
            ValueError: it is none; the text says why.
        """
        allowed = {"act", "seconds", "status", "retry_after", "method", "path", "count"}
        if unknown := sorted(set(document) - allowed):
            raise ValueError(f"a rule has no {', '.join(unknown)}; it has {', '.join(sorted(allowed))}")
        if document.get("act") not in ACTS:
            raise ValueError(f"act is one of {', '.join(ACTS)}")
        re.compile(document.get("path", ""))
        return cls(**document)

    def takes(self, method: str, path: str) -> bool:
        """Whether it happens to this request; counts the request where it does."""
        if self.ended.is_set() or (self.count is not None and self.hit >= self.count):
            return False
        if (self.method and method != self.method) or not re.search(self.path, path):
            return False
        self.hit += 1
        return True


@dataclass(frozen=True)
class Head:
    """The first line and the headers of a request."""

    method: str
    path: str
    raw: bytes

    @classmethod
    async def read(cls, reader: asyncio.StreamReader) -> "Head | None":
        """The next request's; None where the client has left or speaks no HTTP."""
        try:
            raw = await reader.readuntil(b"\r\n\r\n")
            method, path, _version = raw.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
            return None
        return cls(method, path, raw)

    @property
    def is_upgrade(self) -> bool:
        return re.search(rb"(?im)^upgrade:", self.raw) is not None

    def forwarded(self) -> bytes:
        """The head as it is sent on: one request a connection, except where the connection is to be upgraded."""
        if self.is_upgrade:
            return self.raw
        lines = [line for line in self.raw.split(b"\r\n")[:-2] if not line.lower().startswith(b"connection:")]
        return b"\r\n".join([*lines, b"Connection: close", b"", b""])


class Proxy:
    """The proxy: where requests go, and the rule that holds now."""

    def __init__(self, upstream: tuple[str, int], *, upstream_tls: ssl.SSLContext | None = None) -> None:
        self._upstream = upstream
        self._upstream_tls = upstream_tls
        self._garbled = 0
        self.rule: Rule | None = None
        self.seen = 0

    def change(self, rule: Rule | None) -> None:
        """Let another rule hold, or none; what the old one holds is dropped."""
        if self.rule is not None:
            self.rule.ended.set()
        self.rule = rule

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one client connection, to its end."""
        try:
            head = await Head.read(reader)
            if head is not None:
                self.seen += 1
                rule = self.rule
                if rule is not None and rule.takes(head.method, head.path):
                    await self._misbehave(rule, head, (reader, writer))
                else:
                    await self._forward(head, (reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass  # one of the two left; so does the other
        finally:
            await _close(writer)

    async def _misbehave(self, rule: Rule, head: Head, client: Streams) -> None:
        reader, writer = client
        if rule.act == "late":
            await asyncio.sleep(rule.seconds)
            await self._forward(head, client)
        elif rule.act == "refuse":
            await _read_body(head, reader)
            writer.write(_answer(rule.status, b'{"detail":"told to refuse"}', retry_after=rule.retry_after))
            await writer.drain()
        elif rule.act == "garble":
            await _read_body(head, reader)
            self._garbled += 1
            writer.write(
                _answer(200, b"<html>neither JSON nor") if self._garbled % 2 else b"\x00\xff not HTTP \r\n\r\n"
            )
            await writer.drain()
        elif rule.act == "hold":
            rule.held += 1
            await rule.ended.wait()
        elif rule.act == "lose":
            await self._forward(head, client, answered=False)

    async def _forward(self, head: Head, client: Streams, *, answered: bool = True) -> None:
        host, port = self._upstream
        reader, writer = client
        server_reader, server_writer = await asyncio.open_connection(
            host, port, ssl=self._upstream_tls, limit=_HEAD_LIMIT
        )
        try:
            server_writer.write(head.forwarded())
            await server_writer.drain()
            # Whoever of the two ends first ends the exchange: the server has answered, or the client has left.
            sending = asyncio.create_task(_pipe(reader, server_writer))
            receiving = asyncio.create_task(_pipe(server_reader, writer if answered else None))
            await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
            for task in (sending, receiving):
                task.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)
        finally:
            await _close(server_writer)

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one request to the control port."""
        try:
            head = await Head.read(reader)
            if head is None:
                return
            body = await _read_body(head, reader)
            status, document = self._command(head, body)
            writer.write(_answer(status, json.dumps(document).encode()))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            await _close(writer)

    def _command(self, head: Head, body: bytes) -> tuple[int, dict[str, Any]]:
        if head.path != "/rule" or head.method not in {"GET", "PUT", "DELETE"}:
            return 404, {"detail": "GET, PUT or DELETE /rule"}
        if head.method == "PUT":
            try:
                self.change(Rule.read(json.loads(body)))
            except (ValueError, TypeError, re.error) as exc:
                return 422, {"detail": str(exc)}
        if head.method == "DELETE":
            self.change(None)
        rule = self.rule
        return 200, {
            "act": rule.act if rule else "pass",
            "seen": self.seen,
            "hit": rule.hit if rule else 0,
            "held": rule.held if rule else 0,
        }


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None) -> None:
    """Copy bytes to the end of `reader`; without a writer they vanish."""
    while chunk := await reader.read(_CHUNK):
        if writer is not None:
            writer.write(chunk)
            await writer.drain()


async def _read_body(head: Head, reader: asyncio.StreamReader) -> bytes:
    """The request's body, so that the client has sent all when it is answered. Chunked bodies are left unread."""
    length = re.search(rb"(?im)^content-length:\s*(\d+)", head.raw)
    return await reader.readexactly(int(length[1])) if length else b""


def _answer(status: int, body: bytes, *, retry_after: int | None = None) -> bytes:
    headers = [f"HTTP/1.1 {status} Told", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    if retry_after is not None:
        headers.append(f"Retry-After: {retry_after}")
    return "\r\n".join([*headers, "Connection: close", "", ""]).encode() + body


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True, help="host:port")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--control", type=int, default=9000)
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--upstream-ca")
    arguments = parser.parse_args()
    host, _, port = arguments.upstream.rpartition(":")
    tls = None
    if arguments.certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(arguments.certificate, arguments.key)
    upstream_tls = None
    if arguments.upstream_ca:
        upstream_tls = ssl.create_default_context(cafile=arguments.upstream_ca)
        upstream_tls.verify_flags &= ~ssl.VERIFY_X509_STRICT  # a cluster's certificates leave out what it asks for
    proxy = Proxy((host, int(port)), upstream_tls=upstream_tls)
    async with (
        await asyncio.start_server(proxy.serve, port=arguments.port, ssl=tls, limit=_HEAD_LIMIT) as server,
        await asyncio.start_server(proxy.control, port=arguments.control, limit=_HEAD_LIMIT) as control,
    ):
        await asyncio.gather(server.serve_forever(), control.serve_forever())


if __name__ == "__main__":
    asyncio.run(main())
