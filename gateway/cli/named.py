"""The target of a command: one token, claim or fingerprint, of one issuer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from gateway.app import claims_of
from gateway.auth.tokens import decode_object
from gateway.blacklist.body import Typed
from gateway.blacklist.entries import fingerprint_of
from gateway.blacklist.named import Named
from gateway.blacklist.rules import Blacklist
from gateway.blacklist.target import read_fingerprint, read_values
from gateway.cli.options import await_keys, open_blacklist, with_settings
from gateway.cli.output import printable
from gateway.cli.tokens import split_claim
from gateway.config.settings import Settings, issuer_settings
from gateway.http.problems import Problem
from gateway.http.values import JOIN, value_text
from gateway.parties import build_issuers, build_verifier, name_issuers

# The settings that a command line's target needs.
_NEEDED = (
    "store", "secret", "algorithms", "public_key", "jwks_url", "issuers", "blacklist_claims", "signals",
    "cut_off_claims", "auth_time", "leeway", "max_token_age",
)  # fmt: skip


def targeted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command its target: a token, a fingerprint, or one claim of an issuer."""
    for option in (
        click.argument("token", required=False),
        click.option("--jti", help="all tokens with this jti"),
        click.option("--sub", help="all tokens of this subject"),
        click.option("--sid", help="all tokens of this session"),
        click.option(
            "--claim", metavar="NAME=VALUE", help="all tokens with this claim; VALUE in JSON's quotes is text"
        ),
        click.option("--fingerprint", metavar="HEX", help="a token by its fingerprint, as logs and lists show it"),
        click.option("--issuer", "--of-issuer", metavar="ISS", help="whose token or claim it is"),
    ):
        function = option(function)
    return with_settings(*_NEEDED)(function)


def open_named(
    settings: Settings,
    token: str | None,
    claim: str | None,
    fingerprint: str | None,
    issuer: str | None,
    **claims: str | None,
) -> Named:
    """Return the one thing that the command line names. Raises StoreRefused where there is no store."""
    named: list[tuple[str, object]] = [(name, Typed(value)) for name, value in claims.items() if value is not None]
    named += [_read_claim(claim)] if claim else []
    if len(named) + (token is not None) + (fingerprint is not None) != 1:
        raise click.UsageError("name one thing: a token, --jti, --sub, --sid, --claim or --fingerprint")
    issuers, names = name_issuers(settings), [each.issuer for each in issuer_settings(settings)]
    whose = issuers.name_of(issuer or (names[0] if len(names) == 1 else ""))
    if whose is None and (named or issuer is not None):
        raise click.UsageError(f"--issuer must be one that GATEWAY_ISSUER or GATEWAY_ISSUERS sets: {', '.join(names)}")
    if token is not None:
        return _by_token(settings, token, issuer and whose)
    if fingerprint is not None:
        digits = read_fingerprint(fingerprint)
        return _by_fingerprint(open_blacklist(settings), digits, issuer and whose, whose)
    name, value = named[0]
    if name not in (known := claims_of(settings)):
        raise click.UsageError(
            f"{name!r} is not among BLACKLIST_CLAIMS ({', '.join(known)}): give them as the gateway has them"
        )
    values = read_values(name, value)
    return Named(open_blacklist(settings), str(whose), claim=(name, values))


def _by_token(settings: Settings, text: str, wanted: str | None) -> Named:
    verifier = build_verifier(settings, build_issuers(settings))
    text = sys.stdin.read().strip() if text == "-" else text
    if len(text.split()) > 1:
        raise click.UsageError("name the token alone, without Authorization or Bearer before it")
    with suppress(Problem, IndexError):  # what cannot be read is refused below
        if issuer := verifier.issuers.of(decode_object(text.split(".")[1])):
            await_keys([issuer])
    token = verifier.genuine(text)
    if wanted not in (None, token.issuer.name):
        raise click.UsageError("the token is of another issuer")
    blacklist = open_blacklist(settings)
    blacklist.lookup_keys(token)  # raises for a token that never passes
    has_expired = verifier.has_expired(token)
    return Named(blacklist, token.issuer.name, token.fingerprint, token, has_expired=has_expired)


def _by_fingerprint(blacklist: Blacklist, digits: str, wanted: str | None, whose: str | None) -> Named:
    if entry := blacklist.find_fingerprint(digits):
        name = blacklist.issuer_of(entry)
        if wanted not in (None, name):
            raise click.UsageError(f"the entry is of the issuer {printable(name)}")
        return Named(blacklist, name, fingerprint_of(entry), made_by=entry.issuer)
    if whose is None:
        raise click.UsageError("--issuer must say whose token it is")
    return Named(blacklist, whose, digits, made_by=whose)


def _read_claim(text: str) -> tuple[str, object]:
    """Return name and value: text in JSON's quotes is text alone, any other may be a number."""
    name, value = split_claim(text)
    if JOIN in name:
        return name, value
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        return name, Typed(value)
    return name, Typed(value) if value_text(read) and not isinstance(read, str) else read
