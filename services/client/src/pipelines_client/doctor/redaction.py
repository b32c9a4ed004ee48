"""What must not leave with a bundle: credentials, wherever they stand, replaced by a mark.

By name (a variable, a field, an option, a header, a query parameter that is called like a secret), by shape (a
password in a URL, a bearer token, a JWT, a private key, keys of known issuers), and by value (what this process has
been given as a credential). Names stay, so that somebody can see which secret it was.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

MARK = "***"
SECRET = re.compile(
    r"pass(word|wd|phrase|code)?(?![a-z])|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|signing[_-]?key"
    r"|auth(orization|[_-]?string|[_-]?header)?(?![a-z])|credential|cookie|session[_-]?id|dsn(?![a-z])|signature",
    re.IGNORECASE,
)
# Names of things, not the things: where a secret is kept, whom a token is for.
NAMES_ONLY = re.compile(
    r"^(secret_?name|secret_?key_?ref|existing_?secret|token_?audience|.*_secret_name|service_?account_?token"
    r"|(auto)?mount_?service_?account_?token|image_?pull_?secrets?|pull_?secrets?|token_?expiration_?seconds)$",
    re.IGNORECASE,
)
SHORTEST = 6  # a shorter value would be replaced inside ordinary words

_VALUE = r"""(?:\\"[^"\\]*\\"|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,;&"'}\])]+)"""
SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), MARK),
    # greedy up to the last @ before the path: a password may hold one itself
    (re.compile(r"""(?P<keep>://)[^\s/?#"'<>]+@"""), rf"\g<keep>{MARK}@"),
    (re.compile(r"(?P<keep>\b(?:Bearer|Basic|Digest|Negotiate)\s+)[\w.~+/=:-]{6,}", re.IGNORECASE), rf"\g<keep>{MARK}"),
    (re.compile(r"\beyJ[\w-]{5,}\.[\w-]+(?:\.[\w-]*)?"), MARK),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abpr]-|sk-|pnu_|pnb_|AKIA|ASIA|AIza)[\w-]{12,}"), MARK),
)
# What is called like a secret, and what follows it: behind : or =, as the next word of a command line, or, as
# Kubernetes writes environment variables, as the `value` behind the `name`. Found by the telling word: a name's
# beginning is looked for backwards from there, which a very long word does not make slow.
NAMED = re.compile(
    rf"(?:{SECRET.pattern})[\w.-]{{0,64}}"
    r"""(?P<between>\\?["']?\s*(?:=>|[:=])\s*|\\?["']?\s*,?\s*\\?["']?value\\?["']?\s*:\s*|[ ])"""
    rf"(?P<value>{_VALUE})",
    re.IGNORECASE,
)
WORD = re.compile(r"[\w.-]*")
LONGEST_NAME = 64


class Redactor:
    """Replaces secrets. Begin with all that this process knows to be one."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """`environment`: of which those values are secrets whose names say so, and the passwords of URLs."""
        told = os.environ if environment is None else environment
        self._known = sorted(set(_secrets(told)), key=len, reverse=True)

    def text(self, text: str) -> str:
        """A text without secrets, such as a log."""
        for known in self._known:
            text = text.replace(known, MARK)
        for shape, instead in SHAPES:
            text = shape.sub(instead, text)
        return _without_named(text)

    def value(self, told: Any) -> Any:
        """A JSON document without secrets."""
        if isinstance(told, dict):
            return self._fields(told)
        if isinstance(told, list):
            return self._items(told)
        return self._string(told) if isinstance(told, str) else told

    def _fields(self, told: dict[str, Any]) -> dict[str, Any]:
        named = told.get("name")
        is_secret = isinstance(named, str) and is_name_of_secret(named)
        found = {}
        for name, value in told.items():
            scalar = isinstance(value, str | int | float) and not isinstance(value, bool)
            if scalar and (is_name_of_secret(name) or (is_secret and name in {"value", "default"})):
                found[name] = MARK
            else:
                found[name] = self.value(value)
        return found

    def _items(self, told: list[Any]) -> list[Any]:
        """A list; in a command line, what follows an option that is named like a secret is one."""
        found = []
        hidden = False
        for one in told:
            found.append(MARK if hidden and isinstance(one, str) else self.value(one))
            hidden = isinstance(one, str) and one.startswith("-") and "=" not in one and is_name_of_secret(one)
        return found

    def _string(self, text: str) -> str:
        """A string; one that is JSON itself is read as such, as an annotation with a whole object is."""
        if text.lstrip()[:1] in {"{", "["}:
            try:
                return json.dumps(self.value(json.loads(text)))
            except ValueError:
                pass
        return self.text(text)


def _without_named(text: str) -> str:
    """A text without the values of what is called like a secret."""
    parts = []
    kept = place = 0
    while found := NAMED.search(text, place):
        if _is_named(text, found):
            parts += [text[kept : found.start("value")], MARK]
            kept = place = found.end()
        else:  # what follows may be the name of one all the same
            place = found.start("between")
    return "".join([*parts, text[kept:]])


def _is_named(text: str, found: re.Match[str]) -> bool:
    """Whether the whole name is that of a secret; one word after another is only in a command line."""
    before = WORD.match(text[max(0, found.start() - LONGEST_NAME) : found.start()][::-1])
    name = (before.group()[::-1] if before else "") + text[found.start() : found.start("between")]
    return is_name_of_secret(name) and (found["between"] != " " or name.startswith("-"))


def is_name_of_secret(name: str) -> bool:
    """Whether something that is called so holds a secret itself."""
    return bool(SECRET.search(name)) and not NAMES_ONLY.match(name.lstrip("-"))


def _secrets(environment: Mapping[str, str]) -> Iterable[str]:
    for name, value in environment.items():
        if is_name_of_secret(name) and len(value) >= SHORTEST:
            yield value
        password = re.match(r"[a-z][a-z0-9+.-]*://[^:/@\s]*:(?P<password>[^\s/]+)@", value, re.IGNORECASE)
        if password and len(password["password"]) >= SHORTEST:
            yield password["password"]
