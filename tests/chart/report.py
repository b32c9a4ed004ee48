"""This chart's findings beside those of prefect-helm's server and worker charts, from one run: docs/checks.md."""

import asyncio
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prefect_kubernetes import KubernetesWorker

from .checkers import CHECKERS, Finding, versions, waivers
from .conftest import ROOT, SCENARIOS, Manifest
from .installed import NAMESPACE, flow_job, named, ours, theirs

TARGET = ROOT / "docs" / "checks.md"
# A worker must be told its pool and its server; all else as each chart has it.
WORKER = ("worker.config.workPool=pipelines", "worker.apiConfig=selfHostedServer")
WORKER_API = f"worker.selfHostedServerApiConfig.apiUrl=http://prefect-server.{NAMESPACE}.svc.cluster.local:4200/api"

TEXT = """# What other people's checkers say

Written by `make checks-report`. kube-score ({kube_score}) and checkov ({checkov}, its Kubernetes checks)
read one rendering of each: this chart at {revision} with `k8s/kind/values.yaml`, which has every part in it, and
[prefect-helm](https://github.com/PrefectHQ/prefect-helm) at {theirs}, both of its charts with their own
defaults and the worker told its pool and its server. Each side has the Job of one flow run with it, made by Prefect's
own worker code: from this chart's base job template, and from Prefect's default. prefect-helm's dependencies:

{dependencies}

A finding is one check that one object fails. What stays in this chart is explained, line by line, in
[waivers.yaml](../tests/chart/waivers.yaml); `make check-chart` fails on any other.

{totals}

## By check

How many objects fail it.

{checks}
"""


@dataclass(frozen=True)
class Counted:
    """Objects, and what the checkers find in them."""

    name: str
    objects: list[Manifest]
    findings: list[Finding]

    @classmethod
    def of(cls, name: str, objects: list[Manifest]) -> "Counted":
        return cls(name, objects, [finding for check in CHECKERS.values() for finding in check(objects)])

    @property
    def pods(self) -> int:
        """How many make pods, or are some."""
        return sum(1 for one in self.objects if "template" in one.get("spec", {}) or one["kind"] == "Pod")

    def count(self, checker: str, severity: str) -> int:
        return sum(1 for finding in self.findings if (finding.checker, finding.severity) == (checker, severity))

    def row(self) -> list[Any]:
        counts = [
            self.count("kube-score", "critical"),
            self.count("kube-score", "warning"),
            self.count("checkov", "failed"),
        ]
        return [self.name, len(self.objects), self.pods, *counts, round(sum(counts) / self.pods, 1)]


def write(prefect_helm: Path) -> None:
    """Render all, run the checkers and write the report."""
    mine = Counted.of("this chart", asyncio.run(ours(SCENARIOS["kind"])))
    with tempfile.TemporaryDirectory() as folder:
        server, server_parts = _copied(prefect_helm / "charts" / "prefect-server", Path(folder))
        worker, worker_parts = _copied(prefect_helm / "charts" / "prefect-worker", Path(folder))
        job = asyncio.run(flow_job(KubernetesWorker.get_default_base_job_template(), namespace=NAMESPACE))
        rows = [
            Counted.of("prefect-server", theirs(server)),
            Counted.of("prefect-worker", theirs(worker, *(f"--set={one}" for one in (*WORKER, WORKER_API)))),
            Counted.of("a flow run's Job by Prefect's default", [named(job)]),
        ]
    both = Counted(
        "prefect-helm in all",
        [one for row in rows for one in row.objects],
        [finding for row in rows for finding in row.findings],
    )
    tools = versions()
    rows = [*rows, both]
    TARGET.write_text(
        TEXT.format(
            kube_score=tools["kube-score"].removeprefix("kube-score version: "),
            checkov=tools["checkov"],
            revision=_git(ROOT, "describe", "--always", "--dirty", "--exclude", "*"),
            theirs=_git(prefect_helm, "log", "-1", "--format=%h of %cs"),
            dependencies="\n".join(f"- {said}" for said in server_parts + worker_parts),
            totals=_table(
                [
                    "",
                    "objects",
                    "with pods",
                    "kube-score critical",
                    "warning",
                    "checkov",
                    "findings per pod",
                ],
                [row.row() for row in (mine, *rows)],
            ),
            checks=_table(
                [
                    "check",
                    "",
                    f"this chart, {mine.pods} with pods",
                    f"prefect-helm, {both.pods} with pods",
                    "why it stays here",
                ],
                _by_check(mine.findings, both.findings),
            ),
        )
    )
    print(f"{TARGET.relative_to(ROOT)} written")  # noqa: T201


def _by_check(mine: Iterable[Finding], others: Iterable[Finding]) -> list[list[Any]]:
    mine, others = list(mine), list(others)
    titles = {(one.checker, one.check): one.title for one in [*mine, *others]}
    here, there = (Counter((one.checker, one.check) for one in found) for found in (mine, others))
    explained: dict[tuple[str, str], list[str]] = {}
    for waiver in waivers():
        if any(waiver.covers(one) for one in mine):
            explained.setdefault((waiver.checker, waiver.check), []).append(waiver.reason)
    unexplained = Counter(
        (one.checker, one.check) for one in mine if not any(waiver.covers(one) for waiver in waivers())
    )
    for key, count in unexplained.items():
        explained.setdefault(key, []).append(f"{count} to be mended.")
    return [
        [key[1], title, here[key], there[key], " ".join(explained.get(key, []))]
        for key, title in sorted(titles.items())
    ]


def _copied(chart: Path, folder: Path) -> tuple[Path, list[str]]:
    """A copy of a chart, and what became of its dependencies: one that is not beside it, and is off, is left out."""
    copy = folder / chart.name
    shutil.copytree(chart, copy)
    description = yaml.safe_load((copy / "Chart.yaml").read_text())
    values = yaml.safe_load((copy / "values.yaml").read_text())
    kept, said = [], []
    for one in description["dependencies"]:
        found = sorted((copy / "charts").glob(f"{one['name']}/Chart.yaml"))
        if found:
            version = yaml.safe_load(found[0].read_text())["version"]
            kept.append(one)
            asked = "" if version == one["version"] else f" (it asks for {one['version']})"
            said.append(f"{chart.name} with {one['name']} {version}{asked}")
        elif "condition" in one and not values[one["name"]]["enabled"]:
            said.append(f"{chart.name} without {one['name']}, which is off")
        else:
            raise SystemExit(
                f"{chart}/charts/{one['name']} is missing: run `helm dependency build {chart}`, and unpack it"
            )
    (copy / "Chart.yaml").write_text(yaml.safe_dump({**description, "dependencies": kept}))
    return copy, said


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _table(head: list[str], rows: list[list[Any]]) -> str:
    line = ["--:" if isinstance(cell, int | float) else "---" for cell in rows[0]]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (head, line, *rows))
