"""A token's text -> Token, or why not: strict where RFC 8725bis is, cheapest check first."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from gateway.auth.issuers import Issuer, Issuers
from gateway.auth.keyset import KeySet
from gateway.auth.kinds import is_other_type, other_kind
from gateway.http.cache import bounded_cache
from gateway.http.problems import Problem
from gateway.http.strict_json import json_object

# RFC 7515 section 2: base64url without padding. Anything else, `=` included, MUST be rejected.
GRAMMAR = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
# Not supported here, and each changes what is signed or what it means
# (CVE-2026-32597 crit, CVE-2026-48525 b64, CVE-2024-28180 zip).
UNSUPPORTED_HEADERS = ("crit", "b64", "zip")
SOON = 30.0  # seconds before a token's end

Claims = dict[str, Any]

# The names of claims are the same in most tokens: kept once, and not with each token that is cached.
_same_name = bounded_cache(1024, longest=64)(str)


@dataclass(frozen=True, slots=True, eq=False, repr=False)  # a trace must not show a token
class Token:
    """A token whose signature, issuer and claim types are good; its times are checked at each use.

    `fingerprint` is the hexadecimal SHA-256 of the signing input, which every spelling that
    verifies shares (the text, its hash and the signature's bytes do not: CVE-2026-102269).
    `valid_from` is the latest of `nbf`, `iat` and perhaps `auth_time`, `expires_at` is `exp`, in epoch seconds from 0
    to 2**53. From `ends_at` on it is refused: that is `exp` or its greatest age, with the leeway. `derived` is what
    stages have worked out from it, each under itself: it is kept as long as the token is.
    """

    text: str
    fingerprint: str
    claims: Claims
    issuer: Issuer
    key_set: KeySet
    valid_from: float
    expires_at: float
    ends_at: float
    derived: dict[object, Any] = field(default_factory=dict)


class Verifier:
    """Verifies tokens of some `issuers`, and keeps up to `cache_size` good ones.

    A cached token is good only under the very key set that verified it, so that a removed
    key takes its tokens along. `leeway` and `max_age` (by `iat`) are in seconds, `now` returns epoch seconds. With
    `by_auth_time`, an `auth_time` must not lie ahead: no cut-off of now would cover it.
    """

    def __init__(
        self,
        issuers: Iterable[Issuer],
        *,
        leeway: float = 0,
        max_bytes: int = 8192,
        max_age: int | None = None,
        by_auth_time: bool = False,
        cache_size: int = 16_384,
        now: Callable[[], float] = time.time,
    ) -> None:
        known = list(issuers)
        self.issuers = Issuers(known)
        self._algorithms = frozenset[str]().union(*(issuer.algorithms for issuer in known))
        self._leeway = leeway
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._starts = ("nbf", "iat", "auth_time") if by_auth_time else ("nbf", "iat")
        self._limit = cache_size
        self._cached: dict[str, Token] = {}
        self.now = now
        self.passed_late = -math.inf  # when a token passed last that had less than SOON to live

    def verify(self, text: str) -> Token:
        """Return the token if it is genuine and valid now. Raises `Problem` saying why it is not."""
        token = self.genuine(text)
        code, detail = self._fault(token)
        if code:
            raise Problem(code, detail, log={"issuer": token.issuer.name, "fingerprint": token.fingerprint})
        return token

    def _fault(self, token: Token) -> tuple[str, str]:
        """Return the code and detail of why the token is not valid now, both empty where it is."""
        if self._max_age is not None and "iat" not in token.claims:
            return "missing-claim", "The token lacks the claim iat."
        now = self.now()
        if now >= token.ends_at - SOON:
            if now >= token.ends_at:
                is_only_old = now < token.expires_at + self._leeway
                return "token-expired", "The token was issued too long ago." if is_only_old else ""
            self.passed_late = now
        if token.valid_from > now + self._leeway:
            return "token-not-yet-valid", ""
        return "", ""

    def genuine(self, text: str) -> Token:
        """Return the token if it is genuine, whatever the time. Raises `Problem` saying why it is not."""
        token = self._cached.get(text)
        if token is None or token.key_set is not token.issuer.keys.current():
            token = self._check(text)
            self._cache(token)
        return token

    def has_cached(self, text: str) -> bool:
        """Return whether the token is in the cache of those that were verified."""
        return text in self._cached

    def has_expired(self, token: Token) -> bool:
        """Return whether the token's `exp` or its age has come (RFC 7519 section 4.1.4: on or after is too late)."""
        return self.now() >= token.ends_at

    def _cache(self, token: Token) -> None:
        while len(self._cached) >= self._limit:
            try:
                del self._cached[next(iter(self._cached))]
            except (StopIteration, KeyError, RuntimeError):
                break  # another thread is making room at the same moment
        self._cached[token.text] = token

    def _check(self, text: str) -> Token:
        # The size first: a megabyte of dots must not even be matched (CVE-2025-30204).
        if len(text) > self._max_bytes or not (parts := GRAMMAR.fullmatch(text)):
            raise Problem("malformed-token")
        header, claims = decode_object(parts[1]), decode_object(parts[2])
        algorithm, kid = self._check_header(header)
        if claims.get("iss") is None:
            raise Problem("missing-claim", "The token lacks the claim iss.")
        issuer = self.issuers.require(claims)
        if algorithm not in issuer.algorithms:
            raise Problem("algorithm-not-allowed")
        signing_input = text[: parts.end(2)].encode()
        key_set = check_signature(issuer, kid, algorithm, signing_input, decode_part(parts[3]))
        _check_claims(claims, issuer)
        fingerprint = hashlib.sha256(signing_input).hexdigest()
        valid_from = max((claims[name] for name in self._starts if is_time(claims.get(name))), default=0)
        expires_at = ends_at = _seconds(claims["exp"])
        if self._max_age is not None and "iat" in claims:
            ends_at = min(expires_at, _seconds(claims["iat"]) + self._max_age)
        ends_at += self._leeway
        claims = {_same_name(name): value for name, value in claims.items()}
        return Token(text, fingerprint, claims, issuer, key_set, _seconds(valid_from), expires_at, ends_at)

    def _check_header(self, header: Claims) -> tuple[str, str | None]:
        algorithm, kid, typ = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise Problem("algorithm-not-allowed")
        if any(name in header for name in UNSUPPORTED_HEADERS):
            raise Problem("malformed-token", "The token's header asks for an unsupported extension.")
        if not isinstance(kid, str | None) or not isinstance(typ, str) or is_other_type(typ):
            raise Problem("malformed-token", "The token's header names a kind of token or key that is not accepted.")
        return algorithm, kid


def check_signature(issuer: Issuer, kid: str | None, algorithm: str, signing_input: bytes, signature: bytes) -> KeySet:
    """Return the key set under which the signature verifies: where none does, a newer one is asked for."""
    key_set = issuer.keys.current()
    keys = key_set.candidates(kid, algorithm)
    if any(key.verifies(algorithm, signing_input, signature) for key in keys):
        return key_set
    if (newer := issuer.keys.renew()) is not key_set:
        keys = newer.candidates(kid, algorithm)
        if any(key.verifies(algorithm, signing_input, signature) for key in keys):
            return newer
    raise Problem("bad-signature" if keys else "unknown-key")


def _check_claims(claims: Claims, issuer: Issuer) -> None:
    if claims.get("exp") is None:
        raise Problem("missing-claim", "The token lacks the claim exp.")
    for name in ("exp", "nbf", "iat"):
        # PyJWT takes "9999999999" and True for a time; an upstream may read them otherwise.
        if name in claims and not is_time(claims[name]):
            raise Problem("invalid-claim", f"The token's claim {name} is not a number.")
    if telling := other_kind(claims):
        raise Problem("invalid-claim", f"The token's claim {telling} says that it is no access token.")
    for requirement in issuer.required:
        requirement.check(claims)
    # Where no audience is set, an `aud` must not be a way around the client.
    if issuer.client_ids and (claims.get("aud") is None or not issuer.audience):
        _check_client(claims, issuer.client_ids)
    elif issuer.audience:
        check_audience(claims.get("aud"), issuer.audience)


def is_time(value: object) -> TypeGuard[float]:
    """Return whether a claim's value is a time: a finite number (RFC 7519 section 2)."""
    return type(value) is int or (isinstance(value, float) and math.isfinite(value))


def _seconds(value: Any) -> float:
    # A whole number can be too large for a float, and takes longer to compare with the clock's.
    return float(min(max(value, 0), 2**53))


def check_audience(audience: object, accepted: frozenset[str]) -> None:
    """Raise `Problem` unless one of the audience's names is accepted (RFC 7519 section 4.1.3)."""
    if audience is None:
        raise Problem("missing-claim", "The token lacks the claim aud.")
    named = audience if isinstance(audience, list) else [audience]
    if not all(isinstance(name, str) for name in named) or accepted.isdisjoint(named):
        raise Problem("wrong-audience")


def _check_client(claims: Claims, accepted: frozenset[str]) -> None:
    """Check the client that a token is for, which Amazon Cognito's access tokens name in place of an `aud`."""
    named = [claims[name] for name in ("client_id", "azp") if claims.get(name) is not None]
    if not named:
        raise Problem("missing-claim", "The token lacks the claim client_id.")
    if not all(isinstance(name, str) and name in accepted for name in named):
        raise Problem("wrong-audience")


def decode_part(part: str) -> bytes:
    """Return the bytes of one part of a token. Raises `Problem` malformed-token."""
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError as error:
        raise Problem("malformed-token") from error


def decode_object(part: str) -> Claims:
    """Return the JSON object in one part of a token. Raises `Problem` malformed-token."""
    try:
        return json_object(decode_part(part))
    except ValueError as error:
        raise Problem("malformed-token") from error
