"""gateway revoke, restore, status, list and purge: on the store, beside a running gateway."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import click

from gateway.blacklist.entries import entry_to_json
from gateway.blacklist.named import Named
from gateway.blacklist.rules import BY_CLAIM, LARGEST_LEEWAY, Actor, CutOff
from gateway.blacklist.stores.base import Entry
from gateway.blacklist.target import LONGEST_REASON
from gateway.cli.moments import Moment
from gateway.cli.named import open_named, targeted
from gateway.cli.options import open_blacklist, with_settings
from gateway.cli.output import cells, echo, echo_details, echo_json, echo_table, printable, store_name
from gateway.config.settings import Settings, issuer_settings
from gateway.ops.logs import configure_logging
from gateway.parties import name_issuers

as_json = click.option("--json", "as_json", is_flag=True, help="print JSON, for scripts")


@click.command()
@targeted
@click.option(
    "--issued-before",
    type=Moment(-1),
    metavar="WHEN",
    help="only tokens issued before: epoch seconds, an ISO date, or 2h (ago) [default: now, for CUT_OFF_CLAIMS]",
)
@click.option("--all", "whenever", is_flag=True, help="every token with the claim, whenever issued: no cut-off")
@click.option("--until", type=Moment(1), metavar="WHEN", help="when it ends: a date, or 30d from now [default: never]")
@click.option("--reason", default="", help="why: kept with the entry, and in the audit log")
@as_json
def revoke(
    settings: Settings,
    as_json: bool,
    issued_before: CutOff,
    whenever: bool,
    until: int | None,
    reason: str,
    **named: Any,
) -> None:
    """Blacklist a TOKEN, or every token with a claim. `-` reads the token from standard input."""
    if whenever and issued_before is not None:
        raise click.UsageError("--all means that there is no cut-off: leave --issued-before out")
    if named["claim"] is None and not any(named[name] for name in ("jti", "sub", "sid")):
        if whenever or issued_before is not None:
            raise click.UsageError("--issued-before and --all go with a claim")
        if until is not None and named["fingerprint"] is None:
            raise click.UsageError("--until goes with a claim or a fingerprint")
    if len(reason) > LONGEST_REASON:
        raise click.UsageError(f"--reason may have at most {LONGEST_REASON} characters")
    target = open_named(settings, **named)
    target.blacklist.check_end(until)
    if named["fingerprint"] and not named["issuer"] and named["fingerprint"].lower() == target.fingerprint:
        _check_whose(settings, target)
    audit_here(settings)
    # A gateway may tolerate more than this command does.
    is_over = target.token and time.time() >= target.token.expires_at + LARGEST_LEEWAY
    cut_off = BY_CLAIM if issued_before is None and not whenever else issued_before
    _print_state(settings, target, not is_over and target.add(actor(reason), cut_off, until), as_json)


def _check_whose(settings: Settings, target: Named) -> None:
    """Refuse a fingerprint without an issuer, as `/blacklist` does, if whoever made its entry did not see the token."""
    is_known = [target.issuer] == [each.issuer for each in issuer_settings(settings)]
    if not is_known and any(entry.by_fingerprint for entry in target.entries()):
        raise click.UsageError(
            f"there is an entry for a token of {printable(target.issuer)}: --issuer must say whose it is"
        )


@click.command()
@targeted
@as_json
def restore(settings: Settings, as_json: bool, **named: Any) -> None:
    """Lift the entry of a TOKEN, or of a claim."""
    target = open_named(settings, **named)
    audit_here(settings)
    _print_state(settings, target, target.remove(actor()), as_json)


@click.command()
@targeted
@as_json
def status(settings: Settings, as_json: bool, **named: Any) -> None:
    """Say whether a TOKEN or a claim is blacklisted. If it is: by whom, when and why, and the exit code is 1, not 0."""
    sys.exit(int(_print_state(settings, open_named(settings, **named), None, as_json)))


@click.command("list")
@with_settings("store")
@click.option("--limit", type=click.IntRange(1, 10**9), default=100, show_default=True, help="how many, newest first")
@click.option("--issuer", metavar="ISS", help="only entries of this issuer")
@click.option("--claim", metavar="NAME", help="only entries for this claim")
@as_json
def list_entries(settings: Settings, limit: int, issuer: str | None, claim: str | None, as_json: bool) -> None:
    """List the live entries, newest first."""
    whose = name_issuers(settings).spellings_of(issuer) if issuer else ()
    store, entries, cursor, more = open_blacklist(settings).store, list[Entry](), "", True
    while more and len(entries) < limit:
        page, cursor = store.page(limit - len(entries), cursor, issuers=whose, claim=claim)
        entries, more = entries + page, bool(cursor)
    if as_json:
        echo_json([entry_to_json(entry) for entry in entries], indent=2)
        return
    echo_table(entries)
    echo(f"the newest {len(entries)}, there are more: see --limit" if more else f"{len(entries)} in all", err=True)
    echo(f"in {store_name(settings)}", err=True)


@click.command()
@with_settings("store")
@as_json
def purge(settings: Settings, as_json: bool) -> None:
    """Delete entries whose tokens have expired. The gateway does so by itself; this does it now."""
    count, store = open_blacklist(settings).store.purge(), store_name(settings)
    if as_json:
        echo_json({"deleted": count, "store": store})
    else:
        echo(f"{count} expired entries deleted")
        echo(f"in {store}", err=True)


def audit_here(settings: Settings) -> None:
    """Write audit records to standard error, in the format of the gateway's log."""
    configure_logging(settings.log_format, "info")


def actor(reason: str = "") -> Actor:
    """Return who acts on the command line."""
    # A container's user may have no name.
    return Actor(f"cli:{os.environ.get('USER') or os.getuid()}", "", reason)


def _print_state(settings: Settings, target: Named, changed: bool | None, as_json: bool) -> bool:
    """Print the state of the target, and where it stands; return whether it is blacklisted."""
    entries, store = target.entries(), store_name(settings)
    if as_json:
        state = {
            "blacklisted": bool(entries),
            **({} if changed is None else {"changed": changed}),
            "expired": target.has_expired,
            "issuer": target.issuer,
            "store": store,
            "entries": [entry_to_json(entry) for entry in entries],
        }
        echo_json({**target.to_json(), **state})
        return bool(entries)
    sentence = "blacklisted" if entries else "not blacklisted"
    if not entries and target.token is None and target.claim is None:
        sentence += " by an entry of its own; one for a claim of it may still blacklist it"
    sentence += ": the token has expired" if target.has_expired else ""
    echo(sentence + ("" if changed is None else " (changed)" if changed else " (nothing to change)"))
    what = f"{target.claim[0]} {target.claim[1][0]}" if target.claim else f"token {target.fingerprint}"
    # If the gateway was given its issuer by a flag, the default is not the issuer of its tokens.
    is_default = target.token is None and not settings.issuers and "issuer" not in settings.model_fields_set
    whose = target.issuer + (" (the default: GATEWAY_ISSUER is not set)" if is_default else "")
    echo_details([("target", what), ("issuer", whose), ("store", store)])
    for entry in entries:
        what, _, cut_off, since, until, by, reason = cells(entry)
        echo_details(
            [
                ("entry", what),
                *([("issued before", cut_off)] if cut_off else []),
                ("until", until),
                ("since", f"{since}, by {by}"),
                *([("reason", reason)] if reason else []),
            ]
        )
    return bool(entries)
