"""Shared secrets: the bytes that a text means, and which texts are refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence

import jwt

from gateway.auth.keyset import ALGORITHMS, HMAC, MAX_TRIES, Key, KeysRefused

AS_BYTES = "base64:"  # before a secret that is bytes

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")


def read_secrets(secrets: Sequence[str], algorithms: Iterable[str]) -> list[Key]:
    """Return the keys of shared secrets, newest first. Raises KeysRefused for what is no secret."""
    if not 1 <= len(secrets) <= MAX_TRIES:
        hint = "" if secrets else "set a secret, or a public key or a JWKS URL for other algorithms: "
        raise KeysRefused(f"{hint}HMAC algorithms need 1 to {MAX_TRIES} secrets, not {len(secrets)}")
    allowed = frozenset(algorithms)
    return [Key(None, allowed, _check_secret(number, secret)) for number, secret in enumerate(secrets, 1)]


def secret_bytes(text: str) -> bytes:
    """Return the bytes that a secret's text means: its own, or those after `base64:`. Raises ValueError."""
    if not text.startswith(AS_BYTES):
        return text.encode()
    encoded = text.removeprefix(AS_BYTES)
    if not _BASE64.fullmatch(encoded):
        raise ValueError("not base64")
    return _from_base64(encoded)


def is_same_secret(ours: str, theirs: str) -> bool:
    """Return whether two secrets are the same, in a time that reveals nothing of ours, not even its length."""
    # Surrogates, which WSGI and forms let through, must not make this fail.
    digests = [hashlib.sha256(each.encode(errors="surrogatepass")).digest() for each in (ours, theirs)]
    return hmac.compare_digest(*digests)


def weak_secrets(secrets: Iterable[str], algorithms: Iterable[str]) -> int:
    """Return how many secrets are shorter than the hash of one of the algorithms (RFC 7518 section 3.2)."""
    hashes = [ALGORITHMS[name] for name in HMAC.intersection(algorithms)]
    return sum(any(each.check_key_length(secret_bytes(secret)) for each in hashes) for secret in secrets)


def _check_secret(number: int, secret: str) -> bytes:
    """Return the secret's bytes, unless they are a key: as PEM, DER, SSH or JWK, also cut off or in base64."""
    if not secret:
        raise KeysRefused(f"secret {number} is empty")
    try:
        data = secret_bytes(secret)
    except UnicodeEncodeError as error:
        raise KeysRefused(f"secret {number} is no text that UTF-8 can hold") from error
    except ValueError as error:
        raise KeysRefused(f"secret {number} is not base64 after {AS_BYTES!r}") from error
    try:
        for text in (data, _decode_whole(data)):
            if b"-----BEGIN" in text or b"-----END" in text:
                raise jwt.InvalidKeyError("PEM armour")
            if text:
                ALGORITHMS["HS256"].prepare_key(text)
    except jwt.InvalidKeyError as error:
        raise KeysRefused(f"secret {number} is the text of a key, which is no secret") from error
    return data


def _decode_whole(data: bytes) -> bytes:
    """Return what the bytes are the base64 of, if they are that."""
    try:
        return _from_base64("".join(data.decode("ascii").split()))
    except ValueError:
        return b""


def _from_base64(text: str) -> bytes:
    text = text.rstrip("=").translate({ord("-"): "+", ord("_"): "/"})
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
