"""The Authorization field -> the text of one token (RFC 6750 section 2.1)."""

from __future__ import annotations

from typing import Final

from gateway.http.grammar import is_token
from gateway.http.problems import Problem

BEARER: Final = "Bearer "


def bearer_token(authorization: str) -> str:
    """Return the token of `Bearer <token>`: the scheme in any case, exactly one space, one token.

    Raises `Problem` missing-credentials, unsupported-scheme or malformed-credentials.
    """
    if not authorization:
        raise Problem("missing-credentials")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer":
        # Servers join repeated fields with a comma (gunicorn, waitress, werkzeug): a second one shows as such. A
        # pattern would take longer than all else here.
        if not token or " " in token or "\t" in token or "," in token:
            raise Problem("malformed-credentials")
        return token
    raise Problem("unsupported-scheme" if is_token(scheme) else "malformed-credentials")
