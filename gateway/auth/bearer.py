"""The Authorization field -> the text of one token (RFC 6750 section 2.1)."""

from __future__ import annotations

import re

from gateway.http.grammar import is_token
from gateway.http.problems import Problem

# Servers join repeated fields with a comma (gunicorn, waitress, werkzeug): a second one shows as such.
_NOT_ONE_TOKEN = re.compile(r"[ \t,]")


def bearer_token(authorization: str) -> str:
    """Return the token of `Bearer <token>`: the scheme in any case, exactly one space, one token.

    Raises `Problem` missing-credentials, unsupported-scheme or malformed-credentials.
    """
    if not authorization:
        raise Problem("missing-credentials")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer":
        if not token or _NOT_ONE_TOKEN.search(token):
            raise Problem("malformed-credentials")
        return token
    raise Problem("unsupported-scheme" if is_token(scheme) else "malformed-credentials")
