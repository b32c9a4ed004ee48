"""Kubernetes' side of the wire: Services and pods to be found, and ways into them."""

import asyncio
import http
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

NAME = "app.kubernetes.io/name"
COMPONENT = "app.kubernetes.io/component"
INSTANCE = "app.kubernetes.io/instance"


class Cluster:
    """Enough of an API server for a port-forward. Set `forbidden` to paths that nobody may read."""

    def __init__(self) -> None:
        self.url = ""
        self.services: list[dict[str, Any]] = []
        self.pods: list[dict[str, Any]] = []
        self.forbidden: set[str] = set()
        self.forwarded: list[str] = []

    def add(self, component: str, port: int, *, namespace: str = "pipelines", ready: bool = True) -> None:
        """A part of a release, whose pod listens on that port of this machine."""
        labels = {NAME: "pipelines", INSTANCE: "pipelines", COMPONENT: component}
        metadata = {"name": f"pipelines-{component}", "namespace": namespace, "labels": labels}
        self.services.append(
            {
                "metadata": metadata,
                "spec": {"selector": labels, "ports": [{"name": "http", "port": 8080, "targetPort": "http"}]},
            }
        )
        self.pods.append(
            {
                "metadata": metadata | {"name": f"{metadata['name']}-0"},
                "spec": {
                    "containers": [{"name": component, "ports": [{"name": "http", "containerPort": port}]}],
                },
                "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
            }
        )

    def kubeconfig(self, path: Path, *, namespace: str | None = "pipelines") -> None:
        """Write one with a single context."""
        context = {"cluster": "c", "user": "u"} | ({"namespace": namespace} if namespace else {})
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "here",
                    "clusters": [{"name": "c", "cluster": {"server": self.url}}],
                    "users": [{"name": "u", "user": {"token": "of-the-user"}}],
                    "contexts": [{"name": "here", "context": context}],
                }
            )
        )

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """What a request is told; None for one that wants a way into a pod."""
        assert request.headers["authorization"] == "Bearer of-the-user"
        url = urlsplit(request.path)
        if url.path in self.forbidden:
            return _json(http.HTTPStatus.FORBIDDEN, {"kind": "Status", "message": "no"})
        if url.path.endswith("/portforward"):
            return None
        parts = url.path.split("/")[3:]
        namespace = parts[1] if parts[0] == "namespaces" else None
        wanted = dict(one.split("=") for one in parse_qs(url.query)["labelSelector"][0].split(","))
        every = self.services if parts[-1] == "services" else self.pods
        found = [
            one
            for one in every
            if namespace in {None, one["metadata"]["namespace"]} and wanted.items() <= one["metadata"]["labels"].items()
        ]
        return _json(http.HTTPStatus.OK, {"kind": "List", "apiVersion": "v1", "items": found})

    async def carry(self, connection: ServerConnection) -> None:
        """A way into a pod, in the frames of v4.channel.k8s.io: data on channel 0, errors on channel 1."""
        assert connection.request is not None
        url = urlsplit(connection.request.path)
        self.forwarded.append(url.path)
        port = int(parse_qs(url.query)["ports"][0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for channel in (0, 1):
            await connection.send(bytes([channel]) + port.to_bytes(2, "little"))

        async def back() -> None:
            while chunk := await reader.read(65536):
                await connection.send(b"\x00" + chunk)
            await connection.close()

        returning = asyncio.create_task(back())
        try:
            async for message in connection:
                assert isinstance(message, bytes)
                assert message[0] == 0
                writer.write(message[1:])
        except ConnectionClosed:  # the command has ended
            pass
        finally:
            returning.cancel()
            await asyncio.gather(returning, return_exceptions=True)
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def _json(status: http.HTTPStatus, told: Any) -> Response:
    body = json.dumps(told).encode()
    headers = Headers({"content-type": "application/json", "content-length": str(len(body)), "connection": "close"})
    return Response(status.value, status.phrase, headers, body)


@asynccontextmanager
async def serving(cluster: Cluster) -> AsyncIterator[Server]:
    """The API server on a port of this machine."""
    async with serve(
        cluster.carry,
        "127.0.0.1",
        0,
        process_request=cluster.answer,
        subprotocols=["v4.channel.k8s.io"],  # type: ignore[list-item] # a NewType of str
        compression=None,
    ) as server:
        cluster.url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        yield server
