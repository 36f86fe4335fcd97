"""The tokens of a run: many users' good ones, and one of each kind that must be refused."""

from __future__ import annotations

import functools
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import jwt

ISSUER = "https://issuer.example/"
SECRET = "a-shared-secret-of-more-than-32-bytes-for-benchmarks"  # plain enough for every configuration
USERS = 100
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


@dataclass
class Tokens:
    """Tokens to be let through, one whose jti is blacklisted, and those no blacklist is needed for."""

    good: list[str] = field(default_factory=lambda: [mint() for _ in range(USERS)])
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
            "expired": mint(exp=int(time.time()) - 3600),
            "another issuer's": mint(iss="https://other.example/"),
        }
