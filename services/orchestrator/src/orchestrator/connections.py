"""What a connection may cost before there is a request: the head of one has a size and a time.

uvicorn itself waits for the rest of a head for ever, and keeps all of it.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 10.0

TOO_SLOW = (408, "Request Timeout", f"the headers were not there after {HEAD_SECONDS:g} s")
TOO_LARGE = (431, "Request Header Fields Too Large", f"the headers are over {HEAD_BYTES} bytes")


class Connection(HttpToolsProtocol):
    """uvicorn's connection, given up when a head is too long in coming or too long."""

    head_seconds = HEAD_SECONDS

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._in_head = True
        self._head_bytes = 0
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._be_patient()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose_patience()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            self._be_patient()
        super().data_received(data)
        # a head that came in one piece is complete by now, and is measured with its request
        if self._in_head and self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self._give_up(*TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        self._be_patient()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._lose_patience()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def _be_patient(self) -> None:
        if self._patience is None:
            self._patience = self.loop.call_later(self.head_seconds, self._give_up, *TOO_SLOW)

    def _lose_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self, status: int, title: str, detail: str) -> None:
        """Close, and say why where something was begun and nothing else is being said."""
        self._lose_patience()
        if self.transport.is_closing():
            return
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering or not self._head_bytes:
            self.transport.close()
            return
        body = f'{{"type": "about:blank", "title": "{title}", "status": {status}, "detail": "{detail}"}}'
        head = f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode())
        self.transport.close()
