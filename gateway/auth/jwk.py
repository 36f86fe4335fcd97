"""One JWK (RFC 7517) -> a key, or which member of it is wrong, what was found and what is wanted."""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Iterable
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.auth.keyset import ALGORITHMS, CURVES, Key, KeysRefused

# By type: the maker of the key, and by curve the length in bytes of what is on it (RFC 7518 section 6.2, RFC 8037).
_TYPES: dict[str, tuple[Any, dict[str, int], tuple[str, ...]]] = {
    "RSA": (RSAAlgorithm.from_jwk, {}, ("n", "e")),
    "EC": (ECAlgorithm.from_jwk, {"P-256": 32, "P-384": 48, "P-521": 66, "secp256k1": 32}, ("x", "y")),
    "OKP": (OKPAlgorithm.from_jwk, {"Ed25519": 32, "Ed448": 57}, ("x",)),
}
_PUBLIC = (rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)
_PRIVATE_MEMBERS = ("d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv")  # RFC 7518 section 6
_ENCRYPTION_ALGORITHMS = ("RSA-OAEP", "RSA1_5", "ECDH-ES", "A128", "A192", "A256", "PBES2", "HPKE", "dir")
_ENCRYPTION_OPERATIONS = {"encrypt", "decrypt", "wrapKey", "unwrapKey", "deriveKey", "deriveBits"}
_ENCRYPTION_CURVES = ("X25519", "X448")


class NotForSignatures(KeysRefused):
    """A key for encryption: many sets hold one, and that is no fault."""


def read_jwk(jwk: Any, allowed: frozenset[str]) -> Key:
    """Return the key. Members that are null or empty are taken for absent, as .NET and Java write them.

    Raises KeysRefused with what follows "key 1 …", NotForSignatures for a key of encryption.
    """
    if not isinstance(jwk, dict):
        raise KeysRefused("is no JSON object")
    members = {name: value for name, value in jwk.items() if value is not None and value not in ("", [], {})}
    if private := [name for name in _PRIVATE_MEMBERS if name in members]:
        raise KeysRefused(f"is private (it has the member {private[0]}), and has no place in a published set")
    if members.get("kty") == "oct":
        raise KeysRefused("is a secret (its kty is 'oct'), and has no place in a published set")
    _check_purpose(members)
    kid, issuer = members.get("kid"), members.get("issuer")
    if not isinstance(kid, str | None):
        raise KeysRefused(f"has a kid that is not text, but {_kind(kid)}")
    key = public_key(kid, _material(members), allowed & _named_algorithms(members))
    return dataclasses.replace(key, issuer=issuer if isinstance(issuer, str) else None)


def public_key(kid: str | None, material: Any, algorithms: Iterable[str]) -> Key:
    """Return the key, for those of the algorithms that are for its type and curve. Raises KeysRefused."""
    fitting = frozenset(name for name in algorithms if _fits(name, material))
    if not fitting:
        raise KeysRefused(f"is {_describe(material)}, which fits none of the allowed algorithms")
    if any(ALGORITHMS[name].check_key_length(material) for name in fitting):
        raise KeysRefused(f"has {material.key_size} bits, and at least 2048 are needed (RFC 7518 section 3.3)")
    return Key(kid, fitting, material)


def _check_purpose(members: dict[str, Any]) -> None:
    use, operations, algorithm = members.get("use", "sig"), members.get("key_ops", ["verify"]), members.get("alg", "")
    if not isinstance(operations, list):
        raise KeysRefused(f"is not for verifying: its key_ops is {_kind(operations)}, not a list")
    texts = [operation for operation in operations if isinstance(operation, str)]
    if (
        use == "enc"
        or members.get("crv") in _ENCRYPTION_CURVES
        or (isinstance(algorithm, str) and algorithm.startswith(_ENCRYPTION_ALGORITHMS))
        or (use == "sig" and "verify" not in texts and _ENCRYPTION_OPERATIONS.intersection(texts))
    ):
        raise NotForSignatures("is not for verifying, but for encryption")
    if use != "sig":
        raise KeysRefused(f"is not for verifying: its use is {_loggable(use)}, not 'sig'")
    if "verify" not in texts:
        raise KeysRefused("is not for verifying: its key_ops has no 'verify'")


def _named_algorithms(members: dict[str, Any]) -> frozenset[str]:
    """Return the algorithms that the key may be used with, as far as it says: all where it says nothing."""
    algorithm = members.get("alg")
    if algorithm is None:
        return frozenset(ALGORITHMS)
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise KeysRefused(f"has an alg that signs no token: {_loggable(algorithm)}")
    if algorithm == "EdDSA" or algorithm in CURVES:  # two names of one algorithm
        return frozenset(("EdDSA", *(name for name in CURVES if algorithm in ("EdDSA", name))))
    return frozenset((algorithm,))


def _material(members: dict[str, Any]) -> Any:
    kty = members.get("kty")
    if not isinstance(kty, str) or kty not in _TYPES:
        raise KeysRefused(f"has a kty that is not known: {_loggable(kty)}; it must be one of {', '.join(_TYPES)}")
    make, curves, names = _TYPES[kty]
    wanted: int | None = None
    if curves:
        curve = members.get("crv")
        if not isinstance(curve, str) or curve not in curves:
            raise KeysRefused(f"has a crv that is not known: {_loggable(curve)}; it must be one of {', '.join(curves)}")
        wanted = curves[curve]
    for name in names:
        _check_bytes(members, name, wanted)
    try:
        return make({name: value for name, value in members.items() if name in ("kty", "crv", *names)})
    except Exception as error:
        raise KeysRefused(f"cannot be read: {' and '.join(names)} are no {kty} key") from error


def _check_bytes(members: dict[str, Any], name: str, wanted: int | None) -> None:
    value = members.get(name)
    if value is None:
        raise KeysRefused(f"lacks the member {name}")
    if not isinstance(value, str):
        raise KeysRefused(f"has a member {name} that is {_kind(value)}, not base64url text")
    try:
        found = len(base64.b64decode(value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4), altchars=b"-_"))
    except (binascii.Error, ValueError) as error:
        raise KeysRefused(f"has a member {name} that is no base64url text") from error
    if wanted is not None and found != wanted:
        raise KeysRefused(
            f"has a member {name} of {found} bytes; {members['crv']} wants {wanted}, leading zeros included"
        )


def _fits(algorithm: str, material: Any) -> bool:
    """Return whether the algorithm is one for this type of key and, with ECDSA and RFC 9864, this curve."""
    try:
        prepared = ALGORITHMS[algorithm].prepare_key(material)
        return isinstance(prepared, CURVES.get(algorithm, _PUBLIC))
    except (jwt.InvalidKeyError, TypeError):
        return False


def _describe(material: Any) -> str:
    """Return what a public key is, for people."""
    if isinstance(material, rsa.RSAPublicKey):
        return "an RSA key"
    if isinstance(material, ec.EllipticCurvePublicKey):
        return f"an EC key on {material.curve.name}"
    return next((f"an {name} key" for name, each in CURVES.items() if isinstance(material, each)), "a key")


def _loggable(value: object) -> str:
    """Return a member's value for the log, bounded: what of a key is not its material."""
    return repr(value[:40]) if isinstance(value, str) else _kind(value)


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null or absent"}
    return kinds.get(type(value), "a number")
