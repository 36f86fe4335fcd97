"""Verification keys, the snapshot of them that a token is checked against, and its age."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from jwt.algorithms import get_default_algorithms

from gateway.http.problems import Problem

MAX_TRIES = 16  # keys tried for a token that names none: what a stranger's token may cost us

# ES521 is PyJWT's old misspelling of ES512, no algorithm of RFC 7518.
ALGORITHMS = {name: each for name, each in get_default_algorithms().items() if name not in ("none", "ES521")}
HMAC = frozenset(name for name in ALGORITHMS if name.startswith("HS"))
ASYMMETRIC = frozenset(ALGORITHMS) - HMAC

_log = logging.getLogger(__name__)


class KeysRefused(ValueError):
    """Keys that must not be used; its text says which and why, and holds no key material."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Key:
    """One verification key, bound to its algorithms (RFC 8725 section 3.1)."""

    kid: str | None
    algorithms: frozenset[str]
    _material: Any = dataclasses.field(repr=False)

    def verifies(self, algorithm: str, signing_input: bytes, signature: bytes) -> bool:
        """Tell whether the signature is this key's, by this algorithm. Never raises."""
        if algorithm not in self.algorithms:
            return False
        try:
            return ALGORITHMS[algorithm].verify(signing_input, self._material, signature)
        except Exception:  # noqa: BLE001 - whatever a hostile signature brings about, it does not verify
            return False


class KeySet:
    """An immutable snapshot of one issuer's keys; a change of keys is a new object."""

    __slots__ = ("_candidates", "_kids")

    def __init__(self, keys: Iterable[Key]) -> None:
        found: dict[tuple[str | None, str], tuple[Key, ...]] = {}
        for key in keys:
            for place in {(kid, algorithm) for kid in (key.kid, None) for algorithm in key.algorithms}:
                found[place] = (*found.get(place, ()), key)[:MAX_TRIES]
        self._candidates = found
        self._kids = frozenset(kid for kid, _ in found if kid is not None)

    def candidates(self, kid: str | None, algorithm: str) -> Sequence[Key]:
        """Return the keys to try, in order: those of the kid, or all where the token or the set has no kid."""
        return self._candidates.get((kid if self._kids else None, algorithm), ())

    def knows(self, kid: str | None) -> bool:
        """Tell whether newer keys are not what a token with this kid needs."""
        return kid is None or not self._kids or kid in self._kids


def family(algorithms: Iterable[str]) -> Literal["HMAC", "asymmetric"]:
    """Return the one family that all the algorithms belong to.

    Where families mix, a public key can be passed off as an HMAC secret (CVE-2022-29217).
    Raises KeysRefused for a mixture, and for an algorithm that is unknown or `none`.
    """
    names = set(algorithms)
    if unknown := sorted(names - ALGORITHMS.keys()):
        raise KeysRefused(f"{unknown[0]!r} is not an algorithm that may sign a token")
    if names & HMAC and names & ASYMMETRIC:
        raise KeysRefused("HMAC algorithms (HS…) and those of public keys must not be mixed")
    return "HMAC" if names & HMAC else "asymmetric"


class Snapshot:
    """The last good keys of one source and their age. What changes, for good or ill, is logged once.

    `read` turns the source's text into keys and the reasons why others are ignored; good keys
    serve for `limit` seconds after the source last gave them.
    """

    def __init__(
        self, issuer: str, read: Callable[[bytes], tuple[KeySet, list[str]]], limit: float, now: Callable[[], float]
    ) -> None:
        self._issuer, self._read, self._limit, self._now = issuer, read, limit, now
        self._good: tuple[bytes, KeySet, float] | None = None  # replaced whole, so that threads see one state
        self._fault = ""

    def current(self) -> KeySet:
        """Return the last good keys. Raises `Problem` keys-unavailable where there are none young enough."""
        if self._good is None or self.age() > self._limit:
            raise Problem("keys-unavailable")
        return self._good[1]

    def age(self) -> float:
        """Return the seconds since the last good keys were asked for; infinity where there never were any."""
        return self._now() - self._good[2] if self._good else float("inf")

    def take(self, load: Callable[[], bytes]) -> None:
        """Load and read the keys. Raises whatever `load` and `read` raise.

        The same text keeps the same KeySet, and with it the tokens that are remembered under it.
        """
        began = self._now()
        text = load()
        keys, ignored = (self._good[1], []) if self._good and self._good[0] == text else self._read(text)
        for reason in ignored:
            _log.warning("issuer %r: %s; it is ignored", self._issuer, reason)
        self._good = (text, keys, began)

    def renew(self, load: Callable[[], bytes]) -> bool:
        """Take newer keys and tell whether it worked; where it did not, the last good ones stay."""
        fault = ""
        try:
            self.take(load)
        except Exception as error:  # noqa: BLE001 - whatever a provider sends is a failed fetch, never a crash
            fault = str(error) if isinstance(error, KeysRefused) else type(error).__name__
        if fault != self._fault:
            _log.warning("issuer %r: %s", self._issuer, f"no newer keys: {fault}" if fault else "keys are renewed")
        self._fault = fault
        return not fault
