"""The door of API keys: a file of named keys, each with what it may do. Only digests of keys stay in memory.

    {"keys": [{"name": "ops", "key": "…"},
              {"name": "ci", "key": "…", "may": {"etl": ["read", "start"], "*": ["read"]}}]}

A key without `may` may do everything. `*` stands for the pipelines that `may` does not name. Two keys of one name are
one caller: that is how a key is changed without a moment in which none is good.
"""

import asyncio
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import structlog
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from starlette.datastructures import Headers

from orchestrator.doors import Action, Asked, Caller, browsing
from orchestrator.doors.credentials import TOKEN, bearer, digest, worthless
from orchestrator.errors import Forbidden

SHORTEST = 32
FEWEST_CHARACTERS = 8  # different ones: of 32 random hexadecimal digits, all but one in ten million have more
LARGEST_FILE = 1024 * 1024
LOOK_SECONDS = 2.0
OTHERS = "*"
SHOWN = frozenset({"keys", "name", "key", "may"})
SESSION = re.compile(r"([0-9a-f]{8,9})\.([0-9a-f]{64})")
HOW = "send a key of this service as `Authorization: Bearer KEY` or `X-API-Key: KEY`"

log = structlog.get_logger(__name__)

ALL = frozenset(Action)


class UnusableKeys(Exception):
    """The keys file cannot be used. `str(error)` says why and what to do, and holds no key."""


class _Key(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    key: SecretStr
    may: dict[str, list[Action]] | None = None

    @field_validator("key")
    @classmethod
    def _is_strong(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if len(text) < SHORTEST or len(set(text)) < FEWEST_CHARACTERS:
            raise ValueError(
                f"it is too easy to guess: it needs {SHORTEST} characters, {FEWEST_CHARACTERS} different ones among "
                "them; make one with `openssl rand -hex 32`"
            )
        if not TOKEN.fullmatch(text):
            raise ValueError("it holds a character that a header cannot carry; make one with `openssl rand -hex 32`")
        return value


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: Annotated[list[_Key], Field(min_length=1)]

    @model_validator(mode="after")
    def _are_distinct(self) -> "_Keys":
        if len({one.key.get_secret_value() for one in self.keys}) < len(self.keys):
            raise ValueError("one key stands twice, so that nobody could say whose it is; give each its own")
        return self


@dataclass(frozen=True, kw_only=True)
class KeyHolder:
    """A caller by a key. `rights` are what it may do by pipeline; None stands for everything."""

    name: str
    rights: Mapping[str, frozenset[Action]] | None
    known: bool = True

    async def may(self, asked: Asked) -> bool:
        """Whether the key's `may` has it."""
        if asked.pipeline is None:
            return True
        has = self._on(asked.pipeline)
        needs = {asked.action} if asked.action else ALL
        if needs <= has:
            return True
        if not has:
            return False
        missing = " and ".join(sorted(needs - has))
        raise Forbidden(
            f"the key {self.name} may not {missing} in the pipeline {asked.pipeline}; "
            f"add {missing} to that pipeline in the key's `may`, or use another key"
        )

    async def readable(self, pipelines: Iterable[str]) -> list[str]:
        """Those it may read."""
        return [one for one in pipelines if Action.READ in self._on(one)]

    def _on(self, pipeline: str) -> frozenset[Action]:
        if self.rights is None:
            return ALL
        # a pipeline cannot be named `*`
        return self.rights.get(pipeline, self.rights.get(OTHERS, frozenset()))


class ApiKeys:
    """The keys of a file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        """Raises UnusableKeys."""
        self._path = path
        text = _text(path)
        self._seen = hashlib.sha256(text).digest()
        self._holders = _holders(text, path)
        self._complaint = ""

    async def admit(self, headers: Headers, *, doubt: Callable[[], None]) -> Caller:
        """The holder of the key. Every key is compared, in constant time, whichever fits."""
        given = digest(bearer(headers, how=HOW, key_header=True))
        found = None
        for one, holder in self._holders:
            if hmac.compare_digest(one, given):
                found = holder
        if found is None:
            raise worthless(HOW)
        return found

    def session(self, headers: Headers) -> str:
        """An expiry and a proof of the key, of which the key cannot be told: it ends with the key, or by its time."""
        until = f"{browsing.expiry():x}"
        return f"{until}.{_proof(digest(bearer(headers, how=HOW, key_header=True)), until)}"

    async def resume(self, session: str, *, doubt: Callable[[], None]) -> Caller:
        """The holder of the key that the proof was made with. Every key is tried, in constant time."""
        match = SESSION.fullmatch(session)
        until = match.group(1) if match else ""
        found = None
        for one, holder in self._holders:
            if match and hmac.compare_digest(_proof(one, until), match.group(2)):
                found = holder
        left = int(until, 16) - time.time() if until else 0
        if found is None or not 0 < left <= browsing.SESSION_SECONDS:
            raise worthless("sign in again")
        return found

    async def work(self) -> None:
        """Look at the file now and then; returns only by cancellation. A Secret's volume is replaced as a whole."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Take over what the file holds now. What cannot be used is told once, and the keys stay as they were."""
        try:
            text = _text(self._path)
            seen = hashlib.sha256(text).digest()
            if seen == self._seen:
                return
            self._seen = seen
            self._holders = _holders(text, self._path)
        except UnusableKeys as exc:
            if self._complaint != str(exc):
                log.error("the API keys stay as they were", reason=str(exc))  # noqa: TRY400 -- the reason says it all
            self._complaint = str(exc)
        else:
            self._complaint = ""
            log.warning("API keys taken over", callers=sorted({holder.name for _, holder in self._holders}))


def _proof(key_digest: bytes, until: str) -> str:
    return hmac.new(key_digest, f"page session {until}".encode(), hashlib.sha256).hexdigest()


def _text(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
    except OSError as exc:
        raise UnusableKeys(f"{path} cannot be read ({exc.strerror}); mount the Secret with the keys there") from exc
    if len(text) > LARGEST_FILE:
        raise UnusableKeys(f"{path} is larger than {LARGEST_FILE} bytes; that is no list of keys")
    return text


def _holders(text: bytes, path: Path) -> list[tuple[bytes, KeyHolder]]:
    try:
        keys = _Keys.model_validate_json(text).keys
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_context=False, include_url=False)[0]
        if first["type"] == "json_invalid":
            # the message of a parser may show what it stumbled over, and that may be a key
            raise UnusableKeys(f'{path} is not JSON; write {{"keys": [{{"name": "ops", "key": "…"}}]}}') from None
        # a name that is not one of ours may be a key in the wrong place
        where = ".".join(str(part) if part in SHOWN or isinstance(part, int) else "…" for part in first["loc"]) or "it"
        what = first["msg"].removeprefix("Value error, ")
        raise UnusableKeys(f"{path}: {where}: {what}") from None
    return [
        (
            digest(one.key.get_secret_value()),
            KeyHolder(
                name=one.name,
                rights=None if one.may is None else {name: frozenset(may) for name, may in one.may.items()},
            ),
        )
        for one in keys
    ]
