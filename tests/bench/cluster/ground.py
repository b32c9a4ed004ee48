"""What benchmarks on a cluster stand on: a kind cluster with the release, stock Prefect and the trivial flow on it."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from ...integration.platform import Kubectl
from ..benchmark import Setting
from ..machine import Unready
from ..series import ROOT
from .node import Node, watched
from .sides import Ours, Stock

CLUSTER = os.environ.get("CLUSTER", "bench")
UP_SECONDS = 1800


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The sides, the Kubernetes API, the node's readings, and the image that holds the trivial flow."""

    ours: Ours
    stock: Stock
    kubernetes: httpx.Client
    node: Node
    image: str


@contextmanager
def prepared(setting: Setting) -> Iterator[Ground]:
    """Both sides, up and reached. The cluster stays afterwards: `make down CLUSTER=bench` removes it.

    Raises:
        Unready: it could not be made; the text is what the script said.
    """
    setting.say(f"  the kind cluster {CLUSTER}, with both sides (minutes, where it is new)")
    done = subprocess.run(
        [ROOT / "tests" / "bench" / "cluster" / "up"],
        env=os.environ | {"CLUSTER": CLUSTER, "NAMESPACE": "pipelines", "RELEASE": "pipelines"},
        capture_output=True,
        text=True,
        timeout=UP_SECONDS,
        check=False,
    )
    if done.returncode:
        raise Unready(f"tests/bench/cluster/up ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
    ours, stock = Ours(cluster=CLUSTER), Stock(cluster=CLUSTER)
    with ours.opened(), stock.opened(), watched(CLUSTER) as node, _proxied(stock.kubectl) as kubernetes:
        document = stock.prefect.get("/deployments/name/trivial/stock").raise_for_status().json()
        image = document["job_variables"]["image"]
        yield Ground(ours=ours, stock=stock, kubernetes=kubernetes, node=node, image=image)


@contextmanager
def _proxied(kubectl: Kubectl) -> Iterator[httpx.Client]:
    """The Kubernetes API without a credential to carry."""
    command = kubectl.command("proxy", "--port=0")
    proxy = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert proxy.stdout is not None
        line = proxy.stdout.readline()
        found = re.search(r"127\.0\.0\.1:\d+", line)
        if found is None:
            raise Unready(f"kubectl proxy: {line}")
        with httpx.Client(base_url=f"http://{found[0]}", timeout=30) as client:
            yield client
    finally:
        proxy.terminate()
        proxy.wait()
