"""Entries as rows of an SQLite file, and the space they take."""

from __future__ import annotations

import json
import sqlite3

from gateway.blacklist.stores.base import Entry
from gateway.blacklist.stores.sqlite.connections import Connection

KEYS_AT_ONCE = 100  # SQLite takes 499 of them in one statement
PAGES_PER_CHANGE = 100  # vacuumed: freed in the file system


def encode(entry: Entry) -> str:
    """Return the row's value."""
    # Escaped to ASCII: SQLite's text takes neither lone surrogates nor NUL.
    return json.dumps(entry.to_json(), separators=(",", ":"), allow_nan=False)


def decode(key: str, text: str) -> Entry:
    """Return the entry of a row. Raises sqlite3.DataError."""
    try:
        return Entry.from_json(key, json.loads(text))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise sqlite3.DataError("a row is not an entry") from error


def vacuum(conn: Connection, spare: int) -> int:
    """Return some free pages beyond `spare` to the file system; return how many."""
    free: int = conn.execute("PRAGMA freelist_count").fetchone()[0]
    pages = max(0, min(free - spare, PAGES_PER_CHANGE))
    for _ in range(pages):
        conn.execute("PRAGMA incremental_vacuum(1)")  # whatever the number, Python's sqlite3 takes one step
    return pages
