"""Token -> the request fields the upstream may trust."""

from __future__ import annotations

import re

from gateway.auth.tokens import Token
from gateway.http.cache import remembered
from gateway.http.grammar import environ_key
from gateway.http.wsgi import Environ, context

# Names that an upstream could fold into the trusted one: WSGI, CGI and PHP turn `-` into `_`,
# others any punctuation (CVE-2025-64484, CVE-2026-39858).
_PUNCTUATION = re.compile(r"[^A-Z0-9]")
_FIELD_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")

CLAIMS_FIELD, SUBJECT_FIELD, NONE = "X-Token-Claims", "X-Token-Subject", "none"

Fields = tuple[tuple[str, str], ...]


class Identity:
    """Sets the trusted fields on a request, after removing every spelling a client may have sent.

    `claims_field` gets the token's own payload part, base64url JSON, `subject_field` the `sub` (a string of
    printable ASCII, or an integer; anything else is only in the claims). A field named `none` is not sent; the one
    that has its name by default is removed all the same.
    """

    def __init__(
        self,
        claims_field: str = CLAIMS_FIELD,
        subject_field: str = SUBJECT_FIELD,
        forward_authorization: bool = True,
    ) -> None:
        self._claims_field = "" if claims_field == NONE else claims_field
        self._subject_field = "" if subject_field == NONE else subject_field
        self._claims_key, self._subject_key = map(environ_key, (claims_field, subject_field))
        self._removed = {
            environ_key(self._claims_field or CLAIMS_FIELD),
            environ_key(self._subject_field or SUBJECT_FIELD),
        }
        self._forward_authorization = forward_authorization
        self._spellings_in = remembered(256, longest=64)(self._spellings)

    def set(self, environ: Environ, token: Token | None) -> None:
        """Make the environ carry the token's identity, or none, and `gateway.claims` for stages within."""
        # Of the bundled server the client's fields alone: to look up all keys takes 1 % of a request's instructions.
        for key in self._spellings_in(context(environ).received or tuple(environ)):
            environ.pop(key, None)
        if token is None:  # on a public path another scheme's credentials are for the upstream
            return
        if not self._forward_authorization:
            environ.pop("HTTP_AUTHORIZATION", None)
        environ["gateway.claims"] = token.claims
        if self._claims_field:
            environ[self._claims_key] = _payload(token)
        if self._subject_field and (subject := self._subject(token)):
            environ[self._subject_key] = subject

    def fields(self, token: Token | None) -> Fields:
        """Return the trusted fields as response fields: all of them, empty where there is nothing to say.

        An outer proxy that copies a field which is not there keeps the client's (CVE-2026-30851).
        """
        values = ("", "") if token is None else (_payload(token), self._subject(token))
        named = zip((self._claims_field, self._subject_field), values, strict=True)
        return tuple((name, value) for name, value in named if name)

    def _subject(self, token: Token) -> str:
        """Return what the subject's field holds: worked out once for a token that is remembered."""
        subject: str | None = token.derived.get(self)
        if subject is None:
            subject = token.derived[self] = _subject(token.claims.get("sub"))
        return subject

    def _spellings(self, keys: tuple[str, ...]) -> list[str]:
        return [key for key in keys if _folded(key) in self._removed]


@remembered(1024)
def _folded(key: str) -> str:
    return _PUNCTUATION.sub("_", key.upper()) if key.startswith("HTTP_") else ""


def _payload(token: Token) -> str:
    # Cut out each time: kept, it would double what a remembered token takes.
    return token.text[token.text.index(".") + 1 : token.text.rindex(".")]


def _subject(sub: object) -> str:
    text = str(sub) if isinstance(sub, str) or type(sub) is int else ""
    return text if _FIELD_VALUE.fullmatch(text) else ""
