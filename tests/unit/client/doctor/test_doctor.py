"""The command `pipelines doctor`: forms, exit codes, deadlines, what it looks at, and the page made from its checks."""

import asyncio
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pipelines_client.command import Kind
from pipelines_client.doctor.catalogue import CATEGORIES, CHECKS, chosen
from pipelines_client.doctor.checks import Result, Side
from pipelines_client.doctor.page import page
from pipelines_client.doctor.running import RUN_SECONDS, run

from ...orchestrator.wire import PrefectWire, refused
from ..running import ROOT, Done, Pipelines, clean
from ..test_command import HEAVY, on_a_terminal
from .breaks import BREAKS, Place, broken
from .test_checks import bad, looking, made

# time enough on a busy machine: deadlines are a test's of their own
HERE = ("--context", "here", "--timeout", "100")
BEGUN = "kubectl --context here --namespace pipelines"


@pytest.fixture
def command(place: Place, tmp_path: Path) -> Pipelines:
    """The command where the kubeconfig leads to one wire and PIPELINES_URL to the other."""
    return Pipelines(place.wires.api, home=tmp_path)


async def doctor(command: Pipelines, place: Place, *arguments: str, **environment: str) -> Done:
    """Run it in the checkout."""
    code = "import os, sys; os.chdir(sys.argv.pop(1)); from pipelines_client.__main__ import main; main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, str(place.checkout), "doctor", *arguments),
        env=command.environment | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Done(code=process.returncode, out=out.decode(), err=err.decode())


async def test_lines_are_for_people(place: Place, command: Pipelines) -> None:
    """A title and its dashes, a mark a check; of what is wrong the evidence, a command, and where to read on."""
    with broken(BREAKS["PL001"], place), broken(BREAKS["PL004"], place):
        whole = await doctor(command, place, *HERE)
        short = await doctor(command, place, *HERE, "-o", "short")
    assert (whole.code, whole.err) == (1, ""), whole
    lines = whole.out.splitlines()
    assert lines[:2] == ["machine", "-------"]
    assert [line for line in lines if line.startswith("-")] == ["-" * len(one.name) for one in CATEGORIES]
    at = lines.index("× the worker has a pod that is available (PL001)")
    assert lines[at + 1 : at + 4] == [
        "    Deployment pipelines-worker: 0 of 1 pods are available",
        f"    {BEGUN} scale deployment --selector app.kubernetes.io/component=worker --replicas=1",
        "    see services/orchestrator/README.md#why-a-run-does-not-go-on-or-ended",
    ]
    assert "‼ no pipeline is paused (PL004)" in lines
    marks = [line[0] for line in lines if line[:1] in set("√‼×")]
    assert lines[-1] == f"× {marks.count('√')} passed, 1 failed, 1 warned"
    assert [line for line in short.out.splitlines() if line[:1] in set("√‼×")] == [
        line for line in lines if line[:1] in set("‼×")
    ]


async def test_json_is_for_programs(place: Place, command: Pipelines) -> None:
    """As `linkerd check` has it; a hint can be pasted as it is. Warnings are no failure."""
    with broken(BREAKS["PL004"], place):
        warned = await command("doctor", "--json", *HERE, "--category", "pipelines")
        same = await command("doctor", "-o", "json", *HERE, "--category", "pipelines")
    assert warned.code == 0, warned.err
    assert warned.json["success"] is True
    assert warned.json == same.json
    [category] = warned.json["categories"]
    assert category["categoryName"] == "pipelines"
    [paused] = [one for one in category["checks"] if one["result"] != "success"]
    assert (paused["id"], paused["result"], paused["error"]) == ("PL004", "warning", "paused: etl")
    assert paused["hint"].startswith("pipelines list  # see services/orchestrator/README.md#")
    with broken(BREAKS["PL340"], place):
        failed = await command("doctor", "--json", *HERE, "--category", "pipelines")
    assert (failed.code, failed.json["success"]) == (1, False)


async def test_what_another_category_lacks_is_told_too(place: Place, command: Pipelines) -> None:
    """A category whose checks cannot be made is not a good one."""
    with broken(BREAKS["PL332"], place):
        done = await command("doctor", "--json", *HERE, "--category", "runs")
    assert done.code == 1
    results = {one["id"]: one["result"] for category in done.json["categories"] for one in category["checks"]}
    assert results["PL332"] == "error"
    assert results["PipelineRunHeld"] == "skipped"
    assert (await command("doctor", "--category", "weather")).code == 2
    assert [one.value for one in Kind] == [one.name for one in CATEGORIES]


async def test_before_an_install_a_kubeconfig_is_enough(place: Place, command: Pipelines) -> None:
    """Nothing is asked of a release or of its API; nothing of the cluster is changed."""
    place.wires.objects |= {kind: [] for kind in ("services", "deployments", "pods", "configmaps", "secrets")}
    with broken(BREAKS["PL330"], place):
        done = await command("doctor", "--pre", "--json", "--timeout", "100")
    assert done.code == 0, done.out
    assert [one["categoryName"] for one in done.json["categories"]] == ["kubernetes"]
    assert not [path for _, path in place.wires.asked if "/pods" in path or path.startswith("/api/pipelines")]


