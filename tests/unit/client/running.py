"""The command as a process: its exit code, what is on which stream, and its JSON held against the schemas."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema_rs

ROOT = Path(__file__).parents[3]
SCHEMAS: dict[str, Any] = json.loads((ROOT / "services" / "client" / "schemas.json").read_text())
SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed."""
        return json.loads(self.out)


def hold(command: str, told: Any) -> None:
    """Fail where a document is not what the schema promises."""
    jsonschema_rs.validator_for(SCHEMAS[command], validate_formats=True).validate(told)


def clean(home: Path, **more: str) -> dict[str, str]:
    """An environment that says nothing of an API, a cluster or colours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIPELINES_", "KUBE"))}
    kept.pop("NO_COLOR", None)
    kept.pop("FORCE_COLOR", None)
    return kept | {"HOME": str(home), "KUBECONFIG": str(home / "kubeconfig"), "TERM": "xterm"} | more


COMMAND = [sys.executable, "-m", "pipelines_client"]


class Pipelines:
    """The command `pipelines`, told where the API is."""

    def __init__(self, url: str | None, *, home: Path, **environment: str) -> None:
        self.url = url
        self.environment = clean(home, **environment) | ({"PIPELINES_URL": url} if url else {})

    async def __call__(self, *arguments: str, stdin: str | None = None, **environment: str) -> Done:
        """Run it to its end. Nobody is at its terminal."""
        process = await self.begin(*arguments, **environment)
        return await finished(process, *arguments, stdin=stdin)

    async def begin(self, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
        """Start it."""
        return await asyncio.create_subprocess_exec(
            *COMMAND,
            *arguments,
            env=self.environment | environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )


async def finished(process: asyncio.subprocess.Process, *arguments: str, stdin: str | None = None) -> Done:
    """What a command that was begun with these arguments ended with; its JSON is held against the schema."""
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate(stdin.encode() if stdin else None)
    assert process.returncode is not None
    done = Done(code=process.returncode, out=out.decode(), err=err.decode())
    assert "Traceback" not in done.err, done.err
    if "--json" in arguments and done.out:
        following = {"-f", "--follow"} & set(arguments)
        two = " ".join(arguments[:2])
        command = two if two in SCHEMAS else arguments[0] + (" --follow" if following else "")
        for document in map(json.loads, done.out.splitlines()) if following else [done.json]:
            hold(command, document)
    return done
