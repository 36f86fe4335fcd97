"""What gateways of older versions need on the same database: nothing that was blacklisted passes on them either.

Until when, and what else is for them: docs/decisions.md, "Stores of before the first release".

They look for a claim that is a number under a key of its own, by how it is written, and know no claim entry without a
cut-off: merged with one of theirs it would get one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gateway.blacklist.keys import claim_key, legacy_claim_keys
from gateway.blacklist.stores.base import LATEST, Entry


def with_twins(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries, and after them those of numbers once more under the keys of older gateways."""
    twins = [
        dataclasses.replace(entry, key=key)
        for entry in entries
        if entry.claim and entry.key == claim_key(entry.issuer, *entry.claim)
        for key in legacy_claim_keys(entry.issuer, *entry.claim)
    ]
    return [*entries, *twins]


def is_twin(entry: Entry) -> bool:
    """Return whether this is a second copy, of an entry that is listed and counted under its own key."""
    return entry.claim is not None and entry.key in legacy_claim_keys(entry.issuer, *entry.claim)


def to_stored(entry: Entry) -> Entry:
    """Return the entry as it is kept: with the latest cut-off there is in place of none."""
    without = entry.claim is not None and entry.issued_before is None
    return dataclasses.replace(entry, issued_before=LATEST) if without else entry


def from_stored(entry: Entry) -> Entry:
    """Return the entry that `to_stored` was given; older gateways took later cut-offs than the latest, too."""
    is_latest = entry.claim is not None and (entry.issued_before or 0) >= LATEST
    return dataclasses.replace(entry, issued_before=None, as_of=None) if is_latest else entry
