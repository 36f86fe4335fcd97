"""The tokens of a run: many users' good ones, and one of each kind that must be refused."""

from __future__ import annotations

import datetime
import functools
import ipaddress
import json
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

ISSUER = "https://issuer.example/"
SECRET = "a-shared-secret-of-more-than-32-bytes-for-benchmarks"  # plain enough for every configuration
USERS = 100
MANY = 10_000
# Twice what a worker caches: asked for in turn, each of them is verified anew. More of them measure the same.
MORE_THAN_CACHED = 20_000
LIFETIME_SECONDS = 86_400


def mint(key: Any = SECRET, algorithm: str = "HS256", **claims: object) -> str:
    """Return a token as an identity provider would make it, with some claims replaced."""
    now = int(time.time())
    usual = {
        "iss": ISSUER,
        "sub": secrets.token_hex(8),
        "jti": secrets.token_hex(16),
        "iat": now,
        "exp": now + LIFETIME_SECONDS,
        "scope": "read write",
        "type": "access",
    }
    return jwt.encode(usual | claims, key, algorithm)


@functools.cache
def private_key(algorithm: str) -> Any:
    """Return the key that signs with the algorithm in this run."""
    if algorithm == "RS256":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else SECRET


def public_jwk(algorithm: str) -> str:
    """Return the public key of an asymmetric algorithm as a JWK."""
    maker: Any = jwt.get_algorithm_by_name(algorithm)
    return json.dumps({**json.loads(maker.to_jwk(private_key(algorithm).public_key())), "alg": algorithm})


@functools.cache
def good(algorithm: str, count: int) -> list[str]:
    """Return so many users' good tokens, made once in a run."""
    return [mint(private_key(algorithm), algorithm) for _ in range(count)]


@functools.cache
def expired() -> list[str]:
    """Return as many expired ones."""
    return [mint(exp=int(time.time()) - 3600) for _ in range(USERS)]


@dataclass
class Tokens:
    """Tokens to be let through, one whose jti is blacklisted, and those no blacklist is needed for."""

    good: list[str] = field(default_factory=lambda: good("HS256", USERS))
    jti: str = field(default_factory=lambda: secrets.token_hex(16))

    @functools.cached_property
    def blacklisted(self) -> str:
        return mint(jti=self.jti)

    @property
    def bad(self) -> dict[str, str]:
        """The tokens that must be refused by whoever looks at tokens, by what is wrong with them."""
        head, payload, signature = self.good[0].split(".")
        forged = ("B" if signature[0] == "A" else "A") + signature[1:]
        return {
            "forged": f"{head}.{payload}.{forged}",
            "expired": expired()[0],
            "another issuer's": mint(iss="https://other.example/"),
        }


def write_certificate(directory: Path) -> None:
    """Write `upstream.pem`: a certificate for 127.0.0.1 that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upstream")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "upstream.pem").write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
