"""Each alert on made-up series: it fires when it should, and does not when it should not.

The cases of an alert are in the file of its name beside this one, in promtool's own form. They see its labels and those
annotations that depend on what happened.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import ROOT, Promtool, Rules

CASES = sorted(Path(__file__).parent.glob("*.yaml"))
ALERTS = sorted(path.stem for path in (ROOT / "charts/pipelines/alerts").glob("*.yaml"))
SHOWN = {"summary", "fix"}


def played(promtool: Promtool, rules: Rules, cases: Path, folder: Path) -> tuple[bool, str]:
    """Whether the cases hold for their alert by these rules, and what promtool said."""
    shown = [
        rule | {"annotations": {name: text for name, text in rule["annotations"].items() if name in SHOWN}}
        for rule in rules
        if rule["alert"] == cases.stem
    ]
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "chart", "rules": shown}]}))
    tests: dict[str, Any] = yaml.safe_load(cases.read_text())
    (folder / "tests.yaml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m"} | tests)
    )
    done = promtool("test", "rules", str(folder / "tests.yaml"))
    return done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_its_cases() -> None:
    """And every file of cases its alert."""
    assert [path.stem for path in CASES] == ALERTS


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_the_cases_say_when_it_fires_and_when_not(cases: Path) -> None:
    """Both, and about no other alert."""
    expected = [
        (one["alertname"], bool(one["exp_alerts"]))
        for case in yaml.safe_load(cases.read_text())["tests"]
        for one in case["alert_rule_test"]
    ]
    assert set(expected) == {(cases.stem, True), (cases.stem, False)}


def test_promtool_accepts_the_rules(promtool: Promtool, rules: Rules, tmp_path: Path) -> None:
    """With every annotation."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "chart", "rules": rules}]}))
    done = promtool("check", "rules", str(tmp_path / "rules.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_an_alert_fires_when_it_should_and_only_then(
    promtool: Promtool, rules: Rules, cases: Path, tmp_path: Path
) -> None:
    """By the rules as helm renders them."""
    held, said = played(promtool, rules, cases, tmp_path)
    assert held, said


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_a_broken_alert_is_found(promtool: Promtool, rules: Rules, cases: Path, tmp_path: Path) -> None:
    """One that never fires, one that does not wait where it should: the cases do not hold for it."""
    changes: list[dict[str, Any]] = [{"expr": "vector(0) > 1"}]
    if any("for" in rule for rule in rules if rule["alert"] == cases.stem):
        changes.append({"for": "0s"})
    for change in changes:
        held, _ = played(promtool, [rule | change for rule in rules], cases, tmp_path)
        assert not held, change
