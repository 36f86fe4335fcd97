"""Entries in an SQLite file: `sqlite:///`. For one host and any number of processes.

Not for a network file system: its locks and its shared memory cannot be relied on.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlitedict import SqliteDict

from gateway.blacklist.stores.base import Added, Entry, StoreRefused, check_mark, check_prefix, merge
from gateway.blacklist.stores.sqlite.connections import Connection, Connections, begin
from gateway.blacklist.stores.sqlite.file import (
    COUNT,
    COUNT_CHANGE,
    EARLIER,
    FORGET,
    FORGET_SEEN,
    MATCHING,
    SAME_SECOND,
    lookup,
    prepare,
)
from gateway.blacklist.stores.sqlite.index import Stamp, is_sound
from gateway.http.problems import StoreUnavailable

T = TypeVar("T")

GRACE_SECONDS = 3600  # expired entries stay this long, should the clock be set back
PRUNED_PER_CHANGE = 100
PURGED_PER_CHANGE = 1000
REST_SECONDS = 0.005  # another's `begin` tries at least twice in it
PAGES_PER_CHANGE = 100  # given back to the file system
SPARE_PAGES = 1000  # kept for new entries
REMEMBERED = 10_000  # answers
PING_SECONDS = 0.1  # probes come without a token: no more often than this do they make us sync

_CURSOR = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})")


class SqliteStore(SqliteDict):  # type: ignore[misc]
    """A `Store` in SqliteDict's table and codec, over connections of our own.

    `path` names the file, made if missing (`create`); `now` tells epoch seconds. Raises `StoreRefused`;
    every method raises `StoreUnavailable`.
    """

    conn: Connections
    older_gateways = False  # they refuse a file that a newer one has opened

    def __init__(self, path: str, now: Callable[[], float] = time.time, *, create: bool = True) -> None:
        self._now = now
        self._path = Path(path).resolve()
        self._vouched = ("", "", 0)  # the generation row as last read, its generation, its changes
        self._memory: tuple[Stamp | None, dict[tuple[str, ...], list[Entry]]] = (None, {})
        self._pinged = float("-inf")
        self.pruned = 0  # expired entries that this process has deleted
        prepare(self._path, create=create)
        try:
            super().__init__(str(self._path), encode=_encode, decode=json.loads)
        except StoreUnavailable as error:
            self.conn.close()
            raise StoreRefused(f"{self._path} cannot hold the blacklist: {error.__cause__}.") from error

    def _new_conn(self) -> Connections:
        return Connections(self._path)

    def find(self, keys: Sequence[str]) -> list[Entry]:
        """Return the live entries among `keys`: by asking, or as asked before if nothing has been committed since."""
        stamp = self.conn.index.stamp()  # taken before the question: the answer knows at least this much
        known, answers = self._memory
        if stamp is None or stamp != known:
            answers = {}
            self._memory = (stamp if stamp and is_sound(stamp) else None, answers)
        keys = tuple(keys)
        entries = answers.get(keys)
        if entries is None:
            entries = self.conn.run(self._entries, keys)
            if len(answers) >= REMEMBERED:
                answers.clear()
            answers[keys] = entries
        return self._live(entries) if entries else []

    def _find(self, conn: Connection, keys: Sequence[str]) -> list[Entry]:
        return self._live(self._entries(conn, keys))

    def _entries(self, conn: Connection, keys: Sequence[str]) -> list[Entry]:
        return [_decode(key, text) for key, text in self._rows(conn, keys).items()]

    def _live(self, entries: list[Entry]) -> list[Entry]:
        now = self._now()
        return [entry for entry in entries if entry.is_live(now)]

    def _rows(self, conn: Connection, keys: Sequence[str]) -> dict[str, str]:
        """Return the rows of `keys`, sure that the file is ours, whole and not an older copy."""
        vouched = self._vouched  # taken before the question: the answer must know this much
        for _ in range(3):  # no more: a long checkpoint changes the file all the time
            rows = dict(conn.execute(lookup(len(keys)), [key for key in keys for _ in (1, 2)]).fetchall())
            if self.conn.is_fresh(conn):
                break
        text = rows.pop("generation", "")
        if text != vouched[0]:
            self._vouch(text, *vouched[1:])
        return rows

    def _vouch(self, text: str, known: str, changes_known: int) -> None:
        try:
            members = json.loads(text)
            generation, changes = members["generation"], int(members["changes"])
        except (KeyError, TypeError, ValueError) as error:
            raise sqlite3.DataError("the generation row is gone: the blacklist was emptied") from error
        if known not in ("", generation) or changes < changes_known:
            raise sqlite3.DataError("the blacklist was replaced by another or by an older copy")
        self._vouched = (text, generation, changes)

    def _change(self, conn: Connection, work: Callable[..., T], *args: Any) -> T:
        """Return what `work` makes of a transaction; what it changed is synced by then."""
        begin(conn)
        self._rows(conn, ())
        before = conn.total_changes
        answer = work(conn, *args)
        if conn.total_changes > before:
            conn.execute(COUNT_CHANGE)
            self.conn.check_log(conn)
        conn.execute("COMMIT")
        return answer

    def add(self, entries: Sequence[Entry], *, once: Entry | None = None) -> list[Added] | None:
        """Add the entries, all or none, each merged with a live one of its key; not those that have expired.

        `once` marks a message that has been taken: if its mark is there already, None and no change.
        """
        if once:
            check_mark(once)
        return self.conn.run(self._change, self._add, entries, once)

    def _add(self, conn: Connection, entries: Sequence[Entry], once: Entry | None) -> list[Added] | None:
        now = self._now()
        if once:
            conn.execute("DELETE FROM seen WHERE key = ? AND expires_at <= ?", (once.key, now))
            new_mark = conn.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (once.key, once.expires_at))
            if not new_mark.rowcount:
                return None
        live = {entry.key: entry for part in _parts(entries) for entry in self._find(conn, part)}
        added = merge(entries, live, now)
        new = {entry.key: _encode(entry) for entry, changed in added if changed}
        conn.executemany("REPLACE INTO unnamed (key, value) VALUES (?, ?)", new.items())
        self._forget(conn, now - GRACE_SECONDS, PRUNED_PER_CHANGE)
        _vacuum(conn, SPARE_PAGES)
        return added

    def remove(self, key: str) -> bool:
        """Remove an entry; return whether a live one was there."""
        return self.conn.run(self._change, self._remove, key)

    def _remove(self, conn: Connection, key: str) -> bool:
        found = bool(self._find(conn, [key]))
        if found:
            conn.execute("DELETE FROM unnamed WHERE key = ?", (key,))
        return found

    def matching(self, prefix: str) -> list[Entry]:
        """Return up to two live entries whose key begins so. Raises ValueError for what `Store.matching` refuses."""
        check_prefix(prefix)
        return self.conn.run(self._matching, prefix)

    def _matching(self, conn: Connection, prefix: str) -> list[Entry]:
        self._rows(conn, ())
        return [_decode(key, text) for key, text in conn.execute(MATCHING, (prefix, prefix, self._now()))]

    def page(
        self, limit: int, cursor: str = "", *, issuer: str | None = None, claim: str | None = None
    ) -> tuple[list[Entry], str]:
        """Return up to `limit` live entries, newest first, and the next page's cursor, "" at the end.

        Raises ValueError for a cursor that no page gave.
        """
        parts = _CURSOR.fullmatch(cursor or f"{10**18 - 1}.0")
        if not parts:
            raise ValueError("not a cursor")
        named = [None if name is None else json.dumps(name) for name in (issuer, claim)]
        return self.conn.run(self._page, limit, int(parts[1]), int(parts[2]), named)

    def _page(
        self, conn: Connection, limit: int, second: int, row: int, named: list[str | None]
    ) -> tuple[list[Entry], str]:
        self._rows(conn, ())
        now, wanted = self._now(), limit + 1
        only = [value for name in named for value in (name, name)]
        rows = conn.execute(SAME_SECOND, (second, row, now, *only, wanted)).fetchall()
        rows += conn.execute(EARLIER, (second, now, *only, wanted - len(rows))).fetchall()
        entries = [_decode(key, text) for _, key, text in rows[:limit]]
        return entries, f"{entries[-1].created_at}.{rows[limit - 1][0]}" if len(rows) == wanted else ""

    def changes(self, since: str) -> tuple[str, frozenset[str] | None]:
        """Return the newest mark, and the keys changed since the mark `since`, None if that is not known."""
        self.find(())
        mark = f"{self._vouched[1]}.{self._vouched[2]}"
        return mark, frozenset() if mark == since else None

    def purge(self) -> int:
        """Delete expired entries; return how many. Space is given back."""
        deleted, now = 0, self._now()
        while count := self._in_turn(self._forget, now, PURGED_PER_CHANGE):
            deleted += count
        while self._in_turn(_vacuum, 0):
            pass
        self.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return deleted

    def _in_turn(self, work: Callable[..., int], *args: Any) -> int:
        """Make a change, then rest, so that others come to write in between."""
        count = self.conn.run(self._change, work, *args)
        time.sleep(REST_SECONDS)
        return count

    def _forget(self, conn: Connection, until: float, limit: int) -> int:
        count = conn.execute(FORGET, (until, limit)).rowcount
        conn.execute(FORGET_SEEN, (until, limit))
        self.pruned += count  # by one thread at a time: it is within a transaction that writes
        return count

    def count(self, later: int = 0) -> int:
        """Return how many entries will still be live in so many seconds, if nobody lifts them."""
        return self.conn.run(self._count, later)

    def _count(self, conn: Connection, later: int) -> int:
        self._rows(conn, ())
        return int(conn.execute(COUNT, (self._now() + later,)).fetchone()[0])

    def ping(self) -> None:
        """Return if the store answers and takes changes now."""
        self.conn.run(self._find, ())
        if time.monotonic() - self._pinged > PING_SECONDS:
            self.conn.run(self._change, lambda conn: conn.execute(COUNT_CHANGE))
            self._pinged = time.monotonic()

    def close(self, do_log: bool = True, force: bool = False) -> None:
        """Let go of connections; a later question opens new ones."""
        self.conn.close()


def _parts(entries: Sequence[Entry], size: int = 100) -> Iterable[list[str]]:
    keys = [entry.key for entry in entries]
    return (keys[start : start + size] for start in range(0, len(keys), size))


def _encode(entry: Entry) -> str:
    # Escaped to ASCII: SQLite's text takes neither lone surrogates nor NUL.
    return json.dumps(entry.to_json(), separators=(",", ":"), allow_nan=False)


def _decode(key: str, text: str) -> Entry:
    try:
        return Entry.from_json(key, json.loads(text))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise sqlite3.DataError("a row is not an entry") from error


def _vacuum(conn: Connection, spare: int) -> int:
    """Return some free pages beyond `spare` to the file system; return how many."""
    free: int = conn.execute("PRAGMA freelist_count").fetchone()[0]
    pages = max(0, min(free - spare, PAGES_PER_CHANGE))
    for _ in range(pages):
        conn.execute("PRAGMA incremental_vacuum(1)")  # whatever the number, Python's sqlite3 takes one step
    return pages
