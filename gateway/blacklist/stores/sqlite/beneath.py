"""Whether an SQLite file is the one that its log (`-wal`) continues, read from their bytes.

What stands in the log hides what stands in the file. An older copy of the file that is put beneath a log looks new, as
the newest mark is in the log; and it lacks what was folded in before. So each change also writes its number into the
first page, as `application_id`: the file's own number must be one that the log has, or the one before the log's first.
A copy by VACUUM INTO has the same numbers on other pages: it raises the schema's number beyond what the log knows.
(https://www.sqlite.org/fileformat2.html, sections 1.3 and 4.1)
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

LARGEST = 2**31 - 1  # a number has 31 bits
_PAGE_BYTES, _SCHEMA_AT, _NUMBER_AT = 72, 40, 68
_HEAD_BYTES, _FRAME_BYTES = 32, 24  # before all frames, and before each page


class Replaced(sqlite3.DatabaseError):
    """The database, its log or its index was removed, cut or replaced under its users."""


def write_number(conn: sqlite3.Connection, number: int) -> None:
    """Write the number of the newest change into the first page, within a transaction that changes something."""
    conn.execute(f"PRAGMA application_id={number & LARGEST}")


def log_bytes(frames: int, page_bytes: int) -> int:
    """Return how many bytes a log of this many frames has at least."""
    return _HEAD_BYTES + frames * (_FRAME_BYTES + page_bytes) if frames else 0


def check_continues(file: int, log: int, count_frames: Callable[[], int] | None = None) -> None:
    """Raise `Replaced` unless the log continues the file. Both are descriptors, which stay open.

    `count_frames` returns how many the log has; without it, all those count that have the salt of its head.
    """
    own = FirstPage.read(os.pread(file, _PAGE_BYTES, 0))
    # Read after the file: whatever has been folded in by now is in the log.
    head = os.pread(log, _HEAD_BYTES, 0)
    if len(head) < _HEAD_BYTES or (own and not own.number):
        return  # no log; or a file of an older version
    if count_frames:
        frames = count_frames()
    else:
        frames = (os.fstat(log).st_size - _HEAD_BYTES) // (_FRAME_BYTES + int.from_bytes(head[8:12], "big"))
    first = next(_first_pages(log, head, range(frames)), None)
    last = next(_first_pages(log, head, range(frames - 1, -1, -1)), None)
    if not first or not last:
        return
    if own and first.number - 1 <= own.number <= last.number and own.schema <= last.schema:
        return
    if own not in set(_first_pages(log, head, range(frames))):
        raise Replaced("the file is not the one that its log continues: another copy was put beneath it")


class FirstPage(NamedTuple):
    """What the first page says: the newest change's number, and the schema's."""

    number: int
    schema: int

    @classmethod
    def read(cls, page: bytes) -> FirstPage | None:
        """Return what the beginning of a page says, None if it is too short."""
        if len(page) < _PAGE_BYTES:
            return None
        return cls(*(int.from_bytes(page[at : at + 4], "big") for at in (_NUMBER_AT, _SCHEMA_AT)))


def _first_pages(log: int, head: bytes, frames: Iterable[int]) -> Iterator[FirstPage]:
    """Yield what those of the frames say that hold the first page."""
    size = _FRAME_BYTES + int.from_bytes(head[8:12], "big")
    for frame in frames:
        read = os.pread(log, _FRAME_BYTES + _PAGE_BYTES, _HEAD_BYTES + frame * size)
        page = FirstPage.read(read[_FRAME_BYTES:])
        if page and page.number and read[8:16] == head[16:24] and int.from_bytes(read[:4], "big") == 1:
            yield page
