"""The SQL of the store."""

from __future__ import annotations

import functools

from gateway.blacklist.stores.history import WINDOW

LOOKUP_HEAD = "SELECT key, value FROM unnamed INDEXED BY head WHERE key = 'head'"
_LOOKUP_KEY = """SELECT key, value FROM unnamed INDEXED BY beginning
    WHERE substr(key, 1, 14) = substr(?, 1, 14) AND +key = ?"""

ADD = "REPLACE INTO unnamed (key, value) VALUES (?, ?)"
REMOVE = "DELETE FROM unnamed WHERE key = ?"
SET_HEAD = "UPDATE unnamed SET value = ? WHERE key = 'head'"
ADD_MARK = "INSERT INTO history VALUES (?, ?, ?)"
FORGET_MARKS = f"DELETE FROM history WHERE number <= ? - {WINDOW}"  # noqa: S608 - a number
MARKS = "SELECT number, head FROM history WHERE number >= ?"
CHANGED_KEYS = "SELECT number, head, keys FROM history WHERE number >= ?"
# A change by hand gives the newest change another mark: for all gateways that know that change, another history.
# Gateways are known by SQLite's function `sqlite_source_id`: they replace it by one that answers `GATEWAY`.
GATEWAY = "gateway"
_BY_HAND = f"""CREATE TRIGGER IF NOT EXISTS {{}}_by_hand {{}} ON unnamed
    WHEN {{}}.key <> 'head' AND sqlite_source_id() <> '{GATEWAY}' {{}}
BEGIN
    UPDATE history SET head = substr(head, 1, length(head) - 32) || lower(hex(randomblob(16)))
        WHERE number = (SELECT max(number) FROM history);
    UPDATE unnamed SET value = (SELECT '"' || head || '"' FROM history ORDER BY number DESC LIMIT 1)
        WHERE key = 'head';
END"""  # noqa: S608 - a text of ours
NOTICE_HANDS = (
    _BY_HAND.format("delete", "AFTER DELETE", "old", ""),
    _BY_HAND.format("update", "AFTER UPDATE", "old", ""),
    # REPLACE deletes the old row without the trigger for that.
    _BY_HAND.format("replace", "BEFORE INSERT", "new", "AND EXISTS (SELECT 1 FROM unnamed WHERE key = new.key)"),
)
WRITE = "UPDATE unnamed SET value = value WHERE key = 'head'"  # and changes nothing

_EXPIRED = """(SELECT rowid, json_extract(value, '$.expires_at') AS expires_at FROM unnamed
    WHERE json_extract(value, '$.expires_at') <= ? ORDER BY json_extract(value, '$.expires_at') LIMIT ?)"""
LATEST_EXPIRED = f"SELECT max(expires_at) FROM {_EXPIRED}"  # noqa: S608 - a text of ours
FORGET = f"DELETE FROM unnamed WHERE rowid IN (SELECT rowid FROM {_EXPIRED})"  # noqa: S608
# Until when entries were forgotten; it stands among the messages, whose own keys begin with `seen:`.
SET_FORGOTTEN = """INSERT INTO seen VALUES ('forgotten', ?)
    ON CONFLICT (key) DO UPDATE SET expires_at = max(expires_at, excluded.expires_at)"""
FORGOTTEN = "SELECT expires_at FROM seen WHERE key = 'forgotten'"
FORGIVE = "DELETE FROM seen WHERE key = 'forgotten'"
FORGET_MESSAGE = "DELETE FROM seen WHERE key = ? AND expires_at <= ?"
FORGET_MESSAGES = """DELETE FROM seen WHERE key IN
    (SELECT key FROM seen WHERE expires_at <= ? AND key > 'seen:' LIMIT ?)"""
ADD_MESSAGE = "INSERT OR IGNORE INTO seen VALUES (?, ?)"

MATCHING = """SELECT key, value FROM unnamed WHERE key >= ? AND key < ? || 'g'
    AND (json_extract(value, '$.expires_at') IS NULL OR json_extract(value, '$.expires_at') > ?) LIMIT 2"""
# Of what is listed, in turn; without its value what is of other issuers, or for another claim, than those wanted.
_PAGE = """SELECT rowid, json_extract(value, '$.created_at'), key, CASE
    WHEN (? IS NULL OR json_extract(value, '$.issuer') IN (SELECT value FROM json_each(?)))
    AND (? IS NULL OR EXISTS
        (SELECT 1 FROM json_each(unnamed.value, '$.claim') AS member WHERE member.key = json_extract(?, '$')))
    THEN value END FROM unnamed INDEXED BY creation WHERE json_extract(value, '$.created_at') {}
    AND (json_extract(value, '$.expires_at') IS NULL OR json_extract(value, '$.expires_at') > ?)
    ORDER BY {} rowid DESC LIMIT ?"""
SAME_SECOND = _PAGE.format("= ? AND rowid < ?", "")
EARLIER = _PAGE.format("< ?", "json_extract(value, '$.created_at') DESC,")
COUNT = """SELECT (SELECT count(*) FROM unnamed) - 1
    - (SELECT count(*) FROM unnamed WHERE json_extract(value, '$.expires_at') <= ?)"""


@functools.cache
def lookup(keys: int) -> str:
    """Return the statement that asks for the head and as many keys, each bound twice in a row."""
    # UNION ALL takes half the time of IN, which would first build a table of its list.
    return " UNION ALL ".join([LOOKUP_HEAD, *[_LOOKUP_KEY] * keys])
