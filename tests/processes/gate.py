"""A TCP proxy in front of the Prefect server that keeps a run's end from it, or refuses artifacts; the rest passes."""

import contextlib
import re
import socket
import threading
from urllib.parse import urlsplit

_ARTIFACT = re.compile(rb"POST [^ ]*/artifacts/ ")
_REFUSAL = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_SET_STATE = re.compile(rb"POST [^ ]*/flow_runs/[0-9a-f-]{36}/set_state ")


class Gate:
    """Holds every request that would make a flow run Completed; `held` is set once there is one.

    With `refuse_artifacts` it answers 500 to those that would make an artifact, and holds nothing.
    """

    def __init__(self, api_url: str, *, refuse_artifacts: bool = False) -> None:
        self._refuse_artifacts = refuse_artifacts
        self.refused = 0
        self._server = (urlsplit(api_url).hostname or "", urlsplit(api_url).port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self.held = threading.Event()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/api"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Drop every connection, those held included."""
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            self._open += [client, server]
            for one, other, watched in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(one, other, watched), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket, watched: bool) -> None:
        request = b""
        try:
            while chunk := one.recv(65536):
                request = (request + chunk)[-65536:]
                last = request[max(request.rfind(b"POST /"), 0) :]
                if watched and self._refuse_artifacts and _ARTIFACT.match(last):
                    self.refused += 1
                    one.sendall(_REFUSAL)
                    return
                if watched and not self._refuse_artifacts and _SET_STATE.match(last) and b'"COMPLETED"' in last:
                    self.held.set()
                    return
                other.sendall(chunk)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            return
