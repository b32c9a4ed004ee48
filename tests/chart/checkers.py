"""What kube-score and checkov find in rendered objects, and which findings are waived with a reason (waivers.yaml)."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import yaml

from .conftest import ROOT, Manifest

CHECKOV = "checkov==3.3.30"
WAIVERS = Path(__file__).parent / "waivers.yaml"


@dataclass(frozen=True, order=True, kw_only=True)
class Finding:
    """One check that one object fails."""

    checker: str
    check: str
    severity: str
    on: str
    title: str
    detail: str = ""

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.checker} {self.check} on {self.on}, {self.title}{detail}"


@dataclass(frozen=True, kw_only=True)
class Waiver:
    """A check that objects of a name (a shell pattern on KIND/NAME) may fail, and why."""

    checker: str
    check: str
    object: str
    reason: str

    def covers(self, finding: Finding) -> bool:
        return (finding.checker, finding.check) == (self.checker, self.check) and fnmatch(finding.on, self.object)


class CheckerMissing(Exception):
    """A checker cannot be run here; the text says why and how to have it."""


def waivers() -> list[Waiver]:
    """Those of waivers.yaml."""
    return [Waiver(**one) for one in yaml.safe_load(WAIVERS.read_text())]


def complaints(findings: Iterable[Finding], waivers: Iterable[Waiver]) -> list[str]:
    """The findings that no waiver covers, and the waivers that cover no finding."""
    findings, waivers = list(findings), list(waivers)
    return [
        *(str(one) for one in findings if not any(waiver.covers(one) for waiver in waivers)),
        *(
            f"waivers.yaml: {waiver.checker} {waiver.check} on {waiver.object} covers no finding any more: remove it"
            for waiver in waivers
            if not any(waiver.covers(one) for one in findings)
        ),
    ]


def unexplained(checker: str, shapes: Iterable[Sequence[Manifest]]) -> list[str]:
    """What one checker finds in any of the shapes without a waiver, and its waivers that none of them needs."""
    findings = {finding for objects in shapes for finding in CHECKERS[checker](objects)}
    return complaints(sorted(findings), (waiver for waiver in waivers() if waiver.checker == checker))


def kube_score(objects: Sequence[Manifest]) -> list[Finding]:
    """The checks that kube-score grades CRITICAL or WARNING."""
    if shutil.which("kube-score") is None:
        raise CheckerMissing("kube-score is not installed: https://github.com/zegl/kube-score#installation")
    done = _run("kube-score", "score", "--output-format", "json", "-", stdin=yaml.safe_dump_all(objects))
    found = []
    for one in json.loads(done.stdout):
        on = f"{one['type_meta']['kind']}/{one['object_meta']['name']}"
        for check in one["checks"]:
            if not check["skipped"] and check["grade"] <= 5:
                comments = check["comments"] or []
                details = {": ".join(filter(None, (c["path"], c["summary"]))) for c in comments}
                found.append(
                    Finding(
                        checker="kube-score",
                        check=check["check"]["id"],
                        severity="critical" if check["grade"] <= 1 else "warning",
                        on=on,
                        title=check["check"]["name"],
                        detail="; ".join(sorted(details)),
                    )
                )
    return sorted(found)


def checkov(objects: Sequence[Manifest]) -> list[Finding]:
    """The checks of checkov's framework `kubernetes` that fail; it has no severities without an account."""
    with tempfile.TemporaryDirectory() as folder:
        rendered = Path(folder) / "objects.yaml"
        rendered.write_text(yaml.safe_dump_all(objects))
        arguments = ["--framework", "kubernetes", "--file", str(rendered), "--output", "json", "--quiet", "--compact"]
        # Without a download it reads nothing from its maker's service.
        done = _run(*_checkov(), *arguments, "--soft-fail", "--skip-download")
    if not done.stdout.lstrip().startswith("{"):
        raise CheckerMissing(f"{CHECKOV} cannot be run: {done.stderr.strip()[-500:]}")
    report = json.loads(done.stdout)
    # With nothing to report it answers with the counts alone.
    failed = report["results"]["failed_checks"] if "results" in report else []
    return sorted(
        {
            Finding(
                checker="checkov",
                check=one["check_id"],
                severity="failed",
                on=_resource(one["resource"]),
                title=one["check_name"],
            )
            for one in failed
        }
    )


CHECKERS: dict[str, Callable[[Sequence[Manifest]], list[Finding]]] = {"kube-score": kube_score, "checkov": checkov}


def versions() -> dict[str, str]:
    """Each checker's version, in its own words."""
    return {"kube-score": _run("kube-score", "version").stdout.strip(), "checkov": CHECKOV.partition("==")[2]}


def _resource(resource: str) -> str:
    """KIND/NAME of checkov's KIND.NAMESPACE.NAME; a pod that a template makes is its maker's."""
    kind, _, name = resource.split(" ", maxsplit=1)[0].split(".", 2)
    return f"{kind}/{name}"


def _checkov() -> list[str]:
    """Apart from the project's environment, whose dependencies are not checkov's."""
    pinned = ROOT / ".local" / "uv" / "bin" / "uv"
    uv = os.environ.get("UV") or shutil.which("uv") or (str(pinned) if pinned.exists() else None)
    if uv is None:
        raise CheckerMissing("uv is not installed, which runs checkov: make environment")
    return [uv, "tool", "run", "--quiet", CHECKOV]


def _run(*command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT, env=os.environ
    )
