"""Where the API is: named, or this machine's own platform, or in the cluster of the current context."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from pipelines_client.api import Api, connect
from pipelines_client.errors import Misused, NotFound, Unreachable

URL = "PIPELINES_URL"
KEY = "PIPELINES_API_KEY"
PREFECT_URL = "PIPELINES_PREFECT_URL"

# Where `make dev` listens.
LOCAL = "http://127.0.0.1:8080"
LOCAL_PREFECT = "http://127.0.0.1:4200"
PREFECT_PORT = 4200  # the address that Prefect's page expects its API at, where the chart was told no other
LOCAL_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the command line says about where the API is."""

    url: str | None = None
    context: str | None = None
    namespace: str | None = None


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the API was found, and Prefect's page where that is known.

    `forwarded`: only while this process lives. `trusted`: it was named, or Kubernetes leads there; a credential is not
    for whoever happens to listen on this machine.
    """

    url: str
    prefect_url: str | None
    forwarded: bool = False
    trusted: bool = True


@dataclass
class Found:
    """The API, found when it is first needed, and everything that was opened for that."""

    wanted: Wanted
    say: Callable[[str], None]
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @contextlib.contextmanager
    def api(self) -> Iterator[Api]:
        """A client of the API."""
        with self.connected() as (api, _):
            yield api

    @contextlib.contextmanager
    def connected(self) -> Iterator[tuple[Api, Place]]:
        """A client of the API, and where that is."""
        with self._open:
            place = self._found(prefect=False)
            key = os.environ.get(KEY)
            if key and not place.trusted:
                self.say(f"no credential is sent to {place.url}, which was not named: {URL}={place.url} does that")
                key = None
            yield self._open.enter_context(connect(place.url, key=key)), place

    @contextlib.contextmanager
    def place(self) -> Iterator[Place]:
        """The addresses of the API and of Prefect's page."""
        with self._open:
            yield self._found(prefect=True)

    def _found(self, *, prefect: bool) -> Place:
        url = self.wanted.url or os.environ.get(URL)
        prefect_url = os.environ.get(PREFECT_URL)
        if url:
            if not url.startswith(("http://", "https://")):
                raise Misused(f"the address {url} does not begin with http:// or https://")
            return Place(url=url.rstrip("/"), prefect_url=prefect_url)
        in_cluster = self.wanted.context or self.wanted.namespace
        if not in_cluster and told(f"{LOCAL}/healthz") == {"status": "alive"}:
            local = LOCAL_PREFECT if told(f"{LOCAL_PREFECT}/api/health") is True else None
            return Place(url=LOCAL, prefect_url=prefect_url or local, trusted=False)
        return self._forwarded(prefect_url, prefect=prefect)

    def _forwarded(self, prefect_url: str | None, *, prefect: bool) -> Place:
        self.say("looking for the API in the cluster …")
        from pipelines_client.forward import Cluster  # noqa: PLC0415 -- its import takes longer than most commands

        try:
            cluster = Cluster(self.wanted.context, say=self.say)
            service = cluster.service("orchestrator", namespace=self.wanted.namespace)
            cluster.ready(service)
        except (Unreachable, NotFound) as exc:
            nothing = "" if self.wanted.context else f"; nothing answers at {LOCAL} either"
            hint = exc.hint or f"name the API with --url or {URL}, or start a platform here: make dev"
            raise Unreachable(f"{exc}{nothing}", hint=hint) from exc
        port = self._open.enter_context(cluster.forwarded(service))
        self.say(f"{service.namespace}/{service.name} in context {cluster.context}, on port {port}")
        if prefect and prefect_url is None:
            server = cluster.service("prefect-server", namespace=service.namespace, instance=service.instance)
            try:
                there = self._open.enter_context(cluster.forwarded(server, port=PREFECT_PORT))
            except OSError as exc:
                raise Unreachable(
                    f"port {PREFECT_PORT} is in use, and Prefect's page needs it: {exc}",
                    hint=f"stop what listens there, or name Prefect's page with {PREFECT_URL}",
                ) from exc
            prefect_url = f"http://localhost:{there}"
        return Place(url=f"http://127.0.0.1:{port}", prefect_url=prefect_url, forwarded=True)


def told(url: str) -> Any:
    """What answers there, None where nothing does: somebody else may listen on a port that many like."""
    try:
        return httpx.get(url, timeout=LOCAL_SECONDS, trust_env=False).raise_for_status().json()
    except (httpx.HTTPError, ValueError):
        return None
