"""How a setting's value is read from text, and which values are refused on their own."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import NoDecode

from gateway.auth.issuers import ANY
from gateway.auth.keyset import TENANT
from gateway.auth.required import read_requirement
from gateway.http.strict_json import describe_fault, unique_members

NONE = "none"  # as the name of a field: it is not sent
# What else a request to /blacklist, or to its entries, may name.
MEMBERS = (
    "token", "token_type_hint", "fingerprint", "issuer", "issued_before", "until", "reason", "claim", "limit", "cursor"
)  # fmt: skip
# Fields that say where a request ends, how and to whom it goes, or what becomes of the connection: no holder's.
_TAKEN_FIELDS = (
    "connection", "content-length", "content-type", "expect", "forwarded", "host", "http2-settings", "keep-alive",
    "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
)  # fmt: skip
# As browsers send it (RFC 6454 section 6.2), without a default port; or `*`.
_ORIGIN = (
    r"\*|(?!(?i:http://.*:80|https://.*:443)\Z)[A-Za-z][A-Za-z0-9+.-]*://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d+)?"
)


def nearest(name: str, known: Iterable[str], form: str = "{}") -> str:
    """Return a hint at the known name that is most like this one, "" where none is."""
    return "".join(f"; did you mean {form.format(right)}?" for right in difflib.get_close_matches(name, known, 1))


def split_list(value: object) -> object:
    """Read `a, b` or a JSON list (for members with a comma in them) as a list; null, in JSON, is an empty one.

    Text without a member is what a template makes of variables that are not set. Taken for an empty list, it would let
    tokens for anybody pass.
    """
    if value is None:
        return ()
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return _read_json(value)
    found = [part.strip() for part in value.replace("\n", ",").split(",") if part.strip()]
    if not found:
        raise ValueError("must not be empty")
    return found


def json_list(value: object) -> object:
    """Read a JSON list of objects; null is an empty one."""
    if isinstance(value, str) and value.strip():
        value = _read_json(value)
    if value is not None and not isinstance(value, list | tuple):
        raise ValueError('must be a JSON list of objects: [{"…": "…"}]')
    return value or ()


def _read_json(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=unique_members)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {describe_fault(error)}") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def _check_http_url(value: str) -> str:
    parts = _split_http(value)
    if not parts or parts.query or parts.fragment or parts.username or not re.fullmatch("[!-~]+", value):
        raise ValueError("must be an http:// or https:// URL (http://127.0.0.1:8000) without user, query or fragment")
    return value


def _split_http(value: str) -> SplitResult | None:
    """Return the parts of an http URL, None where it is none: an error's own text may hold a password."""
    try:
        parts = urlsplit(value)
        is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return parts if is_one else None


def _check_http_proxy(value: str) -> str:
    parts = _split_http(value)
    if not parts or parts.path.strip("/"):
        raise ValueError("must be an http:// or https:// URL of host and port; a user may stand before them")
    return value


def _check_requirements(value: tuple[str, ...]) -> tuple[str, ...]:
    for text in value:
        read_requirement(text)
    return value


class Part(SecretStr):
    """A secret that was cut out of a text at a comma: the text as a whole may have been meant."""


def _split_secrets(value: object) -> object:
    """Read secrets as `split_list` does; those that were cut out at a comma become a `Part`."""
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return split_list(value)
    found: list[str | SecretStr] = []
    for line in value.splitlines():
        parts = [part.strip() for part in line.split(",") if part.strip()]
        found += map(Part, parts) if "," in line else parts
    return found


