"""Token -> the request fields the upstream may trust."""

from __future__ import annotations

import re

from gateway.auth.tokens import Token
from gateway.http.cache import bounded_cache
from gateway.http.grammar import environ_key
from gateway.http.wsgi import Context, Environ, Fields

# Names that an upstream could fold into the trusted one: WSGI, CGI and PHP turn `-` into `_`,
# others any punctuation (CVE-2025-64484, CVE-2026-39858).
_PUNCTUATION = re.compile(r"[^A-Z0-9]")

CLAIMS_FIELD, SUBJECT_FIELD, NONE = "X-Token-Claims", "X-Token-Subject", "none"


class Identity:
    """Sets the trusted fields on a request, after removing every spelling a client may have sent.

    `claims_field` gets the token's own payload part, base64url JSON, `subject_field` the `sub` (a string of
    printable ASCII, or an integer; anything else is only in the claims). A field named `none` is not sent; the one
    that has its name by default is removed all the same.
    """

    def __init__(
        self, claims_field: str = CLAIMS_FIELD, subject_field: str = SUBJECT_FIELD, forward_authorization: bool = True
    ) -> None:
        self._claims_field, self._subject_field = claims_field, subject_field
        self._claims_key = environ_key(claims_field) if claims_field != NONE else ""
        self._subject_key = environ_key(subject_field) if subject_field != NONE else ""
        self._removed = frozenset(
            {self._claims_key or environ_key(CLAIMS_FIELD), self._subject_key or environ_key(SUBJECT_FIELD)}
        )
        self._forward_authorization = forward_authorization
        self._spellings_in = bounded_cache(256, longest=64)(self._spellings)

    def set(self, environ: Environ, token: Token | None, about: Context) -> None:
        """Make the environ carry the token's identity, or none, and `gateway.claims` for stages within."""
        # From the bundled server only the client's fields: to look up all keys takes 1 % of a request's instructions.
        for key in self._spellings_in(about.received or tuple(environ)):
            environ.pop(key, None)
        if token is None:  # on a public path another scheme's credentials are for the upstream
            return
        if not self._forward_authorization:
            environ.pop("HTTP_AUTHORIZATION", None)
        environ["gateway.claims"] = token.claims
        if self._claims_key:
            environ[self._claims_key] = token.payload
        if self._subject_key and token.subject:
            environ[self._subject_key] = token.subject

    def fields(self, token: Token | None) -> Fields:
        """Return the trusted fields as response fields: all of them, empty where there is nothing to say.

        An outer proxy that copies a field which is not there keeps the client's (CVE-2026-30851).
        """
        claims, subject = (token.payload, token.subject) if token else ("", "")
        fields = [(self._claims_field, claims)] if self._claims_key else []
        if self._subject_key:
            fields.append((self._subject_field, subject))
        return fields

    def _spellings(self, keys: tuple[str, ...]) -> list[str]:
        return [key for key in keys if key.startswith("HTTP_") and _PUNCTUATION.sub("_", key.upper()) in self._removed]
