"""SIGNALS and CLIENTS: who may send signals, and who may revoke and introspect tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import combinations
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode

from gateway.auth.fetch import check_url
from gateway.auth.keyset import TENANT, KeysRefused
from gateway.config.values import IssuerSettings, Members, check_claim_name, check_secrets, json_list, split_list
from gateway.http.values import JOIN

# Members of ISSUERS that a sender of signals has not.
_OF_TOKENS = ("administers", "required_claims", "client_ids")
_KINDS: Final = ("logout", "revocation", "events")
_NEED_AUDIENCE = frozenset({"logout", "events"})

Claim = Annotated[str, Field(min_length=1), AfterValidator(check_claim_name)]


def _check_field_value(secret: SecretStr) -> SecretStr:
    if not re.fullmatch("[!-~]([ -~]*[!-~])?", secret.get_secret_value()):
        raise ValueError("must be a field's value as it is sent: ASCII, no blank or line end around it")
    return secret


FieldValue = Annotated[SecretStr, AfterValidator(_check_field_value)]


class SignalSettings(IssuerSettings):
    """One member of SIGNALS: who sends messages, signed with which keys, and about whose tokens."""

    about: Members = ()
    takes: Annotated[tuple[Literal["logout", "revocation", "events"], ...], BeforeValidator(split_list)] = _KINDS
    sessions: Literal["session", "subject"] = "session"
    subject_claim: Claim = "sub"
    session_claim: Claim = "sid"
    email_claim: Claim | None = None
    device_claim: Claim | None = None
    tenant_claim: Claim | None = None
    tenant: Members = ()
    without_exp: int = Field(0, ge=0, le=3600)
    without_typ: bool = False
    extra_events: Annotated[
        tuple[Literal["assurance-level-change", "device-compliance-change", "risk-level-change"], ...],
        BeforeValidator(split_list),
    ] = ()
    state: str = ""
    authorization: FieldValue | None = None
    poll_url: str | None = None
    poll_authorization: FieldValue | None = None

    @field_validator("poll_url")
    @classmethod
    def _check_poll_url(cls, value: str | None) -> str | None:
        try:
            return value and check_url(value)
        except KeysRefused:
            raise ValueError("must be https, or http on loopback, without user or fragment") from None

    @model_validator(mode="after")
    def _check_members(self) -> SignalSettings:
        if strange := sorted(self.model_fields_set.intersection(_OF_TOKENS)):
            raise ValueError(f"{strange[0]} is for ISSUERS alone")
        if not self.audience and self.authorization is None:
            raise ValueError("needs an audience: what the sender calls us, its client_id for one")
        if not self.audience and "takes" in self.model_fields_set and _NEED_AUDIENCE.intersection(self.takes):
            raise ValueError("logout tokens and events need an audience")
        if self.poll_url and "events" not in self.kinds:
            raise ValueError("what poll_url fetches are events, which it does not take: they need an audience, too")
        return self

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of message taken: without an audience, only what an Authorization field authenticates."""
        return frozenset(self.takes).difference(() if self.audience else _NEED_AUDIENCE)

    @property
    def has_keys(self) -> bool:
        """Whether it has keys of its own."""
        return bool(self.secret or self.public_key or self.jwks_url)

    @property
    def claims(self) -> dict[str, str]:
        """The claims in which tokens have what a message names."""
        named = {
            "user": self.subject_claim,
            "session": self.session_claim,
            "email": self.email_claim,
            "device": self.device_claim,
            "tenant": self.tenant_claim,
        }
        return {part: claim for part, claim in named.items() if claim}

    @property
    def joined(self) -> list[str]:
        """Names of claims that are looked up together: a person or nobody, and a device, a tenant or both."""
        people = [(), (self.subject_claim,), *([(self.email_claim,)] if self.email_claim else [])]
        places = [claim for claim in (self.device_claim, self.tenant_claim) if claim]
        chosen = [(*who, *where) for who in people for count in (1, 2) for where in combinations(places, count)]
        return [JOIN.join(names) for names in chosen if len(names) > 1]


class ClientSettings(BaseModel):
    """One member of CLIENTS: who may revoke and introspect, and whose tokens (none: every issuer's)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    client_id: Annotated[str, Field(min_length=1)]
    secret: Annotated[
        tuple[SecretStr, ...],
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
        Field(max_length=16),
        AfterValidator(check_secrets),
    ]
    may: Annotated[tuple[Literal["revoke", "introspect"], ...], BeforeValidator(split_list)] = ("revoke", "introspect")
    issuers: Members = ()
    per_minute: int = Field(6000, ge=1)


Signals = Annotated[tuple[SignalSettings, ...], NoDecode, BeforeValidator(json_list)]
Clients = Annotated[tuple[ClientSettings, ...], NoDecode, BeforeValidator(json_list)]


def check_signals(signals: tuple[SignalSettings, ...], issuers: Iterable[IssuerSettings]) -> tuple[SignalSettings, ...]:
    """Return the senders, under the names that ISSUERS gives them. Raises ValueError for what cannot work."""
    names = _names(issuers)
    found = []
    for each in signals:
        name = names.get(each.issuer, each.issuer)
        if strange := [alias for alias in each.aliases if names.get(alias, name) != name]:
            raise ValueError(f"{strange[0]} is another issuer of access tokens, and no alias of {name}")
        if each.issuer not in names and not each.has_keys and each.audience:
            raise ValueError(f"{each.issuer} has no keys here and is no issuer of access tokens: set its jwks_url")
        if each.issuer not in names and not each.about:
            raise ValueError(f"{each.issuer} issues no access tokens: `about` must name issuers that do")
        about = tuple(_known(each_name, names) for each_name in each.about or (name,))
        if any(TENANT in each_name for each_name in about) and about != (name,):
            raise ValueError(f"{each.issuer} has tenants: `about` may name it alone")
        found.append(each.model_copy(update={"issuer": name, "about": about}))
    spellings = [spelling for each in found for spelling in {each.issuer, *each.aliases}]
    _must_differ(spellings, "no issuer may be there twice, aliases included")
    # With or without Bearer it is one field.
    secrets = [each.authorization.get_secret_value().removeprefix("Bearer ") for each in found if each.authorization]
    _must_differ(secrets, "every sender must have an authorization of its own")
    return tuple(found)


def check_clients(clients: tuple[ClientSettings, ...], issuers: Iterable[IssuerSettings]) -> tuple[ClientSettings, ...]:
    """Return the clients, with issuers under the names that ISSUERS gives them. Raises ValueError."""
    names = _names(issuers)
    _must_differ([client.client_id for client in clients], "no client may be there twice")
    return tuple(
        client.model_copy(update={"issuers": tuple(_known(name, names) for name in client.issuers)})
        for client in clients
    )


def _names(issuers: Iterable[IssuerSettings]) -> dict[str, str]:
    return {spelling: each.issuer for each in issuers for spelling in (each.issuer, *each.aliases)}


def _known(name: str, names: dict[str, str]) -> str:
    if name not in names:
        raise ValueError(f"{name!r} is no issuer of access tokens")
    return names[name]


def _must_differ(values: list[str], fault: str) -> None:
    if len(set(values)) < len(values):
        raise ValueError(fault)
