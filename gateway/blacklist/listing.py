"""Pages of what is blacklisted, as `/blacklist/entries` gives them."""

from __future__ import annotations

from typing import Any

from gateway.auth.issuers import ANY, Issuer
from gateway.blacklist.body import Typed
from gateway.blacklist.rules import Blacklist
from gateway.blacklist.stores.base import Entry
from gateway.blacklist.target import read_values
from gateway.http.problems import Problem

DEFAULT_PAGE, LARGEST_PAGE = 100, 1000
MOST_PAGES = 10  # looked through for one answer, of entries that are not the reader's


def list_entries(
    blacklist: Blacklist, params: dict[str, Any], reader: Issuer, issuer: str | None
) -> tuple[list[Entry], str]:
    """Return a page of entries, newest first, and the next one's cursor, "" at the end.

    They are of `issuer`, or else of all issuers that the reader administers; a page may have fewer than asked for
    where others' entries stand between them. A claim's name leaves only its entries, and with a value that value's.
    Raises `Problem` invalid-request.
    """
    known = ("limit", "cursor", "issuer", "claim", *blacklist.claims)
    if params.keys() - known:  # all entries are no answer to who asks for some
        raise Problem("invalid-request", f"Only {', '.join(known)} can be named.")
    limit, cursor = _limit(params.get("limit", str(DEFAULT_PAGE))), str(params.get("cursor", ""))
    named = [name for name in blacklist.claims if name in params]
    if len(named) > 1 or (named and "claim" in params):
        raise Problem("invalid-request", "Only one claim can be named.")
    claim, values = params.get("claim"), None
    if named:
        claim, value = named[0], params[named[0]]
        values = read_values(claim, Typed(value) if isinstance(value, str) else value)
    if not isinstance(claim, str | None) or claim == "":
        raise Problem("invalid-request", "claim must be the name of one claim.")
    only = issuer if issuer or reader.administers else reader.name
    if only is not None and claim is not None and values is not None:
        return blacklist.find_claims(only, claim, values), ""
    names = () if only is None else blacklist.issuers.spellings_of(only)
    try:
        if values is None and (names or ANY in reader.administers):
            return blacklist.store.page(limit, cursor, issuers=names, claim=claim)
        return _page_of_administered(blacklist, reader, limit, cursor, claim, values)
    except ValueError as error:
        raise Problem("invalid-request", "cursor must be the next_cursor of a page.") from error


def _page_of_administered(
    blacklist: Blacklist, reader: Issuer, limit: int, cursor: str, claim: str | None, values: tuple[str, ...] | None
) -> tuple[list[Entry], str]:
    found: list[Entry] = []
    for _ in range(MOST_PAGES):
        entries, cursor = blacklist.store.page(limit - len(found), cursor, claim=claim)
        found += [
            entry
            for entry in entries
            if reader.may_administer(blacklist.issuer_of(entry))
            and (values is None or (entry.claim is not None and entry.claim[1] in values))
        ]
        if not cursor or len(found) == limit:
            break
    return found, cursor


def _limit(text: object) -> int:
    # A repeated name has a list.
    if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 10:
        limit = int(text)
        if 1 <= limit <= LARGEST_PAGE:
            return limit
    raise Problem("invalid-request", f"limit must be a whole number from 1 to {LARGEST_PAGE}.")
