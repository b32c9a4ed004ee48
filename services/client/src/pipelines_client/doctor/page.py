"""The page docs/troubleshooting.md, made from the checks (`make troubleshooting`)."""

import sys

from pipelines_client.doctor.catalogue import CATEGORIES
from pipelines_client.doctor.checks import OWN, Check, When
from pipelines_client.doctor.sights import filled

HEAD = """# Troubleshooting

`pipelines doctor` makes every check of this page; of one that does not pass it tells the evidence, and the command with
its names filled in. Those marked ◐ are also made by `pipelines doctor --pre`, before an install, those marked ○ by that
alone.

An id from `PL001` to `PL199` is that of a reason [why a run does not go on](../services/orchestrator/README.md), a name
that of an [alert](runbooks/README.md) with its runbook; ids from `PL301` on are the checks' own. In the commands here,
names in capitals are to be replaced, and `kubectl` and `helm` want your `--namespace`.

This page is made from the checks: `make troubleshooting`.
"""
WHEN = {When.INSTALLED: "", When.BEFORE: " ○", When.BOTH: " ◐"}
BEGUN = {"kubectl": "kubectl", "helm": "helm", "release": "RELEASE", "prefix": "RELEASE"}


def page() -> str:
    """The whole page."""
    tables = [f"## {category.name}: {category.about}\n\n{_table(category.checks)}" for category in CATEGORIES]
    return "\n".join([HEAD, *tables])


def _table(checks: tuple[Check, ...]) -> str:
    rows = [
        f"| {_link(one)}{WHEN[one.when]} | {one.description} | {one.meaning} | {_commands(one)} |\n" for one in checks
    ]
    return "| id | should be | what it means where it is not | then |\n|---|---|---|---|\n" + "".join(rows)


def _link(check: Check) -> str:
    if OWN.fullmatch(check.id):
        return f'<a id="{check.id.lower()}"></a>{check.id}'
    where = check.see.removeprefix("docs/") if check.see.startswith("docs/") else f"../{check.see}"
    return f"[{check.id}]({where})"


def _commands(check: Check) -> str:
    told = [filled(one, BEGUN) for one in (check.command, check.here) if one]
    return ", here ".join(f"`{one.replace('|', chr(92) + '|')}`" for one in told)


def main() -> None:
    """Print it."""
    sys.stdout.write(page())


if __name__ == "__main__":
    main()
