"""A source that costs nothing: sends files as answers, by the kernel. `python -m tests.bench.load.server FOLDER PORT`.

`GET /flights` and `GET /weather` send FOLDER/flights.arrow and FOLDER/weather.arrow, or, to who accepts NDJSON,
FOLDER/flights.ndjson and so on.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from .day import RECORDED

_TYPES = {"arrow": "application/vnd.apache.arrow.stream", "ndjson": "application/x-ndjson"}


def main(folder: Path, port: int) -> None:
    """Serve until ended."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            kind = "ndjson" if self.headers.get("accept", "") == _TYPES["ndjson"] else "arrow"
            path = folder / f"{urlsplit(self.path).path.strip('/')}.{kind}"
            with path.open("rb") as file:
                self.send_response(200)
                self.send_header("content-type", _TYPES[kind])
                self.send_header("content-length", str(path.stat().st_size))
                self.send_header("x-record-date", RECORDED.isoformat())
                self.end_headers()
                self.wfile.flush()
                self.connection.sendfile(file)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Nothing."""

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
