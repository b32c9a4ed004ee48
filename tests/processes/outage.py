"""A TCP proxy in front of the Prefect server that can be away, and can refuse the events' websocket."""

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class Outage:
    """Everything goes through while `away` is not set; with `no_events` no client gets a websocket."""

    def __init__(self, api_url: str, *, no_events: bool = False) -> None:
        self._server = (urlsplit(api_url).hostname or "", urlsplit(api_url).port or 0)
        self._no_events = no_events
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.away = threading.Event()
        self.refused_websockets = 0
        self.turned_away = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/api"
        threading.Thread(target=self._accept, daemon=True).start()

    def begin(self) -> None:
        """The server goes away: what is open ends, what comes is turned away."""
        self.away.set()
        self._drop()

    def end(self) -> None:
        """It is back."""
        self.away.clear()

    def close(self) -> None:
        """No more connections."""
        self._listener.close()
        self._drop()

    def _drop(self) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open = []

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.away.is_set():
                self.turned_away += 1
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            first = client.recv(65536)
            if self._no_events and b"upgrade: websocket" in first.lower():
                self.refused_websockets += 1
                client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                client.close()
                return
            server = socket.create_connection(self._server)
            self._open += [client, server]
            server.sendall(first)
            threading.Thread(target=self._pump, args=(server, client), daemon=True).start()
            self._pump(client, server)

    @staticmethod
    def _pump(one: socket.socket, other: socket.socket) -> None:
        try:
            while chunk := one.recv(65536):
                other.sendall(chunk)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            return
