"""Where the API is found: named, on this machine, or in a cluster by a way that the command opens itself."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from pipelines_client import place
from pipelines_client.errors import NotAllowed, Unreachable
from pipelines_client.place import Found, Wanted

from ..orchestrator.conftest import eventually
from ..orchestrator.test_events import listening
from ..orchestrator.test_keys import OPS, write
from ..orchestrator.wire import PrefectWire
from .cluster import Cluster, serving
from .running import Pipelines, finished, hold


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster that the kubeconfig names."""
    cluster = Cluster()
    async with serving(cluster):
        cluster.kubeconfig(tmp_path / "kubeconfig")
        yield cluster


def port_of(pipelines: Pipelines) -> int:
    assert pipelines.url is not None
    return int(pipelines.url.rpartition(":")[2])


@pytest.fixture
def nowhere(tmp_path: Path) -> Pipelines:
    """The command where nothing says where the API is, but for the cluster."""
    return Pipelines(None, home=tmp_path)


HERE = ("--context", "here")  # what listens on this machine, whoever runs the tests, is not asked


async def test_the_api_is_found_in_the_cluster(cluster: Cluster, nowhere: Pipelines, pipelines: Pipelines) -> None:
    """By the labels of its Service, through a way into a pod that is ready; what is data stays alone on stdout."""
    cluster.add("orchestrator", port_of(pipelines))
    for _ in range(2):
        done = await nowhere("start", "etl", "--json", "--date", "2013-01-15", *HERE)
        assert done.code == 0, done.err
        assert done.json["logical_date"] == "2013-01-15"
    assert "pipelines/pipelines-orchestrator in context here, on port " in done.err
    assert set(cluster.forwarded) == {"/api/v1/namespaces/pipelines/pods/pipelines-orchestrator-0/portforward"}


async def test_a_log_is_followed_through_the_cluster(
    cluster: Cluster, nowhere: Pipelines, pipelines: Pipelines, wire: PrefectWire
) -> None:
    """Lines come while they are made: nothing on the way waits for the end."""
    cluster.add("orchestrator", port_of(pipelines))
    process = await nowhere.begin("start", "etl", "--watch", *HERE)

    async def made() -> str | None:
        return next(iter(wire.flow_runs), None)

    flow_run_id = await eventually(made, within=60, what="Prefect has the run")
    assert flow_run_id is not None
    wire.move(flow_run_id, "RUNNING")
    wire.say(flow_run_id, '{"step": "extract", "flights": 896}')
    assert process.stderr is not None
    async with asyncio.timeout(60):
        while b"extract: flights 896" not in await process.stderr.readline():
            pass
    wire.move(flow_run_id, "COMPLETED")
    wire.say(flow_run_id, "Finished in state Completed()")
    assert (await finished(process)).code == 0


async def test_another_namespace_is_found_where_the_user_may_look(
    cluster: Cluster, nowhere: Pipelines, pipelines: Pipelines, tmp_path: Path
) -> None:
    """In the whole cluster, where the context's namespace has none; who may not look there names it."""
    cluster.kubeconfig(tmp_path / "kubeconfig", namespace=None)
    cluster.add("orchestrator", port_of(pipelines), namespace="elsewhere")
    assert (await nowhere("list", *HERE)).code == 0
    cluster.forbidden = {"/api/v1/services"}
    refused = await nowhere("list", *HERE)
    assert refused.code == 4
    assert "--namespace" in refused.err
    assert (await nowhere("list", *HERE, "--namespace", "elsewhere")).code == 0


async def test_what_the_cluster_lacks_is_told(cluster: Cluster, nowhere: Pipelines) -> None:
    """No release, one that is not ready, several, another context: each with what to do."""
    none = await nowhere("list", *HERE)
    assert (none.code, none.out) == (1, "")
    assert "app.kubernetes.io/component=orchestrator" in none.err
    assert "install the chart" in none.err
    cluster.add("orchestrator", 9, ready=False)
    waiting = await nowhere("list", *HERE)
    assert waiting.code == 1
    assert "no pod of Service pipelines/pipelines-orchestrator is ready" in waiting.err
    assert "kubectl --namespace pipelines get pods" in waiting.err
    cluster.add("orchestrator", 9)
    several = await nowhere("list", *HERE)
    assert several.code == 2
    assert "choose one with --namespace" in several.err
    assert (await nowhere("list", "--context", "there")).code == 2


