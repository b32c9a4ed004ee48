"""The chart installs and runs on a node that reaches nothing outside: every image is there, and none is asked for."""

import contextlib
import ipaddress
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from .platform import Kubectl, Platform, Release, modest

CHAIN = "AIR-GAP-TEST"
RUN_SECONDS = 240
# An address that is for documentation alone: where no cut was, nobody would be reached by mistake.
BEYOND = "192.0.2.1"


def on_node(node: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", "exec", node, *command], capture_output=True, text=True, timeout=60, check=False)


def rule(node: str, *arguments: str) -> None:
    done = on_node(node, "iptables", "--wait", *arguments)
    assert done.returncode == 0, f"iptables {' '.join(arguments)}: {done.stderr}"


@contextlib.contextmanager
def cut(node: str, inside: list[str]) -> Iterator[None]:
    """What the node sends, for itself or its pods, ends at these networks; connections from outside stay answered."""
    remove(node)
    rule(node, "--new-chain", CHAIN)
    try:
        rule(node, "--append", CHAIN, "--match", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "--jump", "RETURN")
        for network in ["127.0.0.0/8", *inside]:
            rule(node, "--append", CHAIN, "--destination", network, "--jump", "RETURN")
        rule(node, "--append", CHAIN, "--jump", "REJECT")
        for chain in ("OUTPUT", "FORWARD"):
            rule(node, "--insert", chain, "--jump", CHAIN)
        yield
    finally:
        remove(node)


def remove(node: str) -> None:
    """The chain and the jumps to it, as far as they are there."""
    for chain in ("OUTPUT", "FORWARD"):
        on_node(node, "iptables", "--wait", "--delete", chain, "--jump", CHAIN)
    on_node(node, "iptables", "--wait", "--flush", CHAIN)
    on_node(node, "iptables", "--wait", "--delete-chain", CHAIN)


def refused(node: str) -> int:
    """How many packets the cut has refused."""
    listed = on_node(node, "iptables", "--wait", "--list", CHAIN, "--verbose", "--exact", "--numeric").stdout
    [packets] = [line.split()[0] for line in listed.splitlines() if "REJECT" in line]
    return int(packets)


def inside(release: Release) -> list[str]:
    """The networks of pods and services, and the docker bridge that the node itself is on; IPv4 alone."""
    [node] = release.kubectl.items("nodes")
    bridge = subprocess.run(
        ["docker", "network", "inspect", "kind", "--format", "{{json .IPAM.Config}}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    arguments = release.kubectl.items("pods", "--namespace", "kube-system", "--selector", "component=kube-apiserver")
    [services] = [
        one.partition("=")[2]
        for one in arguments[0]["spec"]["containers"][0]["command"]
        if one.startswith("--service-cluster-ip-range=")
    ]
    networks = [
        *node["spec"]["podCIDRs"],
        *services.split(","),
        *(one["Subnet"] for one in json.loads(bridge.stdout)),
    ]
    return [network for network in networks if ipaddress.ip_network(network).version == 4]


@pytest.fixture
def installed(release: Release, tmp_path: Path) -> Iterator[Release]:
    """A second release, in a namespace of its own, on a node whose egress is cut, with images that are never pulled."""
    node = f"{release.cluster}-control-plane"
    mine = replace(release, namespace="pipelines-air-gap")
    values = tmp_path / "never.json"
    values.write_text(json.dumps(modest() | {"images": {"pullPolicy": "Never"}}))
    try:
        with cut(node, inside(release)):
            before = refused(node)
            on_node(node, "curl", "--max-time", "5", "--silent", f"http://{BEYOND}")
            assert refused(node) > before, "the node's egress is not cut"
            mine.up(values)
            yield mine
    finally:
        mine.kubectl("delete", "namespace", mine.namespace, "--ignore-not-found", "--wait=false")


def pulls(kubectl: Kubectl) -> list[str]:
    """What the node says of images that it fetched, or would have."""
    return [
        event["message"]
        for event in kubectl.items("events")
        if event["reason"] in {"Pulling", "BackOff", "ErrImagePull", "ErrImageNeverPull", "Failed"}
    ]


def test_a_run_completes_where_the_node_reaches_nothing_outside(installed: Release) -> None:
    """Installed with the egress cut, it runs the daily job to its end, and no image was asked for."""
    with Platform.connect(installed) as platform:
        status = platform.finished(platform.start({"logical_date": "2013-01-15"}), within=RUN_SECONDS)
    assert status["state"] == "Completed", status
    assert pulls(installed.kubectl) == []
