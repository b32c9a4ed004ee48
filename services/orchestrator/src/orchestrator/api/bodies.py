"""What the body of a request may be: so long, there in so many seconds, and JSON that means one thing to everybody."""

import asyncio
import json
from contextlib import suppress
from typing import Any, NoReturn

from starlette.datastructures import Headers
from starlette.types import Receive

from orchestrator.errors import BodyTooLarge, BodyTooSlow, InvalidRequest

BODY_BYTES = 64 * 1024
LINGER_SECONDS = 1.0
LARGEST_INTEGER = 2**63 - 1
LONGEST_INTEGER = 20  # characters, a sign included


def announced(headers: Headers) -> bool:
    """Whether a body follows the headers."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


async def read(receive: Receive, headers: Headers, *, within: float) -> bytes | None:
    """The whole body, None when the caller hung up before its end.

    Raises BodyTooLarge, BodyTooSlow when it takes longer than `within` seconds, and InvalidRequest for JSON that others
    would read otherwise.
    """
    try:
        async with asyncio.timeout(within):
            body = await _whole(receive, headers)
    except TimeoutError as exc:
        raise BodyTooSlow(f"the body was not there after {within:g} s; send it in one go") from exc
    if body and _is_json(headers.get("content-type", "")):
        check_json(body)
    return body


async def _whole(receive: Receive, headers: Headers) -> bytes | None:
    too_large = BodyTooLarge(f"the body is over {BODY_BYTES} bytes; send a smaller one")
    declared = headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > BODY_BYTES:
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > BODY_BYTES:
            raise too_large
        if not message.get("more_body", False):
            return bytes(body)


async def let_pass(receive: Receive) -> None:
    """Take what is left of a body that nobody wants, for a moment: a caller that still sends would miss the answer."""
    passed = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while passed <= BODY_BYTES:
                message = await receive()
                passed += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _is_json(media_type: str) -> bool:
    media = media_type.partition(";")[0].strip().lower()
    return media == "application/json" or media.endswith("+json")


def check_json(body: bytes) -> None:
    """Refuse what parsers disagree about: a name that stands twice, numbers beyond 64 bits, NaN, nesting without end.

    Raises InvalidRequest.
    """
    try:
        json.loads(
            body.decode(),
            object_pairs_hook=_distinct,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_not_json,
        )
    except UnicodeDecodeError as exc:
        raise InvalidRequest("the body is not UTF-8; send JSON in UTF-8") from exc
    except RecursionError as exc:
        raise InvalidRequest("the body is nested too deeply; flatten it") from exc
    except json.JSONDecodeError as exc:
        raise InvalidRequest(f"the body is not JSON: {exc.msg} at character {exc.pos}") from exc


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(f"the name {twice[:80]!r} stands twice in one object of the body; send it once")
    return found


def _integer(text: str) -> int:
    if len(text) <= LONGEST_INTEGER and abs(number := int(text)) <= LARGEST_INTEGER:
        return number
    raise InvalidRequest("the body holds an integer beyond 64 bits; send it as a string")


def _number(text: str) -> float:
    # a whole number, as all of that size are, comes back from the database written as an integer
    if abs(number := float(text)) <= LARGEST_INTEGER:
        return number
    raise InvalidRequest("the body holds a number that is too large; send it as a string")


def _not_json(text: str) -> NoReturn:
    raise InvalidRequest(f"the body holds {text}, which JSON does not have; send a number")
