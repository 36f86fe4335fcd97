"""A pool of plain SQLite connections, one for each thread at work, which SqliteDict takes for its connection."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sqlite3
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gateway.blacklist.stores.history import ClockBehind, HistoryLost
from gateway.blacklist.stores.outage import FOLDING, LOOKUPS, Outage
from gateway.blacklist.stores.sqlite.beneath import Replaced
from gateway.blacklist.stores.sqlite.file import BUSY_SECONDS, FAILURES
from gateway.blacklist.stores.sqlite.index import Identity, Index, join, leave
from gateway.blacklist.stores.sqlite.statements import GATEWAY
from gateway.http.blocking import blocking
from gateway.http.threads import at_fork

# The change that makes the log longer than this folds it into the file, while others go on to change it.
FOLD_FRAMES = 1000
# Beyond this the others have to wait: else overlapping readers could keep it growing for ever.
LOG_FRAMES, FOLD_SECONDS = 4000, 0.2

_CAUSES = {
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_LOCKED: "busy",
    sqlite3.SQLITE_PROTOCOL: "busy",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_IOERR: "disk",
    sqlite3.SQLITE_READONLY: "rights",
    sqlite3.SQLITE_CANTOPEN: "rights",
    sqlite3.SQLITE_PERM: "rights",
    sqlite3.SQLITE_AUTH: "rights",
}
_SYSTEM_CAUSES = {errno.ENOENT: "replaced", errno.ENOSPC: "full", errno.EACCES: "rights", errno.EPERM: "rights"}

_PRAGMAS = (
    "synchronous=FULL",  # with a write-ahead log nothing less survives a power cut
    "fullfsync=ON",  # the same for macOS, whose fsync stops at the drive's cache
    "cell_size_check=ON",  # more kinds of damage are noticed
    "cache_size=-32768",  # KiB at most: room for the inner pages of an index of millions of entries
    "journal_size_limit=4194304",  # bytes the log keeps after a large change
    "trusted_schema=ON",  # the default of most builds: triggers may call our function
    "wal_autocheckpoint=0",  # `fold` does it
)

State = tuple[int, int, int, int]  # device, inode, size, nanoseconds of the last change: from one `stat`


class Connection(sqlite3.Connection):
    """A connection that knows in which state of the file it began to cache pages."""

    seen: State
    database: Identity | None = None
    index: Index | None = None

    def close(self) -> None:
        """Close it."""
        if self.index is not None:
            self.index.closing()
            self.index = None
        super().close()
        if self.database is not None:
            leave(self.database)
            self.database = None


def cause_of(error: BaseException) -> str:
    """Return the cause of a failure, one of `WHAT_TO_DO`."""
    if isinstance(error, HistoryLost):
        return "clock" if isinstance(error, ClockBehind) else "history"
    if isinstance(error, Replaced):
        return "replaced"
    if isinstance(error, OSError):
        return _SYSTEM_CAUSES.get(error.errno or 0, "disk")
    return _CAUSES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "damaged")


def state_of(path: str) -> State:
    """Return the file's state. Raises OSError."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns


