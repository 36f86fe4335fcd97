"""Token -> the request fields the upstream may trust."""

from __future__ import annotations

import base64
import json
import re

from gateway.auth.tokens import Token
from gateway.http.cache import remembered
from gateway.http.grammar import environ_key
from gateway.http.wsgi import Environ, context

# Names that an upstream could fold into the trusted one: WSGI, CGI and PHP turn `-` into `_`,
# others any punctuation (CVE-2025-64484, CVE-2026-39858).
_PUNCTUATION = re.compile(r"[^A-Z0-9]")
_FIELD_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")

Fields = tuple[tuple[str, str], ...]


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
        self._keys = tuple(environ_key(name) for name in self._names)
        self._forward_authorization = forward_authorization
        self._spellings_in = remembered(256, longest=64)(self._spellings)

    def set(self, environ: Environ, token: Token | None) -> None:
        """Make the environ carry the token's identity, or none, and `gateway.claims` for stages within."""
        # Of the bundled server the client's fields alone: to look up all keys takes 1 % of a request's instructions.
        for key in self._spellings_in(context(environ).received or tuple(environ)):
            environ.pop(key, None)
        if not self._forward_authorization:
            environ.pop("HTTP_AUTHORIZATION", None)
        if token is not None:
            environ.update(self._trusted(token)[0])

    def fields(self, token: Token | None) -> Fields:
        """Return the trusted fields as response fields: all of them, empty where there is nothing to say.

        An outer proxy that copies a field which is not there keeps the client's (CVE-2026-30851).
        """
        return tuple((name, "") for name in self._names) if token is None else self._trusted(token)[1]

    def _trusted(self, token: Token) -> tuple[Environ, Fields]:
        """Return what a request's environ gains, and the response fields."""
        known: tuple[Environ, Fields] | None = token.derived.get(self)
        if known is None:
            values = _claims(token), _subject(token.claims.get("sub"))
            gained = {key: value for key, value in zip(self._keys, values, strict=True) if value}
            known = {"gateway.claims": token.claims, **gained}, tuple(zip(self._names, values, strict=True))
            token.derived[self] = known
        return known

    def _spellings(self, keys: tuple[str, ...]) -> list[str]:
        return [key for key in keys if _folded(key) in self._keys]


@remembered(1024)
def _folded(key: str) -> str:
    return _PUNCTUATION.sub("_", key.upper()) if key.startswith("HTTP_") else ""


def _claims(token: Token) -> str:
    return base64.urlsafe_b64encode(json.dumps(token.claims, separators=(",", ":")).encode()).rstrip(b"=").decode()


def _subject(sub: object) -> str:
    text = str(sub) if isinstance(sub, str) or type(sub) is int else ""
    return text if _FIELD_VALUE.fullmatch(text) else ""
