"""The texts that keys come in: shared secrets, PEM files, JWKS."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from gateway.auth.keyset import ALGORITHMS, HMAC, MAX_TRIES, Key, KeySet, KeysRefused
from gateway.http.strict_json import json_object

MAX_JWKS_KEYS = 100

_PUBLIC = (rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)
_PRIVATE_MEMBERS = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))  # RFC 7518 section 6
_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)


def read_secrets(secrets: Sequence[str], algorithms: Iterable[str]) -> KeySet:
    """Return the keys of shared secrets, newest first. Raises KeysRefused for what is no secret."""
    if not 1 <= len(secrets) <= MAX_TRIES:
        raise KeysRefused(f"HMAC algorithms need 1 to {MAX_TRIES} secrets, not {len(secrets)}")
    allowed = frozenset(algorithms)
    keys = []
    for number, secret in enumerate(secrets, 1):
        if not secret:
            raise KeysRefused(f"secret {number} is empty")
        try:
            keys.append(Key(None, allowed, _secret(secret)))
        except (jwt.InvalidKeyError, UnicodeEncodeError) as error:
            raise KeysRefused(f"secret {number} is the text of a key, which is no secret") from error
    return KeySet(keys)


def _secret(text: str) -> bytes:
    """Return the secret's bytes. PyJWT refuses PEM, DER, SSH and JWK texts; here also what is left of a torn PEM."""
    hmac = ALGORITHMS["HS256"]
    if "-----BEGIN" in text or "-----END" in text:
        raise jwt.InvalidKeyError("PEM armour")
    try:
        hidden = base64.b64decode("".join(text.split()).translate({ord("-"): "+", ord("_"): "/"}), validate=True)
    except ValueError:
        hidden = b""
    if hidden:
        hmac.prepare_key(hidden)
    return bytes(hmac.prepare_key(text))


def weak_secrets(secrets: Iterable[str], algorithms: Iterable[str]) -> int:
    """Return how many secrets are shorter than the hash of one of the algorithms (RFC 7518 section 3.2)."""
    hashes = [ALGORITHMS[name] for name in HMAC.intersection(algorithms)]
    return sum(any(each.check_key_length(secret.encode()) for each in hashes) for secret in secrets)


def read_pem(text: bytes, algorithms: Iterable[str]) -> tuple[KeySet, list[str]]:
    """Return the keys of a PEM file's public keys and certificates, in its order; none is ever ignored.

    Raises KeysRefused when one of them cannot be used, for none, and for too many.
    """
    blocks = list(_PEM_BLOCK.finditer(text))
    if not 1 <= len(blocks) <= MAX_TRIES:
        raise KeysRefused(f"the public key file must hold 1 to {MAX_TRIES} PEM public keys, not {len(blocks)}")
    keys = []
    for number, block in enumerate(blocks, 1):
        try:
            keys.append(_public_key(None, _load_pem(block[1], block[0]), algorithms))
        except KeysRefused as fault:
            raise KeysRefused(f"key {number} of the public key file {fault}") from fault
    return KeySet(keys), []


def _load_pem(label: bytes, block: bytes) -> Any:
    if b"PRIVATE" in label:
        raise KeysRefused("is private; only its public half is needed here")
    try:
        return load_pem_x509_certificate(block).public_key() if label == b"CERTIFICATE" else load_pem_public_key(block)
    except Exception as error:
        raise KeysRefused("cannot be read") from error


def read_jwks(text: bytes, algorithms: Iterable[str]) -> tuple[KeySet, list[str]]:
    """Return the usable keys of a JWKS (RFC 7517), and why each of the others is ignored, by number and kid.

    Raises KeysRefused when none is usable, and ValueError for what is no JSON object.
    """
    members = json_object(text).get("keys")
    if not isinstance(members, list):
        raise KeysRefused("the JWKS has no list of keys")
    allowed = frozenset(algorithms)
    keys: list[Key] = []
    ignored = [] if len(members) <= MAX_JWKS_KEYS else [f"the JWKS has more than {MAX_JWKS_KEYS} keys: the rest"]
    for number, jwk in enumerate(members[:MAX_JWKS_KEYS], 1):
        try:
            keys.append(_unlike(keys, _read_jwk(jwk, allowed)))
        except KeysRefused as fault:
            kid = str(jwk.get("kid") if isinstance(jwk, dict) else None)[:80]
            ignored.append(f"key {number} (kid {kid!r}) of the JWKS {fault}")
    if not keys:
        raise KeysRefused("; ".join(["the JWKS has no usable key", *ignored]))
    return KeySet(keys), ignored


def _unlike(keys: Iterable[Key], key: Key) -> Key:
    """Return the key. RFC 7517 section 4.5 lets only keys of different algorithms share a kid."""
    if key.kid is not None and any(key.kid == other.kid and key.algorithms & other.algorithms for other in keys):
        raise KeysRefused("has the kid of an earlier key")
    return key


def _read_jwk(jwk: Any, allowed: frozenset[str]) -> Key:
    if not isinstance(jwk, dict):
        raise KeysRefused("is no JSON object")
    if _PRIVATE_MEMBERS & jwk.keys() or jwk.get("kty") == "oct":
        raise KeysRefused("is private, and has no place in a published set")
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise KeysRefused("is not for verifying")
    kid = jwk.get("kid")
    if not isinstance(kid, str | None):
        raise KeysRefused("has a kid that is not text")
    try:
        material = jwt.PyJWK(jwk).key
        named = frozenset((jwk["alg"],)) if jwk.get("alg") else allowed
    except Exception as error:
        raise KeysRefused("cannot be read") from error
    return _public_key(kid, material, allowed & named)


def _public_key(kid: str | None, material: Any, algorithms: Iterable[str]) -> Key:
    fitting = frozenset(name for name in algorithms if _fits(name, material))
    if not fitting:
        raise KeysRefused("fits none of the allowed algorithms")
    if any(ALGORITHMS[name].check_key_length(material) for name in fitting):
        raise KeysRefused("has less than 2048 bits (RFC 7518 section 3.3)")
    return Key(kid, fitting, material)


def _fits(algorithm: str, material: Any) -> bool:
    """Tell whether the algorithm is one for this type of key and, with ECDSA, this curve."""
    try:
        return isinstance(ALGORITHMS[algorithm].prepare_key(material), _PUBLIC)
    except (jwt.InvalidKeyError, TypeError):
        return False
