"""A token's text -> Token, or why not: strict where RFC 8725bis is, cheapest check first."""

from __future__ import annotations

import hashlib
import math
import re
import time
from binascii import a2b_base64
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

from gateway.auth.bearer import BEARER
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
_FIELD_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
SOON = 30.0  # seconds before a token's end
LONG = 2048  # characters: a token takes one more place in the cache for each of these

Claims = dict[str, Any]

# The names of claims are the same in most tokens: kept once, and not with each token that is cached.
_same_name = bounded_cache(1024, longest=64)(str)


# A request with a cached token finds what it needs outside the processor's caches: so it stands in as few objects as
# possible, and the garbage collector has one to look at for each token.
@dataclass(slots=True, eq=False, repr=False)  # a trace must not show a token
class Token:
    """A token whose signature, issuer and claim types are good; its times are checked at each use.

    `credentials` are `Bearer` and its text, `payload` is the text of its second part, `subject` its `sub` as a field
    can say it, or "". `fingerprint` is the hexadecimal SHA-256 of the signing input, which every spelling that verifies
    shares (the text, its hash and the signature's bytes do not: CVE-2026-102269). `valid_from` is the latest of `nbf`,
    `iat` and perhaps `auth_time`, in epoch seconds from 0 to 2**53; infinity where the age must be known and is not.
    From `ends_at` on it is refused: that is `exp` or its greatest age, with the leeway.
    """

    credentials: str
    fingerprint: str
    payload: str
    claims: Claims
    issuer: Issuer
    key_set: KeySet
    valid_from: float
    ends_at: float
    subject: str
    # `blacklist.rules`: which blacklist looked it up, by which keys, and what its store answered last.
    looked_up_by: Any = None
    keys: tuple[str, ...] = ()
    answer: Any = None

    @property
    def text(self) -> str:
        """The token itself."""
        return self.credentials.removeprefix(BEARER)

    @property
    def expires_at(self) -> float:
        """Its `exp`, in epoch seconds from 0 to 2**53."""
        return as_seconds(self.claims["exp"])


