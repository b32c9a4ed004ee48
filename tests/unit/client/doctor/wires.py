"""The two wires that the doctor looks at: Kubernetes' API server and the orchestrator, on ports of this machine."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Object = dict[str, Any]
NAMESPACE = "pipelines"
RELEASE = "pipelines"
COLLECTION = re.compile(
    r"^/apis?/(?:[a-z0-9.]+/)?v1(?:/namespaces/(?P<namespace>[^/]+))?/(?P<kind>[a-z]+)(?:/(?P<name>[^/]+))?$"
)
# What /version is answered with.
VERSION = {"major": "1", "minor": "34+", "gitVersion": "v1.34.1"}


class Wires:
    """Both sides, as a test moves them.

    `denied` are (verb, kind) that the user may not, `rights` kinds that they may not create, `silent` paths that are
    never answered, `answers` the orchestrator's, by path.
    """

    def __init__(self) -> None:
        self.objects: dict[str, list[Object]] = {}
        self.texts: dict[str, str] = {}
        self.version: Object = VERSION
        self.denied: set[tuple[str, str]] = set()
        self.rights: set[str] = set()
        self.silent: set[str] = set()
        self.over = threading.Event()
        self.answers: dict[str, tuple[int, Any]] = {}
        self.date: str | None = None
        self.asked: list[tuple[str, str]] = []
        self.kubernetes = self.api = ""

    def kubeconfig(self, path: Path) -> None:
        """Write one with the single context `here`."""
        context = {"cluster": "c", "user": "u", "namespace": NAMESPACE}
        told = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": self.kubernetes}}],
            "users": [{"name": "u", "user": {"token": "of-the-user"}}],
            "contexts": [{"name": "here", "context": context}],
        }
        path.write_text(yaml.safe_dump(told))

    def of(self, kind: str, name: str) -> Object:
        """An object, to be changed."""
        return next(one for one in self.objects[kind] if one["metadata"]["name"] == name)

    def kubernetes_answer(
        self, method: str, path: str, query: dict[str, list[str]], accept: str, asked: Any
    ) -> tuple[int, Any]:
        """What the API server says."""
        if method == "POST":
            assert path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", f"the doctor wrote to {path}"
            return 201, {"status": {"allowed": asked["spec"]["resourceAttributes"]["resource"] not in self.rights}}
        log = re.fullmatch(r"/api/v1/namespaces/[^/]+/pods/([^/]+)/log", path)
        if log:
            return self._permitted("get", "pods/log") or (200, self.texts.get(f"{log[1]}/{query['container'][0]}", ""))
        if re.fullmatch(r"/api/v1/nodes/([^/]+)/proxy/stats/summary", path):
            return self._permitted("get", "nodes/proxy") or (200, self.objects["stats"][0])
        found = COLLECTION.match(path)
        if found is None:
            return (200, self.version) if path == "/version" else (404, {"message": path})
        refused = self._permitted("get" if found["name"] else "list", found["kind"])
        return refused or self._listed(found, query, accept)

    def _listed(self, asked: re.Match[str], query: dict[str, list[str]], accept: str) -> tuple[int, Any]:
        kind, name, namespace = asked["kind"], asked["name"], asked["namespace"]
        every = [
            one
            for one in self.objects.get(kind, [])
            if namespace is None or one["metadata"].get("namespace", NAMESPACE) == namespace
        ]
        if name:
            one = next((one for one in every if one["metadata"]["name"] == name), None)
            return (200, one) if one else (404, {"message": f"{kind} {name} not found"})
        wanted = dict(part.split("=") for part in query.get("labelSelector", [""])[0].split(",") if part)
        chosen = [one for one in every if wanted.items() <= (one["metadata"].get("labels") or {}).items()]
        if "PartialObjectMetadataList" in accept:
            chosen = [{"metadata": one["metadata"]} for one in chosen]
        return 200, {"kind": "List", "apiVersion": "v1", "items": chosen}

    def _permitted(self, verb: str, kind: str) -> tuple[int, Any] | None:
        return (403, {"kind": "Status", "message": "no"}) if (verb, kind) in self.denied else None


def _handler(wires: Wires, *, cluster: bool) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- as the base has it
            """Nobody reads it."""

        def date_time_string(self, timestamp: float | None = None) -> str:
            return (None if cluster else wires.date) or super().date_time_string(timestamp)

        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST", json.loads(self.rfile.read(int(self.headers["content-length"]))))

        def _answer(self, method: str, asked: Any = None) -> None:
            url = urlsplit(self.path)
            wires.asked.append((method, self.path))
            if url.path in wires.silent:
                wires.over.wait(60)
                self.close_connection = True
                return
            if cluster:
                assert self.headers["authorization"] == "Bearer of-the-user"
                status, told = wires.kubernetes_answer(
                    method, url.path, parse_qs(url.query), self.headers.get("accept", ""), asked
                )
            else:
                status, told = wires.answers.get(self.path, wires.answers.get(url.path, (404, {})))
            body = told.encode() if isinstance(told, str) else json.dumps(told).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain" if isinstance(told, str) else "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


@contextmanager
def serving(wires: Wires) -> Iterator[Wires]:
    """Both on ports of this machine, while the block lasts."""
    with ExitStack() as stack:
        for cluster in (True, False):
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), _handler(wires, cluster=cluster)))
            server.daemon_threads = True
            server.block_on_close = False
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            url = f"http://127.0.0.1:{server.server_address[1]}"
            if cluster:
                wires.kubernetes = url
            else:
                wires.api = url
        stack.callback(wires.over.set)
        yield wires
