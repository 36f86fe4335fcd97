"""Signed messages that are no access tokens: logout tokens, security events, an identity provider's credentials."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from gateway.auth.fetch import FetchPolicy
from gateway.auth.issuers import Issuer, Issuers
from gateway.auth.tokens import (
    GRAMMAR,
    UNSUPPORTED_HEADERS,
    Claims,
    as_seconds,
    check_audience,
    check_signature,
    decode_object,
    decode_part,
    is_time,
)
from gateway.http.problems import Problem

LONGEST_MESSAGE = 64 * 1024  # characters


@dataclass(frozen=True, slots=True, repr=False)  # a trace must not show a message
class Message:
    """A message whose signature is its issuer's, and whose kind, `typ` in lower case, is one that was asked for."""

    claims: Claims
    issuer: Issuer
    typ: str

    def text(self, name: str) -> str:
        """Return a claim that must be text. Raises `Problem` missing-claim or invalid-claim."""
        value = self._get(name)
        if not isinstance(value, str) or not value:
            raise Problem("invalid-claim", f"The claim {name} must be text that is not empty.")
        return value

    def time(self, name: str) -> float:
        """Return a claim that must be a time, in epoch seconds. Raises `Problem` missing-claim or invalid-claim."""
        value = self._get(name)
        if not is_time(value):
            raise Problem("invalid-claim", f"The claim {name} must be a number.")
        return as_seconds(value)

    def check(self, audience: Collection[str], now: float) -> None:
        """Check `aud`, and that neither `iat` nor `nbf` lies after `now`. Raises `Problem` saying which is wrong."""
        check_audience(self.claims.get("aud"), frozenset(audience))
        if max(self.time("iat"), self.time("nbf") if self.claims.get("nbf") is not None else 0) > now:
            raise Problem("token-not-yet-valid")

    def _get(self, name: str) -> Any:
        if self.claims.get(name) is None:
            raise Problem("missing-claim", f"The claim {name} is missing.")
        return self.claims[name]


def read_message(text: str, issuers: Issuers, types: Collection[str]) -> Message:
    """Return the message, if an issuer signed it and its `typ` is one of `types`, in lower case ("": none at all).

    It is signed as access tokens are, with the same keys and algorithms (RFC 8725 sections 3.1 and 3.11); what it
    says is for the caller to check. Raises `Problem` saying why it is refused: keys-unavailable where there
    may be newer keys that could not be fetched.
    """
    if len(text) > LONGEST_MESSAGE or not (parts := GRAMMAR.fullmatch(text)):
        raise Problem("malformed-token")
    header, claims = decode_object(parts[1]), decode_object(parts[2])
    algorithm, kid, typ = header.get("alg"), header.get("kid"), header.get("typ", "")
    if any(name in header for name in UNSUPPORTED_HEADERS) or not isinstance(kid, str | None):
        raise Problem("malformed-token", "The header asks for what is not supported.")
    # RFC 7515 section 4.1.9: the prefix may be left out.
    if not isinstance(typ, str) or (kind := typ.lower().removeprefix("application/")) not in types:
        raise Problem("malformed-token", "The header names another kind of message.")
    issuer = issuers.require(claims)
    if not isinstance(algorithm, str) or algorithm not in issuer.algorithms:
        raise Problem("algorithm-not-allowed")
    came = time.monotonic()
    try:
        check_signature(issuer, kid, algorithm, text[: parts.end(2)].encode(), decode_part(parts[3]))
    except Problem as problem:
        # A wrong signature by a key that the message names, and that we have, is final.
        if problem.code == "unknown-key" or kid is None or not issuer.keys.current().has_kids:
            refuse_if_stale(problem, issuer, came)
        raise
    return Message(claims, issuer, kind)


def refuse_if_stale(problem: Problem, issuer: Issuer | None, came: float) -> None:
    """Raise `Problem` keys-unavailable where no key verifies, and the issuer's were fetched before the message came.

    It comes once, and what it should have blacklisted would pass: only a look at newer keys makes the refusal final.
    `came` is in seconds of the monotonic clock.
    """
    is_stale = issuer is not None and issuer.keys.age() > time.monotonic() - came
    if is_stale and problem.code in ("unknown-key", "bad-signature"):
        # Until then nothing has the keys fetched again.
        raise Problem("keys-unavailable", fields=[("Retry-After", f"{FetchPolicy().cool_down:.0f}")]) from problem
