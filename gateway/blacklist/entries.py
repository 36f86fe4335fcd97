"""Entries as lists, answers and the command line show them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from gateway.blacklist.stores.base import LATEST, Entry


def entry_to_json(entry: Entry) -> dict[str, Any]:
    """Return an entry as it is listed: by fingerprint or claim, times in RFC 3339 but for the cut-off."""
    named = {"fingerprint": fingerprint_of(entry)} if entry.claim is None else {"claim": dict([entry.claim])}
    return {
        **named,
        "issuer": entry.issuer,
        "issued_before": entry.issued_before,
        "created_at": timestamp(entry.created_at),
        "expires_at": timestamp(entry.expires_at),
        "by": entry.by,
        "reason": entry.reason,
    }


def fingerprint_of(entry: Entry) -> str:
    """Return the fingerprint of the token whose own entry it is."""
    return entry.key.partition(":")[2]


def distinct(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries without what an older gateway would find under another key; of each the latest cut-off."""
    found: dict[object, Entry] = {}
    for entry in entries:
        what = entry.issuer, entry.claim or entry.key
        if what not in found or not found[what].covers(entry):
            found[what] = entry
    return list(found.values())


def timestamp(seconds: int | None) -> str | None:
    """Return epoch seconds as RFC 3339 in UTC, null for never."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(min(max(seconds, 0), LATEST), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
