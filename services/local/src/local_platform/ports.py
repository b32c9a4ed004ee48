"""Which TCP ports the parts listen on: free ones on request, or the ones asked for, checked before anything starts."""

import contextlib
import socket

from local_platform.errors import PlatformError

HOST = "127.0.0.1"


def free_port() -> int:
    """A port nobody listens on at this moment; the caller binds it soon."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def require_free(port: int, *, part: str, option: str) -> int:
    """The same port, known to be free.

    Args:
        port: the port asked for.
        part: who wants it, for the message.
        option: the variable that chooses another, such as PREFECT_PORT.

    Raises:
        PlatformError: somebody listens there.
    """
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as exc:
            raise PlatformError(
                f"port {port} is in use, and {part} needs it: stop what listens there,"
                f" or choose another with `make dev {option}={port + 1}`"
            ) from exc
    return port
