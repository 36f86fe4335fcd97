"""Where one issuer's verification keys come from: secrets, PEM, JWKS, as files, URLs or the text itself."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from urllib.parse import unquote, urlsplit

from gateway.auth.fetch import MAX_BYTES, FetchPolicy, check_url, fetch_keys, follow, is_metadata
from gateway.auth.keyset import ASYMMETRIC, HMAC, Key, KeySet, KeysRefused, NoUsableKey, known_algorithms
from gateway.auth.keytext import is_key_text, read_keys
from gateway.auth.secrets import read_secrets
from gateway.auth.snapshot import Ignored, Read, Snapshot, fault_of
from gateway.auth.watched import WatchedKeys

_BARE_KEY = re.compile(r"M[A-Za-z0-9+/\s]{50,}={0,2}")  # the base64 of DER, as Keycloak's pages show a key

LOOK_SECONDS = 1  # how often a file of keys is looked at
FILE_WAIT_SECONDS = 0.25  # how long a request waits for a disk, once per look
REWRITE_SECONDS = 0.1  # in which a file that was found empty is written


class StaticKeys:
    """Keys that never change, with the methods of `WatchedKeys`."""

    def __init__(self, algorithms: frozenset[str], keys: KeySet) -> None:
        self.algorithms = algorithms
        self._keys = keys

    def current(self) -> KeySet:
        """Return the keys."""
        return self._keys

    renew = ask = current

    def age(self) -> float:
        """Return 0: they do not age."""
        return 0.0


Keys = StaticKeys | WatchedKeys  # where one issuer's key sets come from, for all threads of a process


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
    """Return one issuer's source of keys. `now` returns seconds, and may step.

    Without algorithms, HS256 goes with secrets and every asymmetric one with public keys. Each key verifies its own
    family alone; secrets beside asymmetric algorithms alone are ignored. Raises KeysRefused with a sentence for people.
    """
    try:
        if public_key and jwks_url:
            raise KeysRefused("there are a public key and a JWKS: set one of them")
        source = public_key or jwks_url
        allowed = known_algorithms(allowed_algorithms(algorithms, secrets, source))
        if source and not allowed & ASYMMETRIC:
            raise KeysRefused("there are public keys, but only HMAC algorithms (HS…) are allowed")
        shared = read_secrets(secrets, allowed & HMAC) if allowed & HMAC else []
        if not allowed & ASYMMETRIC:
            return StaticKeys(allowed, KeySet(shared))
        if not source:
            raise KeysRefused("the algorithms need a public key or a JWKS")
        read = partial(_read_beside, shared, allowed=allowed & ASYMMETRIC)
        return _public_keys(source, allowed, read, issuer, now, policy or FetchPolicy())
    except KeysRefused as fault:
        raise KeysRefused(f"issuer {issuer!r}: {fault}") from fault
    except (OSError, ValueError) as error:
        # Not by its name: it may be a key that was given in the file's place.
        named = "PUBLIC_KEY" if public_key else "JWKS_URL"
        why = fault_of(error) if isinstance(error, OSError) else f"cannot be read ({fault_of(error)})"
        raise KeysRefused(f"issuer {issuer!r}: the file that {named} names {why}") from error


def allowed_algorithms(named: Collection[str], secrets: Collection[object], public: str | None) -> frozenset[str]:
    """Return the algorithms that are named, or that go with the keys where none are."""
    if named:
        return frozenset(named)
    return frozenset(("HS256",) if secrets or not public else ()) | (ASYMMETRIC if public else frozenset())


def _read_beside(shared: Sequence[Key], text: bytes, *, allowed: frozenset[str]) -> tuple[KeySet, list[Ignored]]:
    """Read public keys, and put the shared secrets beside them. With secrets, a set without usable keys will do.

    Supabase's set is empty for as long as a project signs with its secret alone.
    """
    try:
        keys, ignored = read_keys(text, allowed)
    except NoUsableKey as fault:
        if not shared:
            raise
        return KeySet(shared), [Ignored(f"the key set beside the secret: {fault}")]
    return KeySet([*shared, *keys.keys]), ignored


def _public_keys(
    source: str, allowed: frozenset[str], read: Read, issuer: str, now: Callable[[], float], policy: FetchPolicy
) -> Keys:
    names = (issuer, *policy.aliases)
    snapshot = Snapshot(issuer, read, policy.limit, now)
    if _BARE_KEY.fullmatch(source) and not os.path.exists(source):
        source = f"-----BEGIN PUBLIC KEY-----\n{source}\n-----END PUBLIC KEY-----\n"
    load = partial(_load, source)
    is_url = not is_key_text(source) and "://" in source and not source.startswith("file://")
    if is_url or is_metadata(load()):
        # Imported before there are requests: from a cold disk that takes longer than a request waits for keys.
        import requests  # noqa: F401

        fetch = (
            partial(fetch_keys, check_url(source, policy.insecure_hosts), names, policy)
            if is_url
            else lambda: follow(load(), "the file", names, policy)
        )
        return WatchedKeys(allowed, snapshot, fetch, policy, now)
    keys = snapshot.take(load)  # what is bad at the start ends the start
    if is_key_text(source):
        return StaticKeys(allowed, keys)
    soon = replace(policy, refresh=LOOK_SECONDS, max_retry=LOOK_SECONDS, cool_down=LOOK_SECONDS, wait=FILE_WAIT_SECONDS)
    return WatchedKeys(allowed, snapshot, partial(_load_again, source), soon, now)


def _load(source: str) -> bytes:
    """Return the text that the source is, or that is in its file. Raises OSError, and KeysRefused for too much."""
    if is_key_text(source):
        return source.encode()
    path = unquote(urlsplit(source).path) if source.startswith("file://") else source
    with open(path, "rb") as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise KeysRefused(f"the file of keys has more than {MAX_BYTES} bytes")
    return text


def _load_again(source: str) -> bytes:
    """Return the text in a file of keys: who empties it takes them away, but who writes in its place needs a moment."""
    text = _load(source)
    if not text.strip():
        time.sleep(REWRITE_SECONDS)
        text = _load(source)
    return text if text.strip() else b'{"keys": []}'
