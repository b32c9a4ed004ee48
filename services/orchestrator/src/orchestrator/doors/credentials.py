"""What counts as a credential in a request's headers. It is never logged, kept or shown: only its digest is."""

import hashlib
import re

from starlette.datastructures import Headers

from orchestrator.errors import Unauthenticated

LONGEST = 16 * 1024
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750's b64token
API_KEY = "x-api-key"

REALM = 'Bearer realm="pipelines"'
WORTHLESS = f'{REALM}, error="invalid_token"'


def bearer(headers: Headers, *, how: str, key_header: bool = False) -> str:
    """The token of `Authorization: Bearer …`, or with `key_header` of `X-API-Key`.

    `how` tells a caller without one what to send. Raises Unauthenticated for none, for two, and for what is no token.
    """
    given = headers.getlist("authorization")
    keys = headers.getlist(API_KEY) if key_header else []
    if not given and not keys:
        raise Unauthenticated(f"this needs a credential; {how}", challenge=REALM)
    if len(given) + len(keys) > 1:
        raise Unauthenticated("there are several credentials in this request; send one", challenge=REALM)
    if keys:
        token = keys[0]
    else:
        scheme, _, token = given[0].partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated(f"only the scheme Bearer is taken here; {how}", challenge=REALM)
    token = token.strip()
    if len(token) > LONGEST or not TOKEN.fullmatch(token):
        raise worthless(how)
    return token


def worthless(how: str) -> Unauthenticated:
    """The answer to a credential that proves nothing; it does not say what is wrong with it."""
    return Unauthenticated(
        f"the credential is not one that is known here, or it has expired; {how}", challenge=WORTHLESS
    )


def digest(token: str) -> bytes:
    """What stands for a token wherever one is remembered or compared."""
    return hashlib.sha256(token.encode()).digest()
