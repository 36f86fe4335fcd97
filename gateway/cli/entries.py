"""gateway revoke, restore, status, list and purge: on the store, beside a running gateway."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from gateway.app import build_blacklist
from gateway.auth.tokens import Token, Verifier
from gateway.blacklist.resource import described, timestamp
from gateway.blacklist.rules import Actor, Blacklist
from gateway.cli.options import with_settings
from gateway.cli.tokens import read_claim
from gateway.config.settings import Settings, issuer_settings
from gateway.http.values import value_text
from gateway.ops.logs import configure_logging
from gateway.parties import build_issuers, name_issuers

Target = Token | tuple[str, str]

_KEYS = (
    "store",
    "issuer",
    "secret",
    "algorithms",
    "public_key",
    "jwks_url",
    "issuers",
    "blacklist_claims",
    "leeway",
    "max_token_age",
)
as_json = click.option("--json", "as_json", is_flag=True, help="print JSON, for scripts")


def targeted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command its target: a token, or one claim of an issuer."""
    for option in (
        click.argument("token", required=False),
        click.option("--jti", help="all tokens with this jti"),
        click.option("--sub", help="all tokens of this subject"),
        click.option("--sid", help="all tokens of this session"),
        click.option("--claim", metavar="NAME=JSON", help="all tokens with this claim; a number stays a number"),
        click.option("--of-issuer", metavar="ISS", help="the claim's issuer, when there are several"),
        as_json,
    ):
        function = option(function)
    return with_settings(*_KEYS)(function)


@click.command()
@targeted
@click.option("--issued-before", type=int, metavar="EPOCH", help="cut-off for a claim, epoch seconds [default: now]")
@click.option("--reason", default="", help="kept with the entry")
def revoke(settings: Settings, as_json: bool, issued_before: int | None, reason: str, **named: Any) -> None:
    """Blacklist a TOKEN (`-` reads it from standard input), or every token with a claim."""
    blacklist, issuer, target = _opened(settings, **named)
    _audit_here(settings)
    if isinstance(target, Token):
        if issued_before is not None:
            raise click.UsageError("--issued-before goes with a claim")
        changed = blacklist.add_token(target, _actor(reason))
    else:
        _, changed = blacklist.add_claim(issuer, *target, issued_before, _actor(reason))
    _tell(blacklist, issuer, target, changed, as_json)


@click.command()
@targeted
def restore(settings: Settings, as_json: bool, **named: Any) -> None:
    """Lift the entry of a TOKEN, or of a claim."""
    blacklist, issuer, target = _opened(settings, **named)
    _audit_here(settings)
    if isinstance(target, Token):
        changed = blacklist.remove_token(target, _actor())
    else:
        changed = blacklist.remove_claim(issuer, *target, _actor())
    _tell(blacklist, issuer, target, changed, as_json)


@click.command()
@targeted
def status(settings: Settings, as_json: bool, **named: Any) -> None:
    """Tell whether a TOKEN or a claim is blacklisted: exit code 1 if it is, 0 if not."""
    blacklist, issuer, target = _opened(settings, **named)
    sys.exit(int(_tell(blacklist, issuer, target, None, as_json)))


@click.command("list")
@with_settings("store")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="how many, newest first")
@as_json
def list_entries(settings: Settings, limit: int, as_json: bool) -> None:
    """List the live entries, newest first."""
    entries, _ = build_blacklist(settings).store.page(limit)
    if as_json:
        click.echo(json.dumps([described(entry) for entry in entries], indent=2))
        return
    for entry in entries:
        what = entry.key.partition(":")[2][:16] if entry.claim is None else json.dumps(dict([entry.claim]))
        click.echo(
            f"{timestamp(entry.created_at)}  {timestamp(entry.expires_at) or 'until lifted':20}  {what}  {entry.reason}"
        )


@click.command()
@with_settings("store")
@as_json
def purge(settings: Settings, as_json: bool) -> None:
    """Delete entries whose tokens have expired; the gateway does so by itself, this does it now."""
    count = build_blacklist(settings).store.purge()
    click.echo(json.dumps({"deleted": count}) if as_json else f"{count} expired entries deleted")


def _opened(
    settings: Settings, token: str | None, claim: str | None, of_issuer: str | None, **claims: str | None
) -> tuple[Blacklist, str, Target]:
    """Return the blacklist, the issuer and the one target that the command line names."""
    named: list[tuple[str, Any]] = [(name, value) for name, value in claims.items() if value is not None]
    named += [read_claim(claim)] if claim else []
    if len(named) + (token is not None) != 1:
        raise click.UsageError("name one thing: a token, --jti, --sub, --sid or --claim")
    if token is not None:
        verifier = Verifier(build_issuers(settings), leeway=settings.leeway, max_bytes=settings.max_token_bytes)
        found = verifier.genuine(sys.stdin.read().strip() if token == "-" else token)  # noqa: S105
        return build_blacklist(settings), found.issuer.name, found
    names = [issuer.issuer for issuer in issuer_settings(settings)]
    issuer = name_issuers(settings).name_of(of_issuer or (names[0] if len(names) == 1 else ""))
    if issuer is None:
        raise click.UsageError(f"--of-issuer must be one of: {', '.join(names)}")
    text = value_text(named[0][1])
    if named[0][0] not in settings.blacklist_claims or text is None:
        raise click.UsageError(f"a claim is one of {', '.join(settings.blacklist_claims)}, a string or a number")
    return build_blacklist(settings), issuer, (named[0][0], text)


def _audit_here(settings: Settings) -> None:
    """Have the audit's record go to standard error, in the format of the gateway's log."""
    configure_logging(settings.log_format, "info")


def _actor(reason: str = "") -> Actor:
    # A container's user may have no name.
    return Actor(f"cli:{os.environ.get('USER') or os.getuid()}", "", reason)


def _tell(blacklist: Blacklist, issuer: str, target: Target, changed: bool | None, as_json: bool) -> bool:
    named: dict[str, Any]
    if isinstance(target, Token):
        blacklisted, named = blacklist.has(target), {"fingerprint": target.fingerprint}
    else:
        blacklisted, named = blacklist.find_claim(issuer, *target) is not None, {"claim": dict([target])}
    if as_json:
        click.echo(
            json.dumps({**named, "blacklisted": blacklisted, **({} if changed is None else {"changed": changed})})
        )
    else:
        news = "" if changed is None else " (changed)" if changed else " (nothing to change)"
        click.echo(("blacklisted" if blacklisted else "not blacklisted") + news)
    return blacklisted
