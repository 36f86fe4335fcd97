"""Whether an SQLite file has changed, told without asking SQLite: from the index that its processes share.

In WAL mode each commit ends with a new header in the `-shm` file, by which SQLite itself judges whether the
pages it has cached still hold (https://www.sqlite.org/walformat.html, section 2.1).
"""

from __future__ import annotations

import mmap
import os
from threading import RLock

_HEADER_BYTES = 48  # the header stands there twice; SQLite writes the second before the first
_VERSION = (3_007_000).to_bytes(4, "little"), (3_007_000).to_bytes(4, "big")  # the one layout there is

Identity = tuple[int, int]  # device and inode of the database
Stamp = tuple[bytes, int, int]  # the index's header; the file's size, and nanoseconds of its last change


class Index:
    """The header of one database's index, mapped as long as this process has a connection to the database.

    While there is a connection, no process removes the index. And closing any descriptor of a file gives
    up every lock that this process has on it, SQLite's own included (fcntl(2)): so they are closed last.
    """

    def __init__(self) -> None:
        self.users = 0
        self._map: mmap.mmap | None = None
        self._descriptors: tuple[int, ...] = ()  # of the index, and of the database

    def open(self, path: str) -> None:
        """Map the index of the database, once a connection has read from it. Raises OSError."""
        if self._map is not None and os.path.samestat(os.fstat(self._descriptors[0]), os.stat(path + "-shm")):
            return
        self.close()  # it was removed after connections that nobody closed
        self._descriptors = os.open(path + "-shm", os.O_RDONLY), os.open(path, os.O_RDONLY)
        self._map = mmap.mmap(self._descriptors[0], 2 * _HEADER_BYTES, prot=mmap.PROT_READ)

    def stamp(self) -> Stamp | None:
        """Return what every commit changes, and whatever is done to the database's file, its removal included.

        None while no connection keeps the index where it is.
        """
        mapped = self._map
        if mapped is None:
            return None
        try:
            state = os.fstat(self._descriptors[1])
            return mapped[:], state.st_size, state.st_ctime_ns
        except (ValueError, OSError, IndexError):  # closed at this very moment
            return None

    def close(self) -> None:
        """Let go of the index."""
        if self._map is not None:
            mapped, self._map = self._map, None
            mapped.close()
            for descriptor in self._descriptors:
                os.close(descriptor)


def is_sound(stamp: Stamp) -> bool:
    """Tell whether the stamp's header is of the known layout and not just being written."""
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


def _forget() -> None:
    """Begin anew in a child process: the lock may have been held, and no connection is its own."""
    global _lock  # noqa: PLW0603 - there is one for the process
    _lock = RLock()
    _indexes.clear()


os.register_at_fork(after_in_child=_forget)
