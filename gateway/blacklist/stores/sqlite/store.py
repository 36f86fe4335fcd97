"""Entries in an SQLite file: `sqlite:///`. For one host and any number of processes.

Not for a network file system: its locks and its shared memory cannot be relied on.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from sqlitedict import SqliteDict

from gateway.blacklist.stores import history
from gateway.blacklist.stores.base import Added, Entry, StoreRefused, in_parts, merge
from gateway.blacklist.stores.history import MOST_KEYS, ClockBehind, Head, HistoryLost, Known, read_head
from gateway.blacklist.stores.outage import CHANGES, Probe
from gateway.blacklist.stores.sqlite import statements as sql
from gateway.blacklist.stores.sqlite.beneath import write_number
from gateway.blacklist.stores.sqlite.connections import Connection, Connections
from gateway.blacklist.stores.sqlite.file import begin, prepare
from gateway.blacklist.stores.sqlite.index import Stamp, is_sound
from gateway.blacklist.stores.sqlite.rows import KEYS_AT_ONCE, decode, encode, vacuum
from gateway.http.problems import StoreUnavailable

GRACE_SECONDS = 3600  # expired entries stay this long, should the clock be set back
PRUNED_PER_CHANGE = 100
PURGED_PER_CHANGE = 1000
REST_SECONDS = 0.005  # in it, whoever waits in `begin` tries at least twice
SPARE_PAGES = 1000  # kept for new entries
LOOKED_AT = 2000  # entries, 5 µs each, for a page of some issuers or of one claim

_ACCEPTED = "accepted"  # stands among changed keys for an operator's decision
_CURSOR = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})")

Answer = tuple[Stamp | None, Sequence[Entry]]  # when it was given, and all entries, live or not


class SqliteStore(SqliteDict):  # type: ignore[misc]
    """A `Store` in SqliteDict's table and codec, over connections of our own.

    `path` names the file, made if missing (`create`); `now` tells epoch seconds. Raises `StoreRefused`;
    every method raises `StoreUnavailable`.
    """

    conn: Connections
    older_gateways = False  # they refuse a file that a newer one has opened

    def __init__(self, path: str, now: Callable[[], float] = time.time, *, create: bool = True) -> None:
        self._now = now
        self._name = os.path.abspath(path)
        self._path = Path(os.path.realpath(path))
        self._known = Known()
        self._nothing: Answer = None, ()  # the newest answer without entries
        self._forgotten = 0  # entries that ended by then have been forgotten
        self.pruned = 0  # expired entries that this process has deleted
        prepare(self._path, create=create)
        try:
            super().__init__(str(self._path), encode=encode, decode=json.loads)
            self._takes_changes = Probe(self._write, self.conn.outage)
            # What is known before the first fork is known to all workers.
            with self._asking():
                pass
        except StoreUnavailable as error:
            self.conn.close()
            raise StoreRefused(f"{self._path} cannot hold the blacklist: {error.__cause__}.") from error

    def _new_conn(self) -> Connections:
        return Connections(self._path, self._name)

    def find(self, keys: Sequence[str]) -> Sequence[Entry]:
        """Return the live entries among `keys`."""
        return self.find_again(keys, None)[1]

    def find_again(self, keys: Sequence[str], last: Answer | None) -> tuple[Answer | None, Sequence[Entry]]:
        """Return an answer, and the live entries among `keys`; the `last` one if nothing has been committed since."""
        stamp = self.conn.index.stamp()  # taken before the look-up: the answer knows at least this much
        if last is None or last[0] is not stamp or self._now() < self._forgotten:
            nothing = self._nothing
            with self.conn.lend() as conn:
                if stamp is None or stamp is not nothing[0]:
                    self._forgotten = (conn.execute(sql.FORGOTTEN).fetchone() or (0,))[0]
                    nothing = self._nothing = stamp, ()
                entries = self._entries(conn, keys)
            # All tokens without entries share one answer.
            last = (stamp, entries) if entries else nothing
            if stamp is None or not is_sound(stamp):
                return None, self._live(entries)
        return last, self._live(last[1]) if last[1] else ()

    def _find(self, conn: Connection, keys: Sequence[str]) -> list[Entry]:
        return self._live(self._entries(conn, keys))

    def _entries(self, conn: Connection, keys: Sequence[str]) -> list[Entry]:
        rows = self._rows(conn, keys[:KEYS_AT_ONCE])
        for part in in_parts(keys[KEYS_AT_ONCE:], KEYS_AT_ONCE):
            rows |= self._rows(conn, part)
        return [decode(key, text) for key, text in rows.items()]

    def _live(self, entries: Sequence[Entry]) -> list[Entry]:
        now = self._now()
        return [entry for entry in entries if entry.is_live(now)]

    def _rows(self, conn: Connection, keys: Sequence[str]) -> dict[str, str]:
        """Return the rows of `keys`, sure that the file is ours, whole and not an older copy."""
        if self._now() < self._forgotten:
            raise ClockBehind(self._forgotten)
        since = self._known.newest()  # taken before the look-up: the answer must know this much
        for _ in range(3):  # no more: a long checkpoint changes the file all the time
            rows = dict(conn.execute(sql.lookup(len(keys)), tuple(chain.from_iterable(zip(keys, keys, strict=True)))))
            if self.conn.is_fresh(conn):
                break
        head = rows.pop("head", "")
        if not since or head != f'"{since}"':
            self._check_history(conn, head, since)
        return rows

    def _check_history(self, conn: Connection, head: str, since: str) -> None:
        if not isinstance(head, str):
            raise HistoryLost("the head of the blacklist's history is damaged")
        first = read_head(since).number if since else 0
        self._known.check(head.strip('"'), since, dict(conn.execute(sql.MARKS, (first,)).fetchall()))

    @contextmanager
    def _asking(self) -> Iterator[Connection]:
        """Lend a connection, once it is sure that the file is ours."""
        with self.conn.lend() as conn:
            self._rows(conn, ())
            yield conn

    @contextmanager
    def _changing(self) -> Iterator[tuple[Connection, set[str]]]:
        """Lend a transaction, and a set for the keys that change: when the block ends all is synced, and known."""
        with self.conn.lend(CHANGES) as conn:
            begin(conn)
            self._rows(conn, ())
            since = self._known.newest()
            before = conn.total_changes
            keys: set[str] = set()
            yield conn, keys
            head = self._add_mark(conn, read_head(since).next(accepted=_ACCEPTED in keys), keys) if keys else None
            if conn.total_changes > before:
                write_number(conn, (head or read_head(since)).number)
                self.conn.index.check()
            conn.execute("COMMIT")
            if head:
                self._known.check(str(head), since, {read_head(since).number: since, head.number: str(head)})
            if conn.total_changes > before:
                self.conn.fold(conn)

    def _add_mark(self, conn: Connection, head: Head, keys: set[str]) -> Head:
        conn.execute(sql.SET_HEAD, (f'"{head}"',))
        conn.execute(
            sql.ADD_MARK, (head.number, str(head), json.dumps(sorted(keys)) if len(keys) <= MOST_KEYS else None)
        )
        if not head.number % PRUNED_PER_CHANGE:
            conn.execute(sql.FORGET_MARKS, (head.number,))
        return head

    def add(self, entries: Sequence[Entry], *, once: Entry | None = None) -> list[Added] | None:
        """Add the entries, all or none, as `Store.add` says; not those that have expired."""
        with self._changing() as (conn, keys):
            now = self._now()
            if once:
                conn.execute(sql.FORGET_MESSAGE, (once.key, now))
                if not conn.execute(sql.ADD_MESSAGE, (once.key, once.expires_at)).rowcount:
                    return None
                keys.add(once.key)
            live = {known.key: known for known in self._find(conn, [entry.key for entry in entries])}
            added = merge(entries, live, now)
            new = {entry.key: encode(entry) for entry, changed in added if changed}
            conn.executemany(sql.ADD, new.items())
            keys.update(new)
            self._forget(conn, now - GRACE_SECONDS, PRUNED_PER_CHANGE)
            vacuum(conn, SPARE_PAGES)
            return added

    def remove(self, key: str, issuer: str | None = None) -> bool:
        """Remove an entry, of this issuer alone where one is given; return whether a live one was there."""
        with self._changing() as (conn, keys):
            found = any(issuer in (None, entry.issuer) for entry in self._find(conn, [key]))
            if found:
                conn.execute(sql.REMOVE, (key,))
                keys.add(key)
            return found

    def matching(self, prefix: str) -> list[Entry]:
        """Return up to two live entries whose key begins so, as `Store.matching` says."""
        with self._asking() as conn:
            return [decode(key, text) for key, text in conn.execute(sql.MATCHING, (prefix, prefix, self._now()))]

    def page(
        self, limit: int, cursor: str = "", *, issuers: Sequence[str] = (), claim: str | None = None
    ) -> tuple[list[Entry], str]:
        """Return a page of live entries, and the next one's cursor, as `Store.page` says."""
        found = _CURSOR.fullmatch(cursor or f"{10**18 - 1}.0")
        if not found:
            raise ValueError("not a cursor")
        second, row, now = int(found[1]), int(found[2]), self._now()
        only = [json.dumps(each) if each else None for each in (issuers, issuers, claim, claim)]
        most = max(limit + 1, LOOKED_AT if issuers or claim else 0)
        with self._asking() as conn:
            rows = conn.execute(sql.SAME_SECOND, (*only, second, row, now, most)).fetchall()
            rows += conn.execute(sql.EARLIER, (*only, second, now, most - len(rows))).fetchall()
            wanted = [each for each in rows if each[3] is not None]
            entries = [decode(key, text) for *_, key, text in wanted[:limit]]
        last = wanted[limit - 1] if len(wanted) > limit else rows[-1] if len(rows) == most else None
        return entries, f"{last[1]}.{last[0]}" if last else ""

    def changes(self, since: str) -> tuple[str, frozenset[str] | None]:
        """Return the newest mark, and the keys changed since the mark `since`, None if that is not known."""
        with self._asking() as conn:
            newest = self._known.newest()
            if since == newest:
                return newest, frozenset()
            rows = conn.execute(sql.CHANGED_KEYS, (history.number_of(since),)).fetchall()
            return newest, history.changed_keys(since, rows)

    def purge(self) -> int:
        """Delete expired entries; return how many. The file shrinks."""
        deleted, now = 0, self._now()
        while count := self._in_turn(self._forget, now, PURGED_PER_CHANGE):
            deleted += count
        while self._in_turn(vacuum, 0):
            pass
        self.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return deleted

    def _in_turn(self, work: Callable[..., int], *args: Any) -> int:
        """Make a change, then rest, so that others come to write in between."""
        with self._changing() as (conn, _):
            count = work(conn, *args)
        time.sleep(REST_SECONDS)
        return count

    def _forget(self, conn: Connection, until: float, limit: int) -> int:
        """Delete up to `limit` entries, and as many messages, that ended by then; return how many entries.

        The latest end among them is noted: a clock that is earlier cannot be answered.
        """
        (latest,) = conn.execute(sql.LATEST_EXPIRED, (until, limit)).fetchone()
        count = conn.execute(sql.FORGET, (until, limit)).rowcount
        if count:
            conn.execute(sql.SET_FORGOTTEN, (latest,))
        conn.execute(sql.FORGET_MESSAGES, (until, limit))
        self.pruned += count  # by one thread at a time: it is within a transaction that writes
        return count

    def count(self, later: int = 0) -> int:
        """Return how many entries will still be live in `later` seconds, if nobody lifts them."""
        with self._asking() as conn:
            return int(conn.execute(sql.COUNT, (self._now() + later,)).fetchone()[0])

    def ping(self) -> None:
        """Return if the store answers now and takes changes, tried once a second."""
        self.find(())
        self._takes_changes()

    def _write(self) -> None:
        with self._changing() as (conn, _):
            conn.execute(sql.WRITE)

    def accept(self) -> None:
        """Take the store as it is, for every gateway that knows of changes it lacks: an operator's decision."""
        self._forgotten = 0
        with self._changing() as (conn, keys):
            conn.execute(sql.FORGIVE)
            keys.add(_ACCEPTED)

    def close(self, do_log: bool = True, force: bool = False) -> None:
        """Let go of connections; a later look-up opens new ones. The last one of all folds the log into the file."""
        self.conn.finish()
