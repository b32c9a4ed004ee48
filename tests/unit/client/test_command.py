"""The command itself: help at once, exit codes, which stream has what, completion."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pipelines_client.__main__ import ordered
from pipelines_client.command import app
from pipelines_client.documents import BY_COMMAND, schemas
from pipelines_client.errors import ClientError, Code
from pipelines_client.screen import plain
from typer.main import get_command

from .running import COMMAND, ROOT, SCHEMAS, Pipelines, clean

HEAVY = {"httpx", "rich", "kubernetes", "pydantic", "asyncio", "pipelines_client.commands", "pipelines_client.api"}
WITHOUT_JSON = {"completion", "help json"}


@pytest.fixture
def alone(tmp_path: Path) -> Pipelines:
    """The command where there is no API, no cluster and no platform."""
    return Pipelines("http://127.0.0.1:9", home=tmp_path)


@pytest.mark.parametrize("arguments", [["--help"], ["runs", "--help"], ["help", "exit-codes"], ["completion", "bash"]])
def test_help_waits_for_no_import(arguments: list[str], tmp_path: Path) -> None:
    """What talks, draws or validates is not loaded for it; of a command's own help, typer validates with pydantic."""
    told = f"""
import atexit, json, sys
atexit.register(lambda: print(json.dumps([one for one in {sorted(HEAVY)!r} if one in sys.modules]), file=sys.stderr))
sys.argv = ["pipelines", *{arguments!r}]
from pipelines_client.__main__ import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", told], env=clean(tmp_path), capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(json.loads(done.stderr))
    assert loaded <= (set() if arguments == ["--help"] else {"pydantic"})
    assert done.stdout


async def test_every_exit_code_is_listed(alone: Pipelines) -> None:
    """Here, on the client's page, and every error of the client ends with one of them."""
    told = (await alone("help", "exit-codes", "--json")).json
    assert {one["code"] for one in told} == {0, 1, 2, 3, 4, 5, 8, 130}
    page = (ROOT / "services" / "client" / "README.md").read_text()
    assert [int(code) for code in re.findall(r"^\| (\d+) \| ", page, flags=re.MULTILINE)] == [
        one["code"] for one in told
    ]
    shown = (await alone("help", "exit-codes")).out
    assert all(f"{one['code']:>3}  {one['meaning']}\n" in shown for one in told)
    assert all(one.code in Code for one in ClientError.__subclasses__())


def commands(group: Any, *names: str) -> set[str]:
    found = set()
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            found |= commands(one, *names, name)
        if not hasattr(one, "commands") or one.invoke_without_command:
            found.add(" ".join((*names, name)))
    return found


def test_every_command_has_json_with_a_schema() -> None:
    """The schemas are in the repository, so that a change of them is seen: `make client-schemas` writes them."""
    documented = {name.removesuffix(" --follow") for name in BY_COMMAND}
    assert commands(get_command(app)) == documented | WITHOUT_JSON
    assert json.loads(json.dumps(schemas())) == SCHEMAS


async def test_a_wrong_command_line_is_2(alone: Pipelines) -> None:
    """Nothing is on stdout, and nobody was asked."""
    for arguments in (["strat"], ["runs", "--limit", "0"], ["backfill", "etl"], ["start", "etl", "--date", "soon"]):
        done = await alone(*arguments)
        assert (done.code, done.out) == (2, ""), done
        assert done.err


async def test_an_api_that_is_not_there_is_told(alone: Pipelines) -> None:
    """1, the address that was tried, and what to do."""
    done = await alone("list", "--json")
    assert (done.code, done.out) == (1, "")
    assert "error: GET http://127.0.0.1:9/api/pipelines: ConnectError" in done.err
    assert "--url or PIPELINES_URL" in done.err
    assert (await alone("list", "--url", "localhost:8080")).code == 2


def test_options_of_the_command_may_stand_anywhere() -> None:
    """They are its own, whatever they follow; what comes after -- is not looked at."""
    assert ordered(["runs", "etl", "--url", "http://a", "-n", "b", "--no-color"]) == [
        *("--url", "http://a", "-n", "b", "--no-color"),
        *("runs", "etl"),
    ]
    assert ordered(["runs", "--namespace=x", "--", "--url"]) == ["--namespace=x", "runs", "--", "--url"]
    assert ordered(["list", "--url"]) == ["list", "--url"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_shells_complete_commands(alone: Pipelines, shell: str) -> None:
    """The script names the command and the variable by which it asks; the answer begins as what was typed."""
    done = await alone("completion", shell)
    assert done.code == 0
    assert f"_PIPELINES_COMPLETE=complete_{shell}" in done.out
    asked = {"COMP_WORDS": "pipelines ca", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "pipelines ca"}
    answer = await alone(_PIPELINES_COMPLETE=f"complete_{shell}", _TYPER_COMPLETE_FISH_ACTION="get-args", **asked)
    assert "calendar" in answer.out
    assert "cancel" in answer.out
    assert "runs" not in answer.out


def test_bash_runs_the_completion(tmp_path: Path) -> None:
    """As it is sourced there."""
    binary = Path(sys.executable).parent
    script = f"""
PATH={binary}:$PATH
source <(pipelines completion bash)
COMP_WORDS=(pipelines sta); COMP_CWORD=1
_pipelines_completion pipelines
echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "-c", script], env=clean(tmp_path), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["start", "status"]


def on_a_terminal(*arguments: str, environment: dict[str, str]) -> str:
    """What a command shows on a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments], env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:  # Linux's end of a terminal
            pass
        process.wait(60)
    os.close(ours)
    return shown.decode()


def test_colours_are_for_terminals_that_want_them(tmp_path: Path) -> None:
    """Not with NO_COLOR, on a dumb terminal, with --no-color, or into a pipe."""
    environment = clean(tmp_path, PIPELINES_URL="http://127.0.0.1:9")
    assert "\033[1;31merror:\033[0m" in on_a_terminal("list", environment=environment)
    for more in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\033" not in on_a_terminal("list", environment=environment | more)
    assert "\033" not in on_a_terminal("list", "--no-color", environment=environment)


def test_text_from_elsewhere_cannot_command_the_terminal() -> None:
    """Nothing moves the cursor or sets a title; lines and tabs stay."""
    assert plain("a\033]0;title\007b\r\n\tc\x9b") == "a�]0;title�b�\n\tc�"
