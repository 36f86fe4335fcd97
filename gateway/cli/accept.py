"""gateway accept-store: an operator takes the store as it is, although gateways know of changes that it lacks."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import IO, Any

import click

from gateway.blacklist.keys import claim_key, token_key
from gateway.blacklist.rules import Blacklist
from gateway.blacklist.stores.base import Entry
from gateway.cli.entries import actor, audit_here
from gateway.cli.options import open_blacklist, with_settings
from gateway.cli.output import echo, echo_json, store_name
from gateway.config.settings import Settings


@click.command("accept-store")
@with_settings("store")
@click.option(
    "--audit",
    type=click.File("r", errors="replace"),
    help="a gateway's log in JSON: shows which of its entries the store lacks",
)
@click.option("--yes", is_flag=True, help="do not ask")
@click.option("--reason", default="", help="for the audit log")
def accept_store(settings: Settings, audit: IO[str] | None, yes: bool, reason: str) -> None:
    """Take the store as it is, for all gateways that refuse it.

    They refuse a copy that lacks changes they know of. What it lacks passes from then on: restore it first, with
    `import` or by hand, if you can.
    """
    audit_here(settings)
    blacklist = open_blacklist(settings)
    store = blacklist.store
    echo(f"{store_name(settings)} has {store.count()} live entries.", err=True)
    missing: int | None = None
    if audit:
        added = _read_added(audit)
        records = list(_find_missing(blacklist, added))
        for record in records:
            echo_json(record)
        missing = len(records) if added else None
        echo(f"It lacks {len(records)} of the log's {len(added)} entries; some may have expired since.", err=True)
        if not added:
            echo("So what it lacks is not known: is the log in JSON, as GATEWAY_LOG_FORMAT=json makes it?", err=True)
    else:
        echo("What it lacks is not known: --audit LOG compares it with a gateway's log.", err=True)
    if not yes:
        click.confirm("Whatever it lacks will pass. Take it as it is?", abort=True, err=True)
    store.accept()
    blacklist.record("accept", actor(reason), missing=missing)
    echo("Accepted: every gateway takes the store at its next request.", err=True)


def _read_added(log: IO[str]) -> dict[str, dict[str, Any]]:
    """Return what the log's audit records have added and not removed since, by key."""
    added: dict[str, dict[str, Any]] = {}
    for line in log:
        for key, record in _read_line(line):
            if record.get("action") == "add":
                added[key] = record
            elif record.get("action") == "remove" and record.get("changed") is not False:
                added.pop(key, None)
    return added


def _find_missing(blacklist: Blacklist, added: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the records of entries that the store has not, or only with an earlier cut-off or end, or for others."""
    for key, record in added.items():
        # `find` answers nothing while this clock is behind what was forgotten.
        found = blacklist.store.matching(key)
        if not any(blacklist.is_in_force(_as_logged(entry, record), entry) for entry in found):
            yield record


def _as_logged(entry: Entry, record: dict[str, Any]) -> Entry:
    """Return the entry as a record says it was; that of a token says no end, which is not one given by fingerprint."""
    cut_off, end = record.get("issued_before"), record.get("until", None if entry.by_fingerprint else entry.expires_at)
    issuer = str(record.get("issuer", entry.issuer))
    return dataclasses.replace(entry, issuer=issuer, issued_before=cut_off, expires_at=end, as_of=None)


def _read_line(line: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the key of each entry that an audit record is about, with the record; nothing of any other line."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return
    if not isinstance(record, dict) or record.get("logger") != "gateway.audit":
        return
    if not all(isinstance(record.get(name), int | None) for name in ("issued_before", "until")):
        return
    if re.fullmatch("[0-9a-f]{64}", str(record.get("fingerprint"))):
        yield token_key(record["fingerprint"]), record
    claim, issuer = record.get("claim"), record.get("issuer")
    if isinstance(claim, dict) and isinstance(issuer, str):
        for name, value in claim.items():
            if isinstance(value, str):
                yield claim_key(issuer, name, value), record
