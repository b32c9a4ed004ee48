"""The documents name files, functions, tests and commands: each of them is there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from .conftest import EXAMPLES, ROOT

QUESTIONS = EXAMPLES / "conceptual_questions.md"
README = EXAMPLES / "README.md"
CHECKLIST = ROOT / "CHECKLIST.md"

# [`name`](file) and [text](file)
LINK = re.compile(r"\[(`?)([^\]]+?)\1]\(([^)#\s]+)\)")


@cache
def defined(path: Path) -> frozenset[str]:
    """The names a module gives to functions, classes, their methods, and values at its top."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{one.name}"
                for one in node.body
                if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(names)


@pytest.mark.parametrize("document", [QUESTIONS, README], ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    """A linked file is there; a name in code marks that links to a module is defined in it."""
    links = LINK.findall(document.read_text(encoding="utf-8"))
    assert links
    for mark, text, target in links:
        path = (document.parent / target).resolve()
        assert path.exists(), target
        if mark and path.suffix == ".py":
            assert text in defined(path), f"{text} in {target}"


def test_the_readme_lists_every_example() -> None:
    """The table's commands are the numbered files, all of them."""
    listed = re.findall(r"uv run python flows/examples/(\S+\.py)", README.read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))


def test_every_answer_points_into_the_code() -> None:
    """Each question has an answer with a link in it."""
    questions = re.split(r"^\*\*", QUESTIONS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert len(questions) >= 20
    for question in questions:
        assert "\n→ " in question, question.partition("\n")[0]
        assert LINK.search(question.partition("\n→ ")[2]), question.partition("\n")[0]


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_to_run_it(example: Path) -> None:
    """At most 120 lines; the docstring holds the command."""
    text = example.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    if example.name[0].isdigit():
        assert f"uv run python flows/examples/{example.name}" in (ast.get_docstring(ast.parse(text)) or "")


def test_every_line_of_the_checklist_names_its_proof() -> None:
    """A proof is a test (`file::name`), a file, a folder or a `make` command of this repository."""
    lines = [line for line in CHECKLIST.read_text(encoding="utf-8").splitlines() if line.startswith("- [")]
    assert len(lines) >= 30
    commands = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in lines:
        assert line.startswith("- [x] "), line
        proofs = re.findall(r"`([^`]+)`", line.partition(" — ")[2])
        assert proofs, line
        for proof in proofs:
            path, _, name = proof.partition("::")
            if proof.startswith("make "):
                assert proof.removeprefix("make ") in commands, proof
            else:
                assert (ROOT / path).exists(), proof
            if name:
                assert name in defined(ROOT / path), proof
