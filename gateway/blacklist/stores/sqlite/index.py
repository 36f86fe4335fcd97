"""Whether an SQLite file has changed, seen without asking SQLite: in the index that its processes share.

In WAL mode each commit ends with a new header in the `-shm` file, by which SQLite itself judges whether the
pages it has cached still hold (https://www.sqlite.org/walformat.html, section 2.1).
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path
from threading import Lock, RLock
from time import monotonic

from gateway.blacklist.stores.sqlite.beneath import Replaced, check_continues, log_bytes

_HEADER_BYTES = 48  # the header stands there twice; SQLite writes the second before the first
_VERSION = (3_007_000).to_bytes(4, "little"), (3_007_000).to_bytes(4, "big")  # the one layout there is

Identity = tuple[int, int]  # device and inode of the database
State = tuple[int, int]  # a file's size, and nanoseconds of its last change
Stamp = tuple[bytes, State]  # the index's header, and the database's state

# A look at the file gives up the interpreter's lock: 13 µs of a busy worker's 190. So there is one every five
# milliseconds, and looks not taken are saved up for a second: who asks seldom has the file looked at each time.
LOOK_SECONDS, SAVED_SECONDS = 0.005, 1.0


class Index:
    """The header of one database's index, mapped while this process has a connection to the database.

    While there is an open one, no process removes the index or truncates it, which would end a reader
    with SIGBUS. And closing any descriptor of a file gives up every lock that this process has on it,
    SQLite's own included (fcntl(2)): so they are closed when the last connection is, not before.
    """

    def __init__(self) -> None:
        self.users = 0  # connections, those included that are being opened or closed
        self._open = 0
        self._lock = Lock()
        self._map: mmap.mmap | None = None
        self._descriptors: tuple[int, ...] = ()  # of the index, of the database, and of its log
        self._files: tuple[tuple[str, Identity], ...] = ()  # the names of index and log, and which files they were
        self._name = ""  # the database's, as its user gave it
        self._stamp: Stamp | None = None  # the one last given
        self._looked = 0.0  # up to when, in monotonic seconds, the time for looks is spent
        self._retired: list[tuple[mmap.mmap, tuple[int, ...]]] = []

    def opened(self, path: str, name: str) -> None:
        """Map the index of the database, now that a connection has read from it. Raises OSError.

        `name` may be a symbolic link to `path`.
        """
        with self._lock:
            if self._map is None:
                self._name = name
                self._files = tuple((path + end, _identity(os.stat(path + end))) for end in ("-shm", "-wal"))
                self._descriptors = tuple(os.open(path + end, os.O_RDONLY) for end in ("-shm", "", "-wal"))
                self._map = mmap.mmap(self._descriptors[0], 2 * _HEADER_BYTES, prot=mmap.PROT_READ)
                self._stamp = None
            self._open += 1

    def closing(self) -> None:
        """Read no more if the connection that is about to be closed is the last open one."""
        with self._lock:
            self._open -= 1
            if not self._open:
                self._retire()

    def stamp(self) -> Stamp | None:
        """Return what changes with every commit, and when the database's file is changed, replaced or removed.

        The latter may take five milliseconds to show in a busy process. None while no open connection
        keeps the index as it is.
        """
        with self._lock:
            if self._map is None:
                return None
            header, stamp = self._map[:], self._stamp
            now = monotonic()
            if stamp is not None and self._looked > now:
                if stamp[0] != header:
                    stamp = self._stamp = header, stamp[1]
                return stamp
            self._looked = max(self._looked, now - SAVED_SECONDS) + LOOK_SECONDS
            descriptor = self._descriptors[1]
        new: Stamp | None = None  # where the file is gone: no stamp given before holds any more
        try:
            self.check()
            found = os.fstat(descriptor)
            if _identity(found) == _identity(os.stat(self._name)):
                new = header, (found.st_size, found.st_ctime_ns)
        except (OSError, Replaced):  # a descriptor was closed at this very moment, or a file is gone
            pass
        self._stamp = stamp = stamp if stamp == new else new
        return stamp

    def check(self) -> None:
        """Raise `Replaced` if index or log are not the files they were when the first connection was opened.

        Whoever opens the database afterwards has other ones: we would not see what they change. And what is appended to
        a log that was cut stands behind a gap, where whoever opens it next stops.
        """
        length = 0
        for name, identity in self._files:
            try:
                found = os.stat(name)
                same, length = (found.st_dev, found.st_ino) == identity, found.st_size
            except FileNotFoundError:
                same = False
            if not same:
                raise Replaced(f"{name} was removed or replaced while it was in use")
        header = self._header()
        if length < log_bytes(*_log_of(header)):
            # Measured after the header was read: unless that has changed, the log was cut, and not started again.
            length = os.stat(self._files[1][0]).st_size
            if self._header() == header and length < log_bytes(*_log_of(header)):
                raise Replaced(f"{self._files[1][0]} was cut while it was in use")

    def check_continues(self) -> None:
        """Raise `Replaced` if the database is not the file that its log continues. Raises OSError."""
        for _ in range(3):
            header = self._header()
            try:
                if self._map is not None:
                    _, file, log = self._descriptors
                    check_continues(file, log, self.frames)
                return
            except Replaced:
                if self._header()[32:40] == header[32:40]:  # its salts, new whenever the log starts again
                    raise

    def frames(self) -> int:
        """Return how many pages the log has."""
        return _log_of(self._header())[0]

    def _header(self) -> bytes:
        with self._lock:
            return self._map[:_HEADER_BYTES] if self._map is not None else bytes(_HEADER_BYTES)

    def _retire(self) -> None:
        if self._map is not None:
            self._retired.append((self._map, self._descriptors))
            self._map, self._files = None, ()

    def close(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._retire()
            while self._retired:
                mapped, descriptors = self._retired.pop()
                mapped.close()
                for descriptor in descriptors:
                    os.close(descriptor)


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino


def _log_of(header: bytes) -> tuple[int, int]:
    """Return how many frames the log has, and the bytes of a page."""
    page_bytes = int.from_bytes(header[14:16], sys.byteorder)
    return int.from_bytes(header[16:20], sys.byteorder), 1 << 16 if page_bytes == 1 else page_bytes


def is_sound(stamp: Stamp) -> bool:
    """Return whether the stamp's header is of the known layout and not just being written."""
    header = stamp[0]
    return header[:4] in _VERSION and header[:_HEADER_BYTES] == header[_HEADER_BYTES:]


_lock = RLock()
_indexes: dict[Identity, Index] = {}


def join(database: Identity) -> Index:
    """Return the index of a database to which a connection is about to be opened."""
    with _lock:
        index = _indexes.setdefault(database, Index())
        index.users += 1
        return index


def leave(database: Identity) -> None:
    """Tell that a connection has been closed."""
    with _lock:
        index = _indexes[database]
        index.users -= 1
        if not index.users:
            _indexes.pop(database).close()


def is_open(path: Path) -> bool:
    """Return whether this process has connections to the database. Raises OSError."""
    return _identity(path.stat()) in _indexes


def _forget() -> None:
    """Start again in a child process: the lock may have been held, and no connection is its own."""
    global _lock  # noqa: PLW0603 - there is one for the process
    _lock = RLock()
    _indexes.clear()


os.register_at_fork(after_in_child=_forget)
