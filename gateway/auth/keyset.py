"""Verification keys, and the set of them that a token is checked against."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
from jwt.algorithms import OKPAlgorithm, get_default_algorithms

MAX_TRIES = 16  # keys tried for a token that names none, or a kid of several: what a forged token may cost us

# ES521 is PyJWT's old misspelling of ES512, no algorithm of RFC 7518. RFC 9864 names each curve of EdDSA.
ALGORITHMS = {name: each for name, each in get_default_algorithms().items() if name not in ("none", "ES521")} | {
    "Ed25519": OKPAlgorithm(),
    "Ed448": OKPAlgorithm(),
}
CURVES = {"Ed25519": ed25519.Ed25519PublicKey, "Ed448": ed448.Ed448PublicKey}
HMAC = frozenset(name for name in ALGORITHMS if name.startswith("HS"))
ASYMMETRIC = frozenset(ALGORITHMS) - HMAC

TENANT = "{tenantid}"  # in an issuer's name: the token's `tid`, as Microsoft Entra's metadata has it


class KeysRefused(ValueError):
    """Keys that must not be used; its text says which and why, and holds no key material."""


class NoUsableKey(KeysRefused):
    """A key set that is well-formed, and has no usable key: those that it had are withdrawn."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Key:
    """One verification key, bound to its algorithms (RFC 8725 section 3.1).

    In a set for many tenants, a key of one tenant alone has the name of that `issuer`.
    """

    kid: str | None
    algorithms: frozenset[str]
    _material: Any = dataclasses.field(repr=False)
    issuer: str | None = None

    def verifies(self, algorithm: str, signing_input: bytes, signature: bytes) -> bool:
        """Return whether the signature is this key's, by this algorithm. Never raises."""
        if algorithm not in self.algorithms:
            return False
        try:
            return ALGORITHMS[algorithm].verify(signing_input, self._material, signature)
        except Exception:  # noqa: BLE001 - whatever a hostile signature causes, it does not verify
            return False


class KeySet:
    """An immutable snapshot of one issuer's keys; a change of keys is a new object."""

    __slots__ = ("_candidates", "has_kids", "keys")

    def __init__(self, keys: Iterable[Key]) -> None:
        self.keys = tuple(keys)
        found: dict[tuple[str | None, str], tuple[Key, ...]] = {}
        for key in self.keys:
            for place in {(kid, algorithm) for kid in (key.kid, None) for algorithm in key.algorithms}:
                found[place] = (*found.get(place, ()), key)[:MAX_TRIES]
        self._candidates = found
        self.has_kids = any(key.kid is not None for key in self.keys)

    def candidates(self, kid: str | None, algorithm: str) -> Sequence[Key]:
        """Return the keys to try, in order: those of the kid, or all where the token or the set has no kid.

        Secrets have no kid, so that of a token with an HMAC algorithm is ignored.
        """
        return self._candidates.get((kid if self.has_kids and algorithm not in HMAC else None, algorithm), ())


def known_algorithms(names: Iterable[str]) -> frozenset[str]:
    """Return the algorithms; EdDSA brings those of its curves along. Raises KeysRefused for one that is none."""
    allowed = set(names)
    if unknown := sorted(allowed - ALGORITHMS.keys()):
        raise KeysRefused(
            f"{unknown[0]!r} is not an algorithm that may sign a token: use {', '.join(sorted(ALGORITHMS))}"
        )
    return frozenset(allowed | CURVES.keys() if "EdDSA" in allowed else allowed)
