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


class Index:
    """The header of one database's index, mapped as long as this process has a connection to the database.

    While there is a connection, no process removes the index. And closing any descriptor of a file gives
    up every lock that this process has on it, SQLite's own included (fcntl(2)): so it is closed last.
    """

    def __init__(self) -> None:
        self.users = 0
        self._map: mmap.mmap | None = None
        self._descriptor = -1

    def open(self, path: str) -> None:
        """Map the index, once a connection has read from the database. Raises OSError."""
        if self._map is not None and os.path.samestat(os.fstat(self._descriptor), os.stat(path)):
            return
        self.close()  # it was removed after connections that nobody closed
        self._descriptor = os.open(path, os.O_RDONLY)
        self._map = mmap.mmap(self._descriptor, 2 * _HEADER_BYTES, prot=mmap.PROT_READ)

    def header(self) -> bytes:
        """Return both headers as they are now, b"" where they tell nothing: another layout, or no connection."""
        mapped = self._map
        try:
            found = mapped[:] if mapped is not None else b""
        except ValueError:  # closed at this very moment
            return b""
        return found if found[:4] in _VERSION and found[:_HEADER_BYTES] == found[_HEADER_BYTES:] else b""

    def close(self) -> None:
        """Let go of the index."""
        if self._map is not None:
            mapped, self._map = self._map, None
            mapped.close()
            os.close(self._descriptor)


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
