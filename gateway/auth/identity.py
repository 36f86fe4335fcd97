"""Token -> the request fields the upstream may trust."""

from __future__ import annotations

import base64
import json
import re
from functools import lru_cache

from gateway.auth.tokens import Token
from gateway.target import Environ

# Names that an upstream could fold into the trusted one: WSGI, CGI and PHP turn `-` into `_`,
# others any punctuation (CVE-2025-64484, CVE-2026-39858).
_PUNCTUATION = re.compile(r"[^A-Z0-9]")
MOST_HARMLESS = 1024  # names come from clients: what is remembered of them is bounded
_FIELD_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")


class Identity:
    """Sets the trusted fields on a request, after removing every spelling a client may have sent.

    `claims_field` gets the claims as base64url JSON, `subject_field` the `sub` (a string of
    printable ASCII, or an integer; anything else is only in the claims).
    """

    def __init__(
        self,
        claims_field: str = "X-Token-Claims",
        subject_field: str = "X-Token-Subject",
        forward_authorization: bool = True,
    ) -> None:
        self._names = (claims_field, subject_field)
        self._keys = tuple(_environ_key(name) for name in self._names)
        self._forward_authorization = forward_authorization
        self._harmless: set[str] = set()  # keys found not to be ours
        self._values = lru_cache(4096)(_values)

    def set(self, environ: Environ, token: Token | None) -> None:
        """Make the environ carry the token's identity, or none, and `gateway.claims` for stages within."""
        if not self._harmless.issuperset(environ):
            self._remove_ours(environ)
        if not self._forward_authorization:
            environ.pop("HTTP_AUTHORIZATION", None)
        if token is not None:
            environ["gateway.claims"] = token.claims
            for key, value in zip(self._keys, self._values(token), strict=True):
                if value:
                    environ[key] = value

    def _remove_ours(self, environ: Environ) -> None:
        for key in environ.keys() - self._harmless:
            if self._folds_to_ours(key):
                del environ[key]
            elif len(self._harmless) < MOST_HARMLESS:
                self._harmless.add(key)

    def fields(self, token: Token | None) -> list[tuple[str, str]]:
        """Return the trusted fields as response fields: all of them, empty where there is nothing to say.

        An outer proxy that copies a field which is not there keeps the client's (CVE-2026-30851).
        """
        values = ("", "") if token is None else self._values(token)
        return list(zip(self._names, values, strict=True))

    def _folds_to_ours(self, key: str) -> bool:
        return key.startswith("HTTP_") and _PUNCTUATION.sub("_", key.upper()) in self._keys


def _environ_key(name: str) -> str:
    return "HTTP_" + name.upper().replace("-", "_")


def _values(token: Token) -> tuple[str, str]:
    claims = base64.urlsafe_b64encode(json.dumps(token.claims, separators=(",", ":")).encode()).rstrip(b"=").decode()
    return claims, _subject(token.claims.get("sub"))


def _subject(sub: object) -> str:
    text = str(sub) if isinstance(sub, str) or type(sub) is int else ""
    return text if _FIELD_VALUE.fullmatch(text) else ""
