"""The SQLite file under the blacklist: made durably, checked and brought up to date at start; what it is asked."""

from __future__ import annotations

import functools
import os
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

from gateway.blacklist.stores.base import StoreRefused

VERSION = 1  # in user_version; 0 is a plain file of SqliteDict with JSON in it
START_SECONDS = 30.0  # to wait for another process that brings the file up to date
CHECKED_BYTES = 8 << 20  # a check takes 44 ms for each MB; what is larger is checked as it is read
# What SQLite says of a damaged schema quotes it, and Python's sqlite3 takes that for UTF-8.
FAILURES = (sqlite3.Error, OSError, UnicodeDecodeError)

_UPGRADE = (
    # Look-ups go by the beginnings of keys, an index a fifth the size of the primary key's, and find the
    # generation row without the table. With a million entries a look-up costs 1.2 times what it costs
    # with none; by the primary key it was 1.5 (benchmarks/studies/store.py).
    "CREATE INDEX IF NOT EXISTS beginning ON unnamed (substr(key, 1, 14))",
    "CREATE INDEX IF NOT EXISTS generation ON unnamed (key, value) WHERE key = 'generation'",
    "CREATE INDEX IF NOT EXISTS expiry ON unnamed (json_extract(value, '$.expires_at'))",
    "CREATE INDEX IF NOT EXISTS creation ON unnamed (json_extract(value, '$.created_at'))",
    """INSERT INTO unnamed (key, value) VALUES
        ('generation', json_object('generation', lower(hex(randomblob(16))), 'changes', 0))""",
    f"PRAGMA user_version={VERSION}",
)

# Messages that were taken once, and until when that must be known.
_SEEN = (
    "CREATE TABLE IF NOT EXISTS seen (key TEXT PRIMARY KEY, expires_at INTEGER) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS seen_until ON seen (expires_at)",
)
_GENERATION = "SELECT key, value FROM unnamed INDEXED BY generation WHERE key = 'generation'"
_KEY = """SELECT key, value FROM unnamed INDEXED BY beginning
    WHERE substr(key, 1, 14) = substr(?, 1, 14) AND +key = ?"""
COUNT_CHANGE = """UPDATE unnamed SET value = json_set(value, '$.changes', json_extract(value, '$.changes') + 1)
    WHERE key = 'generation'"""
FORGET = """DELETE FROM unnamed WHERE rowid IN
    (SELECT rowid FROM unnamed WHERE json_extract(value, '$.expires_at') <= ? LIMIT ?)"""
FORGET_SEEN = "DELETE FROM seen WHERE key IN (SELECT key FROM seen WHERE expires_at <= ? LIMIT ?)"
_PAGE = """SELECT rowid, key, value FROM unnamed INDEXED BY creation WHERE json_extract(value, '$.created_at') {}
    AND (json_extract(value, '$.expires_at') IS NULL OR json_extract(value, '$.expires_at') > ?)
    AND (? IS NULL OR json_extract(value, '$.issuer') = json_extract(?, '$'))
    AND (? IS NULL OR EXISTS
        (SELECT 1 FROM json_each(unnamed.value, '$.claim') AS member WHERE member.key = json_extract(?, '$')))
    ORDER BY {} rowid DESC LIMIT ?"""
MATCHING = """SELECT key, value FROM unnamed WHERE key >= ? AND key < ? || 'g'
    AND (json_extract(value, '$.expires_at') IS NULL OR json_extract(value, '$.expires_at') > ?) LIMIT 2"""
SAME_SECOND = _PAGE.format("= ? AND rowid < ?", "")
EARLIER = _PAGE.format("< ?", "json_extract(value, '$.created_at') DESC,")
COUNT = """SELECT (SELECT count(*) FROM unnamed) - 1
    - (SELECT count(*) FROM unnamed WHERE json_extract(value, '$.expires_at') <= ?)"""


def prepare(path: Path, *, create: bool = True) -> None:
    """Make the file if there is none and `create`, check it and bring it up to date. Raises `StoreRefused`."""
    log = path.with_name(path.name + "-wal")
    try:
        if log.exists() and not path.exists():  # in this order: another process may be making both
            raise StoreRefused(f"{path} is gone, but entries may be in {log}: restore the one or remove the other.")
        if not path.exists():
            if not create:
                raise StoreRefused(f"There is no store: {path} does not exist.")
            _create(path)
        size = path.stat().st_size
        if not size:
            raise StoreRefused(_emptied(path))
        with closing(_connect(f"{path.as_uri()}?mode=rw")) as conn:
            _check(path, conn, thoroughly=size <= CHECKED_BYTES)
    except FAILURES as error:
        raise StoreRefused(f"{path} cannot hold the blacklist: {error}.") from error


def _create(path: Path) -> None:
    """Make the file under another name first: under its own it is whole, or not there."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with closing(_connect(draft.as_uri())) as conn:
            conn.execute("PRAGMA auto_vacuum=INCREMENTAL")
            conn.execute("CREATE TABLE unnamed (key TEXT PRIMARY KEY, value BLOB)")  # as SqliteDict does
            _upgrade(conn)
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was faster
    finally:
        draft.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # SQLite syncs what is in the file; the name is ours to sync
    finally:
        os.close(directory)


def _check(path: Path, conn: sqlite3.Connection, *, thoroughly: bool) -> None:
    if not conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'unnamed' AND type = 'table'").fetchone():
        raise StoreRefused(f"{path} is a database, but not a blacklist.")
    (version,) = conn.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise StoreRefused(f"{path} was written by a newer version of the gateway.")
    if version < VERSION:
        conn.execute("PRAGMA auto_vacuum=INCREMENTAL")
        conn.execute("VACUUM")
        _upgrade(conn)
    if not conn.execute("SELECT 1 FROM unnamed WHERE key = 'generation'").fetchone():
        raise StoreRefused(_emptied(path))
    if thoroughly and conn.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
        raise StoreRefused(f"{path} is damaged: restore it from a backup.")
    for statement in _SEEN:
        conn.execute(statement)
    conn.execute("PRAGMA journal_mode=WAL")
    conn.execute("UPDATE unnamed SET value = value WHERE key = 'generation'")  # raises if it cannot be written


def _upgrade(conn: sqlite3.Connection) -> None:
    conn.execute("BEGIN IMMEDIATE")
    if conn.execute("PRAGMA user_version").fetchone() == (0,):  # no other process was faster
        for statement in _UPGRADE:
            conn.execute(statement)
    conn.execute("COMMIT")


def _connect(uri: str) -> sqlite3.Connection:
    conn = sqlite3.connect(uri, uri=True, timeout=START_SECONDS, isolation_level=None)
    try:
        conn.execute("PRAGMA synchronous=FULL")
    except BaseException:
        conn.close()
        raise
    return conn


def _emptied(path: Path) -> str:
    return f"{path} was emptied: restore it from a backup, or remove it to start with an empty blacklist."


@functools.cache
def lookup(keys: int) -> str:
    """Return the statement that asks for the generation row and so many keys, each bound twice in a row."""
    # UNION ALL takes half the time of IN, which would first build a table of its list.
    return " UNION ALL ".join([_GENERATION, *[_KEY] * keys])