async def test_a_platform_on_this_machine_comes_first(
    cluster: Cluster, pipelines: Pipelines, free_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where one answers as such; else the cluster; and with neither, the command says what there could be."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("PIPELINES_URL", raising=False)
    said: list[str] = []

    def found() -> str:
        with Found(wanted=Wanted(), say=said.append).place() as found:
            return found.url

    cluster.add("orchestrator", port_of(pipelines))
    cluster.add("prefect-server", port_of(pipelines))
    monkeypatch.setattr(place, "PREFECT_PORT", free_port)
    monkeypatch.setattr(place, "LOCAL", pipelines.url)
    assert await asyncio.to_thread(found) == pipelines.url
    assert said == []
    monkeypatch.setattr(place, "LOCAL", cluster.url.replace("127.0.0.1", "localhost") + "/nowhere")
    cluster.forbidden = {"/nowhere/healthz"}
    assert await asyncio.to_thread(found) != pipelines.url
    (tmp_path / "kubeconfig").unlink()
    with pytest.raises(Unreachable, match="no cluster is known here") as raised:
        await asyncio.to_thread(found)
    assert "; nothing answers at http://localhost:" in str(raised.value)
    assert "make dev" in str(raised.value.hint)


async def test_a_credential_is_not_for_whoever_listens_here(
    database_url: str, wire: PrefectWire, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """To what was found on this machine, and was not named, none is sent; the command says how to."""
    monkeypatch.delenv("PIPELINES_URL", raising=False)
    monkeypatch.setenv("PIPELINES_API_KEY", OPS)
    keys = write(tmp_path / "keys.json", {"name": "ops", "key": OPS})
    said: list[str] = []

    def pipelines(wanted: Wanted) -> list[str]:
        with Found(wanted=wanted, say=said.append).api() as api:
            return [one.name for one in api.pipelines().pipelines]

    async with listening(database_url, wire, auth="apiKey", api_keys_file=keys) as client:
        url = str(client.base_url).rstrip("/")
        monkeypatch.setattr(place, "LOCAL", url)
        with pytest.raises(NotAllowed):
            await asyncio.to_thread(pipelines, Wanted())
        assert said == [f"no credential is sent to {url}, which was not named: PIPELINES_URL={url} does that"]
        assert await asyncio.to_thread(pipelines, Wanted(url=url)) == ["etl"]


async def test_prefects_page_is_reached_through_the_cluster(
    cluster: Cluster, pipelines: Pipelines, free_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On the port where that page expects it; who listens there already is told."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(place, "PREFECT_PORT", free_port)
    cluster.add("orchestrator", port_of(pipelines))
    cluster.add("prefect-server", port_of(pipelines))

    def answers() -> list[str | None]:
        with Found(wanted=Wanted(context="here"), say=lambda _: None).place() as found:
            assert httpx.get(f"{found.prefect_url}/healthz").json() == {"status": "alive"}
            return [found.prefect_url, *([] if found.forwarded else [None])]

    assert await asyncio.to_thread(answers) == [f"http://localhost:{free_port}"]
    with socket.create_server(("127.0.0.1", free_port)), pytest.raises(Unreachable, match="is in use"):
        await asyncio.to_thread(answers)


async def test_pages_are_opened_and_kept_open(
    cluster: Cluster, nowhere: Pipelines, pipelines: Pipelines, tmp_path: Path
) -> None:
    """The API's through the cluster, until Ctrl-C; Prefect's where it was said to be."""
    cluster.add("orchestrator", port_of(pipelines))
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/opened\n')
    browser.chmod(0o755)
    known = {"PIPELINES_PREFECT_URL": "http://prefect.test", "BROWSER": f"{browser} %s"}
    process = await nowhere.begin("open", "--json", *HERE, **known)
    assert process.stdout is not None
    async with asyncio.timeout(60):
        told = json.loads("".join([(await process.stdout.readline()).decode() for _ in range(5)]))
    hold("open", told)
    pages = [told["page"], "http://prefect.test"]

    async def opened() -> bool:
        file = tmp_path / "opened"
        return file.exists() and file.read_text().split() == pages

    await eventually(opened, within=30, what="two pages are opened")
    async with httpx.AsyncClient() as client:
        assert (await client.get(told["api"])).json()["pipelines"][0]["name"] == "etl"
        assert "Needs attention" in (await client.get(told["page"])).text
    process.send_signal(2)
    done = await finished(process)
    assert done.code == 130
    assert "Ctrl-C closes the way" in done.err


async def test_pages_of_a_named_api(pipelines: Pipelines) -> None:
    """Prefect's cannot be told from it."""
    done = await pipelines("open", "--no-browse", "--json")
    told = {"page": f"{pipelines.url}/", "api": f"{pipelines.url}/api/pipelines", "prefect": None}
    assert (done.code, done.json) == (0, told)
    assert (await pipelines("open", "prefect", "--no-browse")).code == 2
    named = await pipelines("open", "--no-browse", PIPELINES_PREFECT_URL="http://prefect.test")
    addresses = [
        f"page     {pipelines.url}/",
        f"api      {pipelines.url}/api/pipelines",
        "prefect  http://prefect.test",
    ]
    assert named.out.splitlines() == addresses
