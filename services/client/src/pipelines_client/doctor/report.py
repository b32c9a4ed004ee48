"""What the checks found, in lines for people, as they come, and as a document for programs."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from pipelines_client.doctor.catalogue import CATEGORIES
from pipelines_client.doctor.checks import Category, Check, Result
from pipelines_client.doctor.running import Outcome

if TYPE_CHECKING:
    from pipelines_client.documents import Doctor

Write = Callable[[str, str], None]

MARKS = {Result.SUCCESS: "√", Result.WARNING: "‼", Result.ERROR: "×"}
STYLES = {Result.SUCCESS: "green", Result.WARNING: "yellow", Result.ERROR: "red"}
BAD = frozenset({Result.WARNING, Result.ERROR})


def in_order(
    checks: Iterable[Check], coming: Iterable[tuple[str, Outcome | None]]
) -> Iterator[tuple[Category, Outcome]]:
    """The outcomes of the checks in the order of all, each as soon as those before it are there."""
    wanted = {check.id for check in checks}
    known: dict[str, Outcome | None] = {}
    left = iter(coming)
    for category in CATEGORIES:
        for check in category.checks:
            while check.id in wanted and check.id not in known:
                name, outcome = next(left)
                known[name] = outcome
            found = known.get(check.id) if check.id in wanted else None
            if found is not None:
                yield category, found


class Lines:
    """The report as text: a title for each category, a mark and a line for each check that was made."""

    def __init__(self, write: Write, *, short: bool) -> None:
        """`short`: only what did not pass."""
        self._write = write
        self._short = short
        self._category = ""
        self.counts = dict.fromkeys(Result, 0)

    def title(self, name: str) -> None:
        """Begin a category, unless it has begun."""
        if name == self._category:
            return
        if self._category:
            self._write("", "")
        self._write(name, "bold")
        self._write("-" * len(name), "")
        self._category = name

    def told(self, category: Category, outcome: Outcome) -> None:
        """One check's line, and what to do where it did not pass."""
        self.counts[outcome.result] += 1
        bad = outcome.result in BAD
        if outcome.result is Result.SKIPPED or (self._short and not bad):
            return
        self.title(category.name)
        check = outcome.check
        text = f"{MARKS[outcome.result]} {check.description}"
        self._write(f"{text} ({check.id})" if bad else text, STYLES[outcome.result])
        if outcome.error:
            self._write(f"    {outcome.error}", "")
        if outcome.hint:
            self._write(f"    {outcome.hint}", "bold")
            self._write(f"    see {check.see}", "")

    def over(self) -> None:
        """The last line."""
        counts = self.counts
        mark = next((one for one in (Result.ERROR, Result.WARNING) if counts[one]), Result.SUCCESS)
        words = {Result.ERROR: "failed", Result.WARNING: "warned", Result.SKIPPED: "not looked at"}
        said = [f"{counts[one]} {word}" for one, word in words.items() if counts[one]]
        if self._category:
            self._write("", "")
        self._write(f"{MARKS[mark]} {', '.join([f'{counts[Result.SUCCESS]} passed', *said])}", STYLES[mark])


def document(told: Iterable[tuple[Category, Outcome]]) -> "Doctor":
    """The same for a program."""
    from pipelines_client.documents import CheckCategory, CheckResult, Doctor  # noqa: PLC0415 -- text needs no pydantic

    by_category: dict[str, list[CheckResult]] = {}
    success = True
    for category, outcome in told:
        success = success and outcome.result is not Result.ERROR
        by_category.setdefault(category.name, []).append(
            CheckResult(
                id=outcome.check.id,
                description=outcome.check.description,
                result=outcome.result.value,
                error=outcome.error,
                hint=f"{outcome.hint}  # see {outcome.check.see}" if outcome.hint else None,
            )
        )
    categories = [CheckCategory(categoryName=name, checks=checks) for name, checks in by_category.items()]
    return Doctor(success=success, categories=categories)
