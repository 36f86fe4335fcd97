"""Where verification keys come from: secrets, PEM files, JWKS."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from gateway.auth.jwks import FetchPolicy, JwksKeys, checked_url, fetch_jwks
from gateway.auth.keyset import ASYMMETRIC, Key, KeySet, KeysRefused, Snapshot, family
from gateway.auth.keytext import read_jwks, read_pem, read_secrets, weak_secrets

__all__ = [
    "FetchPolicy",
    "FileKeys",
    "JwksKeys",
    "Key",
    "KeySet",
    "Keys",
    "KeysRefused",
    "StaticKeys",
    "build_keys",
    "family",
    "weak_secrets",
]

LOOK_SECONDS = 1  # how often, at most, a file of keys is looked at


class Keys(Protocol):
    """A source of key sets for one issuer, shared by all threads of a process."""

    algorithms: frozenset[str]

    def current(self) -> KeySet:
        """Return the keys in force. Raises `Problem` keys-unavailable when there are none to go by."""

    def unknown(self, kid: str | None) -> KeySet:
        """Return the keys in force after what can be done at once about a kid that they lack."""

    def age(self) -> float:
        """Return the seconds since these keys were last known to be good."""


class StaticKeys:
    """Keys that never change."""

    def __init__(self, algorithms: frozenset[str], keys: KeySet) -> None:
        self.algorithms = algorithms
        self._keys = keys

    def current(self) -> KeySet:
        """Return the keys."""
        return self._keys

    def unknown(self, kid: str | None) -> KeySet:
        """Return the keys: there are no others."""
        return self._keys

    def age(self) -> float:
        """Return 0: they do not age."""
        return 0.0


class FileKeys:
    """Keys of a file, read again when it changes. Raises OSError or ValueError for a file that is bad at the start."""

    def __init__(self, algorithms: frozenset[str], path: Path, snapshot: Snapshot, now: Callable[[], float]) -> None:
        self.algorithms = algorithms
        self._path, self._snapshot, self._now = path, snapshot, now
        self._looked_at = now()
        snapshot.take(path.read_bytes)

    def current(self) -> KeySet:
        """Return the file's keys, or its last good ones while it is broken.

        Raises `Problem` keys-unavailable when those are too old.
        """
        now = self._now()
        if not 0 <= now - self._looked_at < LOOK_SECONDS:
            self._looked_at = now
            self._snapshot.renew(self._path.read_bytes)
        return self._snapshot.current()

    def unknown(self, kid: str | None) -> KeySet:
        """Return the file's keys."""
        return self.current()

    def age(self) -> float:
        """Return the seconds since the file was last found good."""
        return self._snapshot.age()


def build_keys(
    *,
    secrets: Sequence[str],
    public_key: str | None,
    jwks_url: str | None,
    algorithms: Sequence[str],
    issuer: str,
    now: Callable[[], float] = time.monotonic,
    policy: FetchPolicy | None = None,
) -> Keys:
    """Return one issuer's source of keys: `now` tells seconds, and may step.

    Without algorithms, HS256 goes with secrets and every asymmetric one with public keys. Beside
    asymmetric algorithms, secrets are ignored. Raises KeysRefused with a sentence for the operator.
    """
    try:
        allowed = frozenset(algorithms or _default_algorithms(secrets, public_key or jwks_url))
        if family(allowed) == "asymmetric":
            return _public_keys(public_key, jwks_url, allowed, issuer, now, policy or FetchPolicy())
        if public_key or jwks_url:
            raise KeysRefused("there are public keys, but only HMAC algorithms (HS…) are allowed")
        return StaticKeys(allowed, read_secrets(secrets, allowed))
    except KeysRefused as fault:
        raise KeysRefused(f"issuer {issuer!r}: {fault}") from fault
    except (OSError, ValueError) as error:
        raise KeysRefused(f"issuer {issuer!r}: the file of keys cannot be read ({type(error).__name__})") from error


def _default_algorithms(secrets: Sequence[str], public: str | None) -> frozenset[str]:
    if secrets and public:
        raise KeysRefused("there are a secret and public keys: set the algorithms to say which count")
    return ASYMMETRIC if public else frozenset(("HS256",))


def _public_keys(
    public_key: str | None,
    jwks_url: str | None,
    allowed: frozenset[str],
    issuer: str,
    now: Callable[[], float],
    policy: FetchPolicy,
) -> Keys:
    read = partial(read_pem if public_key else read_jwks, algorithms=allowed)
    snapshot = Snapshot(issuer, read, policy.limit, now)
    if public_key and jwks_url:
        raise KeysRefused("there are a public key file and a JWKS: set one of them")
    if not (source := public_key or jwks_url):
        raise KeysRefused("the algorithms need a public key file or a JWKS")
    if public_key or "://" not in source:
        return FileKeys(allowed, Path(source), snapshot, now)
    if source.startswith("file://"):
        return FileKeys(allowed, Path(unquote(urlsplit(source).path)), snapshot, now)
    return JwksKeys(allowed, snapshot, partial(fetch_jwks, checked_url(source), issuer, policy), policy, now)
