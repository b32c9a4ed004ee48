"""What other people's checkers find in the chart is mended, or waived in one line with its reason."""

import pytest

from .checkers import CHECKERS, CheckerMissing, Finding, Waiver, complaints, unexplained, waivers
from .conftest import SCENARIOS, Manifest, find
from .installed import CHECKED, ours

FINDING = Finding(checker="checkov", check="CKV_K8S_1", severity="failed", on="Job/pipelines-migrate-1", title="No.")
COVERING = Waiver(checker="checkov", check="CKV_K8S_1", object="Job/pipelines-*", reason="Because.")


@pytest.mark.parametrize("checker", CHECKERS)
async def test_every_finding_is_mended_or_explained(checker: str) -> None:
    """As `make check-chart`: no finding without a waiver, no waiver without a finding, flow runs' Jobs included."""
    shapes = [await ours(SCENARIOS[name]) for name in CHECKED]
    try:
        wrong = unexplained(checker, shapes)
    except CheckerMissing as missing:
        pytest.skip(str(missing))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("checker", CHECKERS)
async def test_the_checkers_see_a_flow_runs_job(checker: str) -> None:
    """A privileged flow pod is found, and more is found in it than in ours: the checkers read what they are given."""
    objects = await ours(SCENARIOS["kind"])
    job = find(objects, "Job", "brave-otter-")
    name = f"Job/{job['metadata']['name']}"
    assert job["metadata"]["namespace"] == "data"
    try:
        before = {one.check for one in CHECKERS[checker]([job]) if one.on == name}
        after = {one.check for one in CHECKERS[checker]([privileged(job)]) if one.on == name}
    except CheckerMissing as missing:
        pytest.skip(str(missing))
    assert after - before


def privileged(job: Manifest) -> Manifest:
    template = job["spec"]["template"]
    [container] = template["spec"]["containers"]
    container = {**container, "securityContext": {"privileged": True}}
    pod = {**template, "spec": {**template["spec"], "containers": [container]}}
    return {**job, "spec": {**job["spec"], "template": pod}}


def test_a_finding_without_a_waiver_is_named() -> None:
    """Another object, another check or another checker is not covered."""
    assert complaints([FINDING], [COVERING]) == []
    assert complaints([FINDING], []) == ["checkov CKV_K8S_1 on Job/pipelines-migrate-1, No."]
    for other in (
        Waiver(checker="checkov", check="CKV_K8S_1", object="Deployment/*", reason="Because."),
        Waiver(checker="checkov", check="CKV_K8S_10", object="*", reason="Because."),
        Waiver(checker="kube-score", check="CKV_K8S_1", object="*", reason="Because."),
    ):
        assert str(FINDING) in complaints([FINDING], [other])


def test_a_waiver_that_is_not_needed_is_named() -> None:
    """What was mended may not come back unseen."""
    [said] = complaints([], [COVERING])
    assert "CKV_K8S_1 on Job/pipelines-*" in said
    assert "remove it" in said


def test_every_waiver_gives_its_reason_once() -> None:
    """A sentence each, and no line twice."""
    lines = [(waiver.checker, waiver.check, waiver.object) for waiver in waivers()]
    assert len(lines) == len(set(lines))
    assert {waiver.checker for waiver in waivers()} <= set(CHECKERS)
    assert all(waiver.reason.endswith(".") and len(waiver.reason.split()) >= 4 for waiver in waivers())