class Connections:
    """A pool with the methods SqliteDict calls, over connections that commit each statement.

    SqliteDict's own hands every statement to one thread, syncs nothing, and blurs broken into absent.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._file = str(path)
        self._name = name  # as the user gave it: maybe a link, which may come to lead to another file
        self._identity = state_of(self._file)[:2]
        self.outage = Outage()
        self.index = Index()  # of the connections there are now
        self._idle: deque[Connection] = deque()
        self._in_doubt: deque[Connection] = deque()  # to be closed, once the disk can be read again
        self._opened: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._inherited: list[Connection] = []
        self._replaced: Replaced | None = None  # what was done to the files; from then on nothing can be trusted
        # No connection may cross a fork: SQLite in the child would believe that it holds locks which it does not
        # hold, and whoever closes the file last elsewhere would remove the log beneath it. So what is idle is
        # closed before, and a child that inherits a connection all the same, from another thread's work, refuses.
        at_fork(before=self.close, after_in_child=self._forget)
        # For callers that forget to close: Python warns of connections that it closes itself. Not at exit: the files
        # may have been replaced by then (`_close`).
        weakref.finalize(self, _close_all, self._idle).atexit = False

    @contextlib.contextmanager
    def lend(self, what: str = LOOKUPS) -> Iterator[Connection]:
        """Lend a connection to a block. Raises `StoreUnavailable`, also for what the block fails with."""
        try:
            conn = self._take()
            try:
                yield conn
            except BaseException:
                self._discard(conn)  # rolled back, and no state of it is left to be wrong
                raise
        except (*FAILURES, HistoryLost) as error:
            raise self.outage.begin(what, cause_of(error), error) from error
        self._idle.append(conn)
        self.outage.end(what)

    def _discard(self, conn: Connection) -> None:
        """Close a connection; where it cannot be known whether that is safe, later."""
        try:
            self._close(conn)
        except OSError:
            with contextlib.suppress(sqlite3.Error):
                conn.rollback()  # what it holds locked nobody else could change
            self._in_doubt.append(conn)

    def _close(self, conn: Connection) -> None:
        """Close a connection, but never once its files were replaced: it would fold the log into another's."""
        try:
            self.index.check()
            self.index.check_continues()
        except Replaced as error:
            self._replaced = error
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(conn))
        else:
            conn.close()
            self._opened.discard(conn)  # a traceback may keep it alive, and a child would take it for one in use

    def _take(self) -> Connection:
        if self._replaced:
            raise self._replaced.with_traceback(None)
        self._close_doubtful()
        try:
            return self._idle.pop()
        except IndexError:
            with blocking():
                return self._open()

    def _close_doubtful(self) -> None:
        """Close what could not be closed before. Raises OSError while that cannot be: no more are opened then."""
        while self._in_doubt:
            conn = self._in_doubt.pop()
            try:
                self._close(conn)
            except OSError:
                self._in_doubt.append(conn)
                raise

    def _open(self) -> Connection:
        if self._inherited:
            raise sqlite3.OperationalError("this process was forked while the store was in use")
        seen = self._ours(state_of(self._name))  # before the first page is read
        index = join(self._identity)
        try:
            conn = sqlite3.connect(
                f"{self._path.as_uri()}?mode=rw",  # a file that has gone must not come back as an empty blacklist
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                factory=Connection,
            )
        except BaseException:
            leave(self._identity)
            raise
        conn.database = self._identity
        try:
            conn.create_function("sqlite_source_id", 0, lambda: GATEWAY)  # for the triggers
            for pragma in _PRAGMAS:
                conn.execute(f"PRAGMA {pragma}")
            modes = [conn.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
            if modes != ["wal", 2]:
                raise sqlite3.OperationalError("changes would not be synced")
            conn.seen = seen
            index.opened(self._file, self._name)
            self.index = conn.index = index
            self._opened.add(conn)
            index.check_continues()
        except BaseException:
            self._discard(conn)
            raise
        return conn

    def _ours(self, state: State) -> State:
        if state[:2] != self._identity or not state[2]:
            raise Replaced("the file was emptied or replaced")
        return state

    def is_fresh(self, conn: Connection) -> bool:
        """Return whether the file is as it was when `conn` began to cache it; if not, empty the cache.

        Damage done from outside would hide behind the cache. An ordinary checkpoint looks the same.
        Raises sqlite3.Error or OSError if the file, its log or its index has been emptied, replaced or removed.
        """
        self.index.check()
        state = state_of(self._name)
        if state == conn.seen:
            return True
        conn.seen = self._ours(state)
        self.index.check_continues()
        conn.execute("PRAGMA shrink_memory")
        return False

    def fold(self, conn: Connection) -> None:
        """Fold the log into the file if it is long. Where there is no room for that, only the log says so.

        It raises nothing: the change that made the log longer lasts, and must be answered as done.
        """
        if self.index.frames() <= FOLD_FRAMES:
            return
        try:
            conn.execute("PRAGMA wal_checkpoint(PASSIVE)")
            if self.index.frames() > LOG_FRAMES:
                conn.execute(f"PRAGMA busy_timeout={FOLD_SECONDS * 1000:.0f}")
                conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            self.outage.begin(FOLDING, cause_of(error), error)
        else:
            self.outage.end(FOLDING)

    def execute(self, sql: str, args: Iterable[Any] = ()) -> None:
        """Run a statement."""
        self.select(sql, args)

    def executemany(self, sql: str, rows: Iterable[Iterable[Any]]) -> None:
        """Run a statement for each row."""
        for row in rows:
            self.select(sql, row)

    def select(self, sql: str, args: Iterable[Any] = ()) -> list[Any]:
        """Return all rows of a statement."""
        with self.lend() as conn:
            return conn.execute(sql, tuple(args)).fetchall()

    def select_one(self, sql: str, args: Iterable[Any] = ()) -> Any:
        """Return the first row, or None."""
        return next(iter(self.select(sql, args)), None)

    def commit(self, blocking: bool = True) -> None:
        """Do nothing: each statement was committed when it returned."""

    def close(self) -> None:
        """Close what is idle; a later look-up opens new ones."""
        while self._idle:
            self._discard(self._idle.pop())

    def finish(self) -> None:
        """Close what is idle, so that the log is folded into the file if nobody else uses it."""
        with contextlib.suppress(*FAILURES):
            if not self._idle and os.stat(self._file + "-wal").st_size:
                self._idle.append(self._open())  # the log of a worker that was killed: whoever closes last folds it in
        self.close()

    def _forget(self) -> None:
        """Give up in a child process what the parent was using; unclosed, for its locks are the parent's."""
        self._inherited = list(self._opened)
        self._idle.clear()
        self._in_doubt.clear()
        self.index = Index()


def _close_all(connections: deque[Connection]) -> None:
    while connections:
        connections.pop().close()
