"""What a token costs when it is seen for the first time, beside PyJWT's own decode."""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks.processes import TESTED, pinned
from benchmarks.tokens import ISSUER, SECRET, mint
from gateway.auth.issuers import Issuer
from gateway.auth.keys import Keys, build_keys
from gateway.auth.tokens import Verifier

TOKENS = 300
ROUNDS = 5


@dataclass(frozen=True)
class Cost:
    """Microseconds of CPU for one token: by PyJWT, by this gateway at first sight, and once it is cached."""

    algorithm: str
    pyjwt_us: float
    first_us: float
    again_us: float


def measure() -> list[Cost]:
    """Return the cost of each algorithm, measured on the core of the process under test."""
    private_keys = {
        "HS256": SECRET,
        "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }
    with pinned(TESTED):
        return [_cost(algorithm, key) for algorithm, key in private_keys.items()]


def _cost(algorithm: str, private: Any) -> Cost:
    tokens = [mint(private, algorithm) for _ in range(TOKENS)]
    public = private if algorithm == "HS256" else private.public_key()
    keys = _keys(algorithm, public)
    samples = [_round(tokens, algorithm, public, keys) for _ in range(ROUNDS)]
    return Cost(algorithm, *map(statistics.median, zip(*samples, strict=True)))


def _round(tokens: list[str], algorithm: str, public: Any, keys: Keys) -> tuple[float, float, float]:
    decode = functools.partial(
        jwt.decode, key=public, algorithms=[algorithm], issuer=ISSUER, options={"require": ["exp", "iss"]}
    )
    verify = Verifier([Issuer(ISSUER, keys.algorithms, frozenset(), keys)]).verify
    return _each_us(decode, tokens), _each_us(verify, tokens), _each_us(verify, tokens)


def _keys(algorithm: str, public: Any) -> Keys:
    if algorithm == "HS256":
        return build_keys(secrets=[public], public_key=None, jwks_url=None, algorithms=[algorithm], issuer=ISSUER)
    with tempfile.NamedTemporaryFile() as pem:
        Path(pem.name).write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        # In production a look at the file each second; here its clock stands still.
        return build_keys(
            secrets=[], public_key=pem.name, jwks_url=None, algorithms=[algorithm], issuer=ISSUER, now=lambda: 0.0
        )


def _each_us(function: Callable[[str], object], tokens: Iterable[str]) -> float:
    began = time.process_time_ns()
    for token in tokens:
        function(token)
    return (time.process_time_ns() - began) / TOKENS / 1e3
