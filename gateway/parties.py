"""Settings -> who is who: issuers of tokens, senders of signals, clients; each with its keys or secrets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from pydantic import SecretStr

from gateway.auth.fetch import FetchPolicy
from gateway.auth.issuers import Issuer, Issuers
from gateway.auth.keys import Keys, StaticKeys, build_keys
from gateway.auth.keyset import KeySet, KeysRefused, known_algorithms
from gateway.auth.required import read_requirement
from gateway.auth.tokens import Verifier
from gateway.config.public_secret import refuse_public_secret, refuse_weak_parts
from gateway.config.settings import Settings, issuer_settings
from gateway.config.signals import SignalSettings
from gateway.config.values import IssuerSettings
from gateway.signals.clients import Client, Clients
from gateway.signals.senders import Poll, Sender, Senders

Clock = Callable[[], float]
T = TypeVar("T")

_NO_KEYS = StaticKeys(frozenset(), KeySet(()))


def build_issuers(settings: Settings, now: Clock = time.time) -> list[Issuer]:
    """Return the issuers with their keys. Raises KeysRefused with a line for each issuer that has none to go by."""
    refuse_public_secret(settings)
    return _build_all([partial(_with_keys, each, settings, now) for each in issuer_settings(settings)])


def build_verifier(settings: Settings, issuers: Sequence[Issuer], now: Clock = time.time) -> Verifier:
    """Return what verifies the issuers' tokens by the settings' limits."""
    return Verifier(
        issuers,
        leeway=settings.leeway,
        max_bytes=settings.max_token_bytes,
        max_age=settings.max_token_age,
        by_auth_time=settings.auth_time,
        now=now,
    )


def name_issuers(settings: Settings) -> Issuers:
    """Return the issuers by their names alone, for what needs none of their keys."""
    return Issuers(_issuer(each, settings, _NO_KEYS) for each in issuer_settings(settings))


def build_senders(settings: Settings, issuers: Sequence[Issuer], now: Clock = time.time) -> Senders:
    """Return who may send signals; an issuer of tokens has the same keys. Raises KeysRefused like `build_issuers`."""
    return Senders(_build_all([partial(_sender, each, settings, issuers, now) for each in settings.signals]))


def build_clients(settings: Settings) -> Clients:
    """Return who may revoke and introspect tokens."""
    return Clients(
        Client(
            client.client_id,
            tuple(_text(secret) for secret in client.secret),
            frozenset(client.may),
            frozenset(client.issuers),
            client.per_minute,
        )
        for client in settings.clients
    )


def _build_all(makers: Iterable[Callable[[], T]]) -> list[T]:
    made, faults = [], []
    for make in makers:
        try:
            made.append(make())
        except KeysRefused as fault:
            faults.append(str(fault))
    if faults:
        raise KeysRefused("\n".join(faults))
    return made


def _sender(signal: SignalSettings, settings: Settings, issuers: Sequence[Issuer], now: Clock) -> Sender:
    known = next((issuer for issuer in issuers if issuer.name == signal.issuer), None)
    aliases = (*(known.aliases if known else ()), *signal.aliases)
    tenants = frozenset(signal.tenants or (known.tenants if known else ()))
    if signal.has_keys or known is None:
        spelled = signal.model_copy(update={"aliases": aliases})  # its metadata may name it by any of them
        known = _with_keys(spelled, settings, now) if signal.has_keys else _issuer(signal, settings, _NO_KEYS)
    # With the issuer's keys, too, a sender may be let in by fewer algorithms, and for fewer tenants, than tokens.
    algorithms = known.algorithms & known_algorithms(signal.algorithms or known.algorithms)
    if known.algorithms and not algorithms:
        raise KeysRefused(f"issuer {signal.issuer!r}: no key that it has goes with the algorithms of SIGNALS")
    return Sender(
        signal.issuer,
        algorithms,
        frozenset(signal.audience),
        known.keys,
        aliases=aliases,
        tenants=tenants,
        about=signal.about,
        takes=signal.kinds,
        claims=signal.claims,
        joined=frozenset(signal.joined),
        by_subject=signal.sessions == "subject",
        without_exp=signal.without_exp,
        without_typ=signal.without_typ,
        authorization=_text(signal.authorization),
        within=frozenset(signal.tenant),
        extra_events=frozenset(signal.extra_events),
        state=signal.state,
        poll=_poll(signal, settings),
        has_own_keys=signal.has_keys,
    )


def _poll(signal: SignalSettings, settings: Settings) -> Poll | None:
    if signal.poll_url is None:
        return None
    # Where its keys are those of ISSUERS, so is the way to it.
    known = next((each for each in settings.issuers if each.issuer == signal.issuer and not signal.has_keys), signal)
    ca_file, proxy = known.jwks_ca or settings.jwks_ca, known.jwks_proxy or settings.jwks_proxy
    return Poll(signal.poll_url, _text(signal.poll_authorization), ca_file, proxy)


def _text(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret else ""


def _with_keys(issuer: IssuerSettings, settings: Settings, now: Clock) -> Issuer:
    refuse_weak_parts(issuer)
    policy = FetchPolicy(
        insecure_hosts=frozenset(map(str.lower, settings.jwks_insecure_http)),
        ca_file=issuer.jwks_ca or settings.jwks_ca,
        proxy=issuer.jwks_proxy or settings.jwks_proxy,
        aliases=issuer.aliases,
    )
    keys = build_keys(
        secrets=[secret.get_secret_value() for secret in issuer.secret],
        public_key=issuer.public_key,
        jwks_url=issuer.jwks_url,
        algorithms=issuer.algorithms,
        issuer=issuer.issuer,
        now=now,
        policy=policy,
    )
    return _issuer(issuer, settings, keys)


def _issuer(issuer: IssuerSettings, settings: Settings, keys: Keys) -> Issuer:
    return Issuer(
        issuer.issuer,
        keys.algorithms,
        frozenset(issuer.audience),
        keys,
        aliases=issuer.aliases,
        tenants=frozenset(issuer.tenants),
        administers=frozenset(issuer.administers),
        client_ids=frozenset(issuer.client_ids),
        required=tuple(map(read_requirement, (*settings.required_claims, *issuer.required_claims))),
    )
