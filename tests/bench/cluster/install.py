"""`install`: from an empty namespace, on a cluster that has the images, to the first daily run Completed."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from ...integration.platform import Kubectl
from ..benchmark import Benchmark, Figures, Setting, Target, Variant
from ..machine import Unready, awaited
from ..series import ROOT
from .ground import CLUSTER, prepared
from .sides import Ended, Ours, Side, Stock

WITHIN_SECONDS = 600
_DAY = "2013-01-15"


@contextmanager
def opened(setting: Setting) -> Iterator[Callable[[Variant], Figures]]:
    """Both were installed once, so that every image is on the node; what is installed again is just what was there."""
    with prepared(setting) as ground:
        values, manifest = setting.folder / "values.json", setting.folder / "stock.yaml"
        ours, stock = ground.ours.kubectl, ground.stock.kubectl
        values.write_text(_run("helm", *_bound(ours), "get", "values", "pipelines", "--output", "json"))
        manifest.write_text(_stock_manifest(stock))

    def take(variant: Variant) -> Figures:
        if variant.name == "stock":
            _empty(stock)
            begun = time.time()
            stock("apply", "--filename", str(manifest))
            return _first(Stock(cluster=CLUSTER, flow="daily"), "stock", {"day": _DAY}, begun)
        _empty(ours)
        begun = time.time()
        _run("helm", *_bound(ours), "install", "pipelines", str(ROOT / "charts" / "pipelines"), "--values", str(values))
        return _first(Ours(cluster=CLUSTER), "etl", {"logical_date": _DAY}, begun)

    yield take


def _first(side: Side, deployment: str, day: dict[str, str], begun: float) -> dict[str, float]:
    """Ask for a run until one is accepted, then follow it to its end."""

    def accepted() -> str | None:
        try:
            with side.opened():
                return side.start(deployment, day)
        except (httpx.HTTPError, AssertionError):
            return None

    asked = awaited(accepted, within=WITHIN_SECONDS, every=0.2, what=f"{deployment} takes a run")
    taken = time.time()

    def ended() -> Ended | None:
        try:
            with side.opened():
                flow_run_id = awaited(
                    lambda: side.flow_run(asked), within=WITHIN_SECONDS, what=f"a flow run for {asked}"
                )
                return awaited(
                    lambda: side.ended(flow_run_id), within=WITHIN_SECONDS, every=0.5, what=f"{flow_run_id} ended"
                )
        except (httpx.HTTPError, AssertionError):
            return None

    end = awaited(ended, within=WITHIN_SECONDS, what=f"{asked} ended")
    if end.state != "COMPLETED":
        raise Unready(f"the first run at {deployment} ended {end.state}")
    return {"accepted_seconds": taken - begun, "completed_seconds": end.at - begun}


def _empty(kubectl: Kubectl) -> None:
    """The namespace, with nothing in it and no volume left."""
    everywhere = Kubectl(kubectl.context, "default")
    everywhere("delete", "namespace", kubectl.namespace, "--ignore-not-found")
    everywhere("create", "namespace", kubectl.namespace)


def _stock_manifest(kubectl: Kubectl) -> str:
    """The manifest of stock Prefect with the images that run now."""
    text = Path(ROOT / "tests" / "faults" / "stock" / "platform.yaml").read_text()
    for name, owner in (
        ("PREFECT_IMAGE", "deployment/prefect-server"),
        ("SOURCE_IMAGE", "deployment/source"),
        ("POSTGRESQL_IMAGE", "statefulset/postgresql"),
        ("FLOW_IMAGE", "job/register"),
    ):
        image = kubectl("get", owner, "--output", "jsonpath={.spec.template.spec.containers[0].image}")
        text = text.replace(name, image)
    return text


def _bound(kubectl: Kubectl) -> list[str]:
    return ["--kube-context", kubectl.context, "--namespace", kubectl.namespace]


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_SECONDS, check=False)
    if done.returncode:
        raise Unready(f"{' '.join(command[:8])} … ended with {done.returncode}: {done.stderr}")
    return done.stdout


INSTALL = Benchmark(
    name="install",
    what="from an empty namespace to the first daily run Completed, the images being on the node",
    variants=(
        Variant(name="ours", title="helm install", ours=True),
        Variant(name="stock", title="kubectl apply of stock Prefect"),
    ),
    targets=(
        Target(
            what="install → first Completed, against stock manifests",
            figure="completed_seconds",
            of="ours",
            against="stock",
            must=1.2,
            aim=0.8,
        ),
    ),
    opened=opened,
    rounds=2,
    notes="""
A run is asked for every fifth of a second until it is taken; its end is the moment that Prefect keeps. Ours took 29 and
28 s, stock 39 and 111: probably because its registration does not wait for its server, and is begun again after pauses
that grow.
""",
)
