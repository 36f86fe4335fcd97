"""Files of older versions, brought up to date in one transaction: before it nothing has changed, after it all has.

Until when there is that: docs/decisions.md, "Stores of before the first release".
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import sqlite3

from gateway.blacklist.keys import claim_key
from gateway.blacklist.stores.base import LATEST, Entry
from gateway.blacklist.stores.history import Head, new_mark
from gateway.blacklist.stores.sqlite.beneath import write_number
from gateway.blacklist.stores.sqlite.statements import ADD, ADD_MARK, REMOVE

VERSION = 2  # in user_version. 0: a plain file of SqliteDict with JSON in it; 1: without history

_INDEXES = (
    # Look-ups go by the beginnings of keys, an index a fifth the size of the primary key's, and find the
    # head without the table. With a million entries a look-up costs 1.2 times what it costs with none;
    # by the primary key it was 1.5 (benchmarks/studies/store.py).
    "CREATE INDEX IF NOT EXISTS beginning ON unnamed (substr(key, 1, 14))",
    "CREATE INDEX IF NOT EXISTS head ON unnamed (key, value) WHERE key = 'head'",
    "CREATE INDEX IF NOT EXISTS expiry ON unnamed (json_extract(value, '$.expires_at'))",
    "CREATE INDEX IF NOT EXISTS creation ON unnamed (json_extract(value, '$.created_at'))",
    # A running gateway of an older version asks by this index, and refuses all without it.
    "DROP INDEX IF EXISTS generation",
    "CREATE TABLE IF NOT EXISTS history (number INTEGER PRIMARY KEY, head TEXT NOT NULL, keys TEXT)",
    # Messages that were taken once, and until when that must be known.
    "CREATE TABLE IF NOT EXISTS seen (key TEXT PRIMARY KEY, expires_at INTEGER) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS seen_until ON seen (expires_at)",
)
# A cut-off beyond the latest time, in milliseconds for example, spares no token: it is none.
_FORGET_FAR_CUT_OFFS = """UPDATE unnamed SET value = json_remove(value, '$.issued_before')
    WHERE json_extract(value, '$.issued_before') > ?"""
_NUMBERS = """SELECT unnamed.key, unnamed.value FROM unnamed, json_each(unnamed.value, '$.claim') AS member
    WHERE unnamed.key >= 'claim:' AND unnamed.key < 'claim;' AND member.type IN ('integer', 'real')"""


def upgrade(conn: sqlite3.Connection) -> None:
    """Bring the file up to date, unless another process was faster. Raises sqlite3.Error, ValueError or TypeError."""
    conn.execute("BEGIN IMMEDIATE")
    (version,) = conn.execute("PRAGMA user_version").fetchone()
    if version < VERSION:
        blacklist, changes = secrets.token_hex(16), 0
        if version:
            row = conn.execute("SELECT value FROM unnamed WHERE key = 'generation'").fetchone()
            if not row:
                conn.execute("ROLLBACK")  # the file was emptied: it has no head either
                return
            members = json.loads(row[0])
            blacklist, changes = members["generation"], int(members["changes"])
            conn.execute(REMOVE, ("generation",))
        for statement in _INDEXES:
            conn.execute(statement)
        conn.execute(_FORGET_FAR_CUT_OFFS, (LATEST,))
        _rename_numbers(conn)
        head = Head(blacklist, 0, changes + 1, new_mark())
        conn.execute(ADD, ("head", json.dumps(str(head))))
        conn.execute(ADD_MARK, (head.number, str(head), None))
        write_number(conn, head.number)
        conn.execute(f"PRAGMA user_version={VERSION}")
    conn.execute("COMMIT")


def _rename_numbers(conn: sqlite3.Connection) -> None:
    """Give claims that are numbers the keys they have now: to older versions 7001 and "7001" were two claims."""
    for old_key, text in conn.execute(_NUMBERS).fetchall():
        entry = Entry.from_json(old_key, json.loads(text))
        if entry.claim is None:
            continue
        key = claim_key(entry.issuer, *entry.claim)
        merged = dataclasses.replace(entry, key=key)
        known = conn.execute("SELECT value FROM unnamed WHERE key = ?", (key,)).fetchone()
        if known and key != old_key:
            merged = Entry.from_json(key, json.loads(known[0])).merged(merged)
        conn.execute(REMOVE, (old_key,))
        conn.execute(ADD, (key, json.dumps(merged.to_json(), separators=(",", ":"))))