def check_secrets(value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    """Return the secrets. Raises ValueError where there is none, or an empty one."""
    if not value or not all(secret.get_secret_value() for secret in value):
        raise ValueError("must not be empty")
    return value


def _check_claim_names(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) < len(value):
        raise ValueError("no claim may be there twice")
    return tuple(map(check_claim_name, value))


def check_claim_name(name: str) -> str:
    """Return the name of a claim that can be blacklisted. Raises ValueError for one that requests have otherwise."""
    if name in MEMBERS:
        raise ValueError(f"{name!r} is the name of a member of requests, and cannot be that of a claim")
    return name


def _must_match(pattern: str, words: str) -> AfterValidator:
    """Return what refuses any text but that of the pattern, in these words; of a list, each of its texts."""

    def check(value: Any) -> Any:
        if not all(re.fullmatch(pattern, text) for text in ([value] if isinstance(value, str) else value)):
            raise ValueError(words)
        return value

    return AfterValidator(check)


def _check_upgrade(name: str) -> str:
    if name.lower().startswith(("h2", "http/", "tls/")):
        raise ValueError("must not carry requests of HTTP: nobody would see their tokens")
    return name


NotEmpty = Annotated[str, Field(min_length=1)]
Listed = Annotated[tuple[NotEmpty, ...], NoDecode, BeforeValidator(split_list)]
# Left as it is: clients compare it with what they asked for (RFC 9728 section 3.3).
ResourceUrl = Annotated[str, AfterValidator(_check_http_url)]
HttpUrl = Annotated[ResourceUrl, AfterValidator(lambda url: url.rstrip("/"))]
HttpProxy = Annotated[str, AfterValidator(_check_http_proxy)]
Hosts = Annotated[
    Listed, _must_match(r"[A-Za-z0-9._-]+(:[0-9]+)?", "must be names of hosts, or host:port, and no URLs")
]
ClaimNames = Annotated[Listed, AfterValidator(_check_claim_names)]
Scope = Annotated[str, _must_match(r"[!#-\[\]-~]+", "must be one scope: no blanks, quotes or backslashes, ASCII alone")]
Paths = Annotated[Listed, _must_match(r"(?s)/.*", "every path must begin with /")]
Origins = Annotated[
    Listed, _must_match(_ORIGIN, "must be origins as a browser sends them, https://app.example.com, or *")
]
Requirements = Annotated[Listed, AfterValidator(_check_requirements)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split_secrets), AfterValidator(check_secrets)]
MetricsHost = Annotated[
    str, _must_match("(?s)(?!unix:).*", "must be an address or a name: metrics are served on no Unix socket")
]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Upgrades = Annotated[
    tuple[Annotated[NotEmpty, AfterValidator(_check_upgrade)], ...],
    NoDecode,
    BeforeValidator(lambda value: () if value == "" else split_list(value)),
]
Members = Annotated[tuple[NotEmpty, ...], BeforeValidator(split_list)]


def _check_field_is_free(name: str) -> str:
    if name.lower() in _TAKEN_FIELDS:
        raise ValueError("must not be a field by which HTTP itself is spoken")
    return NONE if name.lower() == NONE else name


FieldName = Annotated[
    str,
    _must_match(r"[A-Za-z][A-Za-z0-9-]*", "must be a letter, then letters, digits and hyphens"),
    AfterValidator(_check_field_is_free),
]


class IssuerSettings(BaseModel):
    """One member of ISSUERS: who signs, with what, and for whom."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: NotEmpty
    secret: Annotated[tuple[SecretStr, ...], BeforeValidator(_split_secrets)] = ()
    public_key: str | None = None
    jwks_url: str | None = None
    algorithms: Members = ()
    audience: Members = ()
    jwks_ca: str | None = None
    jwks_proxy: HttpProxy | None = None
    aliases: Members = ()
    tenants: Members = ()
    administers: Members = ()
    client_ids: Members = ()
    required_claims: Annotated[Members, AfterValidator(_check_requirements)] = ()

    @field_validator("jwks_ca", "jwks_proxy")
    @classmethod
    def _check_has_jwks(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and not info.data.get("jwks_url"):
            raise ValueError("needs a jwks_url")
        return value

    @field_validator("aliases")
    @classmethod
    def _check_aliases(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if any((TENANT in alias) != (TENANT in info.data.get("issuer", "")) for alias in value):
            raise ValueError(f"an alias must have {TENANT} where the issuer has it, and there alone")
        return value

    @field_validator("tenants")
    @classmethod
    def _check_has_tenants(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if value and TENANT not in info.data.get("issuer", ""):
            raise ValueError(f"needs an issuer with {TENANT} in it")
        return tuple(tenant.lower() for tenant in value)


def _check_issuers(issuers: tuple[IssuerSettings, ...]) -> tuple[IssuerSettings, ...]:
    """Return the issuers, with those that they administer under their names instead of their aliases."""
    spellings = [(spelling, each.issuer) for each in issuers for spelling in (each.issuer, *each.aliases)]
    names = {ANY: ANY, **dict(spellings)}
    if len(names) <= len(spellings):
        raise ValueError("no issuer may be there twice, aliases included")
    if unknown := [name for each in issuers for name in each.administers if name not in names]:
        raise ValueError(f"administers must name issuers of this list, or be {ANY!r}: {unknown[0]!r} is none")
    return tuple(
        each.model_copy(update={"administers": tuple(names[name] for name in each.administers)}) for each in issuers
    )


Issuers = Annotated[tuple[IssuerSettings, ...], NoDecode, BeforeValidator(json_list), AfterValidator(_check_issuers)]


def count_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
