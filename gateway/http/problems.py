"""Every refusal the gateway can give: its code, its status, its title and its challenge.

A refusal travels as an exception from wherever it is decided to the stage that answers it
(`http.answers.refuse`). Its text is fixed or made of names only: a token, a secret or a
claim's value never becomes part of one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

REALM = "gateway"
MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1
HELP = "docs/problems.md"  # of this distribution, one paragraph a code


class Kind(NamedTuple):
    """What is fixed about a refusal: its status, its title and the error of its challenge (RFC 6750)."""

    status: str
    title: str
    error: str | None = None  # None: no challenge; "": a challenge without an error code


def _invalid_token(title: str) -> Kind:
    return Kind("401 Unauthorized", title, "invalid_token")


# RFC 6750 section 3: without credentials, or with a scheme we do not speak, no error code.
KINDS: dict[str, Kind] = {
    "missing-credentials": Kind("401 Unauthorized", "A Bearer token is required.", ""),
    "unsupported-scheme": Kind("401 Unauthorized", "Only the Bearer scheme is accepted.", ""),
    "malformed-credentials": Kind(
        "400 Bad Request", "The Authorization field is not one Bearer token.", "invalid_request"
    ),
    "malformed-token": _invalid_token("The token is not a JWT."),
    "bad-signature": _invalid_token("The token's signature does not verify."),
    "algorithm-not-allowed": _invalid_token("The token's algorithm is not allowed."),
    "unknown-key": _invalid_token("The token names a key that is not known."),
    "missing-claim": _invalid_token("The token lacks a required claim."),
    "invalid-claim": _invalid_token("A claim of the token is not acceptable."),
    "wrong-issuer": _invalid_token("The token comes from another issuer."),
    "wrong-audience": _invalid_token("The token is meant for another audience."),
    "token-expired": _invalid_token("The token has expired."),
    "token-not-yet-valid": _invalid_token("The token is not valid yet."),
    "token-blacklisted": _invalid_token("The token is blacklisted."),
    "sign-in-required": Kind(  # RFC 9470 section 3
        "401 Unauthorized", "The sign-in behind the token is too old.", "insufficient_user_authentication"
    ),
    "insufficient-scope": Kind("403 Forbidden", "The token lacks the scope this needs.", "insufficient_scope"),
    "not-found": Kind("404 Not Found", "There is no such resource."),
    "method-not-allowed": Kind("405 Method Not Allowed", "The resource does not allow this method."),
    "invalid-request": Kind("400 Bad Request", "The request cannot be understood."),
    "payload-too-large": Kind("413 Content Too Large", "The request body is too large."),
    "unsupported-media-type": Kind("415 Unsupported Media Type", "The request body has an unsupported media type."),
    "bad-request-target": Kind("400 Bad Request", "The request target is not acceptable."),
    "upgrade-unsupported": Kind("501 Not Implemented", "Neither CONNECT nor a switch to this protocol is supported."),
    "fields-too-large": Kind("431 Request Header Fields Too Large", "The request's fields are too large."),
    "not-implemented": Kind("501 Not Implemented", "The request's transfer coding is not supported."),
    "internal-error": Kind("500 Internal Server Error", "The gateway failed."),
    "loop-detected": Kind("508 Loop Detected", "The request has been through this gateway before."),
    "upstream-unreachable": Kind("502 Bad Gateway", "The upstream cannot be reached."),
    "upstream-protocol": Kind("502 Bad Gateway", "The upstream's answer is not valid HTTP."),
    "upstream-timeout": Kind("504 Gateway Timeout", "The upstream did not answer in time."),
    "overloaded": Kind("503 Service Unavailable", "The gateway has more requests than it can answer in time."),
    "store-unavailable": Kind("503 Service Unavailable", "The blacklist store is unavailable."),
    "keys-unavailable": Kind("503 Service Unavailable", "The issuer's keys are unavailable."),
}


class Problem(Exception):
    """A refusal, raised where it is decided.

    `detail` is one sentence for the client; `scope` is what the token lacks, `max_age` how many seconds ago its holder
    may have signed in; `fields` are response fields beyond the usual ones; `log` has members for the log alone, and no
    secrets. Raises KeyError for a code that is not in `KINDS`.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        scope: str = "",
        max_age: int | None = None,
        fields: Iterable[tuple[str, str]] = (),
        log: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.kind = KINDS[code]
        super().__init__(code)
        self.code = code
        self.detail = detail or self.kind.title
        self.scope = scope
        self.max_age = max_age
        self.fields = tuple(fields)
        self.log = log

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(self.kind.status[:3])

    def response(self, resource_metadata: str = "") -> tuple[str, list[tuple[str, str]], bytes]:
        """Return status line, fields and body: problem+json (RFC 9457) and the challenge (RFC 6750).

        `resource_metadata` is an address that the challenge names (RFC 9728 section 5.1).
        """
        members = {
            "success": False,
            "type": f"urn:jwt-gateway:{self.code}",
            "title": self.kind.title,
            "status": self.status,
            "detail": self.detail,
            "help": f"{HELP}#{self.code}-{self.status}",
            **({"scope": self.scope} if self.scope else {}),
        }
        fields = [("Content-Type", MEDIA_TYPE), *self.fields]
        if self.kind.error is not None:
            fields.append(("WWW-Authenticate", self._challenge(resource_metadata)))
        if self.status == 503 and "Retry-After" not in dict(self.fields):
            fields.append(("Retry-After", str(RETRY_AFTER_SECONDS)))
        return self.kind.status, fields, (json.dumps(members) + "\n").encode()

    def _challenge(self, resource_metadata: str) -> str:
        parts = [f'Bearer realm="{REALM}"']
        if self.kind.error:
            parts.append(f'error="{self.kind.error}"')
            parts.append(f'error_description="{self.kind.title}"')
        if self.scope:
            parts.append(f'scope="{self.scope}"')
        if self.max_age is not None:
            parts.append(f'max_age="{self.max_age}"')
        if resource_metadata:
            parts.append(f'resource_metadata="{resource_metadata}"')
        return ", ".join(parts)


class StoreUnavailable(Problem):
    """The blacklist's store failed, or cannot be trusted. Nothing may pass.

    `cause` is one word for metrics and alerts, see gateway.blacklist.stores.outage.
    """

    def __init__(self, cause: str = "") -> None:
        super().__init__("store-unavailable", log={"cause": cause} if cause else {})
        self.cause = cause