def test_what_you_may_not_see_is_a_warning_that_says_so(place: Place) -> None:
    """By its verb and kind, with the command that asks for the right; no check fails for it, none says all is well."""
    kinds = {"pods", "deployments", "jobs", "networkpolicies", "persistentvolumeclaims", "configmaps", "events"}
    place.wires.denied = {("list", kind) for kind in kinds | {"nodes", "secrets"}} | {("get", "secrets")}
    outcomes = bad(made(place))
    assert {one.result for one in outcomes.values()} == {Result.WARNING}
    assert outcomes["PL010"].error == "you may not list pods in namespace pipelines: that is not looked at"
    assert outcomes["PL010"].hint == "kubectl --context here --namespace pipelines auth can-i list pods"
    assert {"PL001", "PL011", "PL015", "PL316", "PL321", "PL324", "PL325", "PL326"} <= set(outcomes)


@pytest.mark.parametrize("silent", ["/version", "/readyz", "/api/v1/namespaces/pipelines/pods"])
def test_what_does_not_answer_is_late_and_holds_nothing_up(place: Place, silent: str) -> None:
    """Each check has its deadline, and all of them together end within ten seconds."""
    place.wires.silent = {silent}
    began = time.monotonic()
    with looking(place) as sights:
        outcomes = dict(run(chosen(before=False, sides=frozenset(Side)), sights))
        assert time.monotonic() - began < RUN_SECONDS + 0.5
        place.wires.over.set()
    late = {name for name, one in outcomes.items() if one and "no answer within" in (one.error or "")}
    first = {"/version": "PL311", "/readyz": "PL331", "/api/v1/namespaces/pipelines/pods": "PL010"}
    assert first[silent] in late
    place.wires.over.clear()


def test_the_first_line_waits_for_no_import(tmp_path: Path) -> None:
    """What talks or draws is loaded after it."""
    told = f"""
import json, sys
class Out:
    first = None
    def write(self, text):
        Out.first = Out.first or [text, [one for one in {sorted(HEAVY)!r} if one in sys.modules]]
        return len(text)
    def flush(self): pass
    def isatty(self): return False
    def reconfigure(self, **more): pass
sys.stdout = Out()
sys.argv = ["pipelines", "doctor", "--url", "http://127.0.0.1:9"]
from pipelines_client.__main__ import main
try:
    main()
except SystemExit:
    pass
print(json.dumps(Out.first), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", told], env=clean(tmp_path), capture_output=True, text=True, timeout=120, check=True
    )
    text, loaded = json.loads(done.stderr)
    assert text == "machine\n"
    assert set(loaded) <= {"pipelines_client.commands", "pydantic"}  # typer validates with it


def test_colours_are_for_terminals_that_want_them(tmp_path: Path) -> None:
    """As the other commands'."""
    environment = clean(tmp_path, PIPELINES_URL="http://127.0.0.1:9")
    arguments = ("doctor", "--category", "service", "--timeout", "100")
    assert "\033[31m× the API is reached (PL330)\033[0m" in on_a_terminal(*arguments, environment=environment)
    assert "\033" not in on_a_terminal(*arguments, environment=environment | {"NO_COLOR": "1"})


async def test_the_real_service_passes(pipelines: Pipelines, wire: PrefectWire) -> None:
    """What the orchestrator itself answers is what the checks read; Prefect being away is told by its own check."""
    done = await pipelines("start", "etl", "--date", "2013-01-15")
    assert done.code == 0, done.err
    sides = [one for category in ("service", "prefect", "runs", "pipelines") for one in ("--category", category)]
    sides += ["--timeout", "100"]
    well = await pipelines("doctor", "--json", *sides)
    assert well.code == 0, well.out
    results = {one["id"]: one for category in well.json["categories"] for one in category["checks"]}
    # nobody plays Prefect's scheduler
    unplanned = {"PL341": "etl has a schedule, and no next run"}
    assert {name: one["error"] for name, one in results.items() if one["result"] != "success"} == unplanned
    assert results["PL337"]["result"] == "success"
    wire.fault = refused
    away = await pipelines("doctor", "--json", *sides)
    assert away.code == 1
    failed = {
        one["id"] for category in away.json["categories"] for one in category["checks"] if one["result"] == "error"
    }
    assert failed == {"PL017"}


def anchors(document: Path) -> set[str]:
    """A page's anchors: those of its headings, as GitHub makes them, and those that it sets itself."""
    text = document.read_text()
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return set(re.findall(r'<a id="([^"]+)"></a>', text)) | {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles
    }


@pytest.mark.parametrize("check", CHECKS.values(), ids=lambda check: check.id)
def test_every_hint_leads_somewhere(check) -> None:  # type: ignore[no-untyped-def]
    """To a page of the project, and where it names a heading to one that is there."""
    file, _, anchor = check.see.partition("#")
    assert (ROOT / file).is_file()
    assert not anchor or anchor in anchors(ROOT / file)
    if not anchor:
        assert f"# {check.id}\n" in (ROOT / file).read_text()
    else:
        assert check.id in (ROOT / file).read_text()


def test_the_page_is_that_of_the_checks() -> None:
    """`make troubleshooting` writes it."""
    assert (ROOT / "docs" / "troubleshooting.md").read_text() == page()
    assert "docs/troubleshooting.md" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("check", CHECKS.values(), ids=lambda check: check.id)
def test_commands_are_ones_that_are_there(check) -> None:  # type: ignore[no-untyped-def]
    """A `make` target or a command of the client named in a hint exists."""
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for command in filter(None, (check.command, check.here)):
        for target in re.findall(r"^make ([a-z-]+)", command):
            assert target in targets
        for name in re.findall(r"^pipelines ([a-z]+)", command):
            assert name in {"list", "why", "runs", "calendar", "backfill"}