class Verifier:
    """Verifies tokens of some `issuers`, and keeps up to `cache_size` good ones.

    A cached token is good only under the very key set that verified it, so that a removed key takes its tokens along.
    A verifier is for one blacklist, whose answers its tokens keep: of two, each might take the other's. `leeway` and
    `max_age` (by `iat`) are in seconds, `now` returns epoch seconds. With `by_auth_time`, an `auth_time` must not lie
    ahead: no cut-off of now would cover it.
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
        self._header_in = bounded_cache(256, longest=512)(self._read_header)  # most tokens of an issuer have the same
        self._limit = cache_size
        self._cached: dict[str, Token] = {}  # by their credentials
        self._order: deque[Token] = deque()  # the oldest first: a dict would be searched for its first
        self.now = now
        self.passed_late = -math.inf  # when a token last passed that had less than SOON to live

    def verify(self, text: str) -> Token:
        """Return the token if it is genuine and valid now. Raises `Problem` saying why it is not."""
        token = self.genuine(text)
        self.check_times(token)
        return token

    def check_times(self, token: Token) -> None:
        """Raise `Problem` unless the token is valid now."""
        now = self.now()
        if token.valid_from <= now + self._leeway and now < token.ends_at - SOON:
            return
        code, detail = self._fault(token, now)
        if code:
            raise Problem(code, detail, log={"issuer": token.issuer.name, "fingerprint": token.fingerprint})
        self.passed_late = now

    def _fault(self, token: Token, now: float) -> tuple[str, str]:
        """Return the code and detail of why the token is not valid, both empty where it is."""
        if self._max_age is not None and "iat" not in token.claims:
            return "missing-claim", "The token lacks the claim iat."
        if now >= token.ends_at:
            is_only_old = now < token.expires_at + self._leeway
            return "token-expired", "The token was issued too long ago." if is_only_old else ""
        return ("token-not-yet-valid", "") if token.valid_from > now + self._leeway else ("", "")

    def genuine(self, text: str) -> Token:
        """Return the token if it is genuine, whatever the time. Raises `Problem` saying why it is not."""
        token = self.cached(BEARER + text)
        if token is None:
            token = self._check(text)
            self._cache(token)
        return token

    def cached(self, credentials: str) -> Token | None:
        """Return the token with these credentials if it was verified before, by keys that are still in force.

        Raises `Problem` keys-unavailable.
        """
        token = self._cached.get(credentials)
        return token if token is not None and token.key_set is token.issuer.keys.current() else None

    def has_cached(self, text: str) -> bool:
        """Return whether the token was verified before, whatever has become of the keys since."""
        return BEARER + text in self._cached

    def has_expired(self, token: Token) -> bool:
        """Return whether the token's `exp` or its age has come (RFC 7519 section 4.1.4: on or after is too late)."""
        return self.now() >= token.ends_at

    def _cache(self, token: Token) -> None:
        self._cached[token.credentials] = token
        self._order.extend([token] * (1 + len(token.credentials) // LONG))
        while len(self._order) > self._limit:
            try:
                oldest = self._order.popleft()
            except IndexError:
                break  # other threads are making room at the same moment
            # It may have been verified again since, by newer keys or in another thread.
            if self._cached.get(oldest.credentials) is oldest:
                self._cached.pop(oldest.credentials, None)

    def _check(self, text: str) -> Token:
        # The size first: a megabyte of dots must not even be matched (CVE-2025-30204).
        if len(text) > self._max_bytes or not (parts := GRAMMAR.fullmatch(text)):
            raise Problem("malformed-token")
        header, payload, signature = parts.groups()
        claims = decode_object(payload)
        algorithm, kid = self._header_in(header)
        if claims.get("iss") is None:
            raise Problem("missing-claim", "The token lacks the claim iss.")
        issuer = self.issuers.require(claims)
        if algorithm not in issuer.algorithms:
            raise Problem("algorithm-not-allowed")
        signing_input = text[: parts.end(2)].encode()
        key_set = check_signature(issuer, kid, algorithm, signing_input, decode_part(signature))
        _check_claims(claims, issuer)
        fingerprint = hashlib.sha256(signing_input).hexdigest()
        valid_from = as_seconds(max((claims[name] for name in self._starts if is_time(claims.get(name))), default=0))
        ends_at = as_seconds(claims["exp"])
        if self._max_age is not None:
            if "iat" in claims:
                ends_at = min(ends_at, as_seconds(claims["iat"]) + self._max_age)
            else:
                valid_from = math.inf  # never
        ends_at += self._leeway
        claims = dict(zip(map(_same_name, claims), claims.values(), strict=True))
        return Token(
            BEARER + text, fingerprint, payload, claims, issuer, key_set, valid_from, ends_at, _subject(claims)
        )

    def _read_header(self, part: str) -> tuple[str, str | None]:
        """Return the algorithm and the key's name. Raises `Problem`."""
        header = decode_object(part)
        algorithm, kid, typ = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise Problem("algorithm-not-allowed")
        if any(name in header for name in UNSUPPORTED_HEADERS):
            raise Problem("malformed-token", "The token's header asks for an unsupported extension.")
        if not isinstance(kid, str | None) or not isinstance(typ, str) or is_other_type(typ):
            raise Problem("malformed-token", "The token's header names a kind of token or key that is not accepted.")
        return algorithm, kid


def check_signature(issuer: Issuer, kid: str | None, algorithm: str, signing_input: bytes, signature: bytes) -> KeySet:
    """Return the key set under which the signature verifies, if need be a newer one. Raises `Problem`."""
    key_set = issuer.keys.current()
    keys = list(filter(issuer.may_use, key_set.candidates(kid, algorithm)))
    if any(key.verifies(algorithm, signing_input, signature) for key in keys):
        return key_set
    if (newer := issuer.keys.renew()) is not key_set:
        keys = list(filter(issuer.may_use, newer.candidates(kid, algorithm)))
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


def _subject(claims: Claims) -> str:
    sub = claims.get("sub")
    text = str(sub) if isinstance(sub, str) or type(sub) is int else ""
    return text if _FIELD_VALUE.fullmatch(text) else ""


def as_seconds(value: Any) -> float:
    """Return a time from 0 to 2**53: a whole number can be too large for a float, and takes longer to compare."""
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
    named = clients_of(claims)
    if not named:
        raise Problem("missing-claim", "The token lacks the claim client_id.")
    if not all(isinstance(name, str) and name in accepted for name in named):
        raise Problem("wrong-audience")


def clients_of(claims: Claims) -> list[Any]:
    """Return the clients that a token names as those it was issued to."""
    return [claims[name] for name in ("client_id", "azp") if claims.get(name) is not None]


def decode_part(part: str) -> bytes:
    """Return the bytes of one part of a token. Raises `Problem` malformed-token."""
    try:
        return a2b_base64(part.replace("-", "+").replace("_", "/") + "==")  # more padding than needed is ignored
    except ValueError as error:
        raise Problem("malformed-token") from error


def decode_object(part: str) -> Claims:
    """Return the JSON object in one part of a token. Raises `Problem` malformed-token."""
    try:
        return json_object(decode_part(part))
    except ValueError as error:
        raise Problem("malformed-token") from error
