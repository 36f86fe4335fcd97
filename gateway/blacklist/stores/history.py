"""The history of a blacklist: how a store that lacks a change is recognized.

Each change leaves a random mark, which no other change will have. The newest is the store's head; the last
`WINDOW` are kept in the store, with the keys they changed, and by every machine that asks. A store is trusted
while its marks contain the newest one that is known: a copy that lacks a change has another mark at its place,
or none, and that stays so when its number of changes is level again.

What one process knows, all processes know that were forked from the same one: it lies in memory that they share. A
machine that has just started knows nothing, and takes the store as it finds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import mmap
import os
import re
import secrets
import struct
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import NamedTuple

from gateway.http.threads import at_fork

log = logging.getLogger(__name__)

WINDOW = 1024  # marks that are kept
MOST_KEYS = 16  # a larger change is kept without its keys: who comes after an import reads all marks at once

_HEAD = re.compile(r"([0-9a-f]{32})\.([0-9]{1,18})\.([0-9]{1,18})\.([0-9a-f]{32})")
_VERSION = struct.Struct("<Q")  # how often what is known has changed
_TEXT = struct.Struct("<H126s")  # the newest head's length and text
_MARK_BYTES = 16
_MARKS = _VERSION.size + _TEXT.size


class HistoryLost(Exception):
    """The store is not the one that is known, or lacks changes; the text is one sentence for the operator."""


class ClockBehind(HistoryLost):
    """Entries that have not ended by this clock were forgotten by one that was ahead."""

    def __init__(self, forgotten: int) -> None:
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(forgotten))
        super().__init__(f"by a clock that was ahead, entries were forgotten that end at {until} or before")


class Head(NamedTuple):
    """Where a history stands: whose it is, when an operator last accepted it (ms), how many changes, the mark."""

    blacklist: str
    accepted: int
    number: int
    mark: str

    def __str__(self) -> str:
        return f"{self.blacklist}.{self.accepted}.{self.number}.{self.mark}"

    def next(self, *, accepted: bool = False) -> Head:
        """Return the head after one more change; `accepted`: an operator takes the store as it is."""
        when = max(int(time.time() * 1000), self.accepted + 1) if accepted else self.accepted
        return Head(self.blacklist, when, self.number + 1, new_mark())


def new_mark() -> str:
    """Return a mark that no other change has."""
    return secrets.token_hex(_MARK_BYTES)


def read_head(text: str) -> Head:
    """Return the head of this text. Raises `HistoryLost`."""
    parts = _HEAD.fullmatch(text)
    if not parts:
        raise HistoryLost("the blacklist was emptied, or something else is in its place")
    return Head(parts[1], int(parts[2]), int(parts[3]), parts[4])


def number_of(text: str) -> int:
    """Return the number of changes in a head's text, beyond all there can be for what is none."""
    parts = _HEAD.fullmatch(text)
    return int(parts[3]) if parts else 2**62


def changed_keys(since: str, rows: Sequence[tuple[int, str, str | None]]) -> frozenset[str] | None:
    """Return the keys changed after the head `since`, None if that is not known. Raises `HistoryLost`.

    `rows` are the number, head and changed keys (as JSON, None for too many) of `since` and of all that followed.
    """
    first, *later = rows or [(0, "", None)]
    if first[1] != since or any(keys is None for _, _, keys in later):
        return None
    try:
        return frozenset(key for _, _, keys in later for key in json.loads(keys or "[]"))
    except (TypeError, ValueError) as error:
        raise HistoryLost("a row of the blacklist's history is damaged") from error


def _open_nameless_file() -> int:
    """Return a descriptor of an empty file; where the system can, it lies on no disk, which may be full."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("gateway")
    descriptor, name = tempfile.mkstemp()
    os.unlink(name)
    return descriptor


class Known:
    """What this process and all that are forked from it know of one store's history. It never goes back."""

    def __init__(self, *, accept_lossy: bool = False) -> None:
        self._accept_lossy = accept_lossy
        self._memory = mmap.mmap(-1, _MARKS + WINDOW * _MARK_BYTES)
        self._file = _open_nameless_file()  # for its lock, which ends with its holder
        weakref.finalize(self, os.close, self._file).atexit = False  # threads may still ask at the process's end
        self._read = bytes(_VERSION.size), ""
        self._free_lock()
        at_fork(after_in_child=self._free_lock)

    def _free_lock(self) -> None:
        self._lock = Lock()

    def newest(self) -> str:
        """Return the newest head that is known, "" for none. Take it before you ask: the answer must know this much."""
        version, text = self._read
        if self._memory[: _VERSION.size] != version:
            with self._locked():
                text = self._newest()
        return text

    def check(self, found: str, since: str, heads: Mapping[int, str]) -> None:
        """Raise `HistoryLost` unless what was found continues what was known (`since`) before the store was asked.

        `heads` are those the store keeps, by number, from that of `since` on (of all that it keeps, if nothing was
        known), read after what was found. What is new is known from now on.
        """
        head = read_head(found)
        marks = {number: read_head(text).mark for number, text in heads.items() if number <= head.number}
        with self._locked():
            newest = self._newest()
            lost = _lost(head, read_head(since), marks) if since else ""
            if not lost and newest:
                lost = self._contradiction(head, read_head(newest), marks)
            if lost and self._accept_lossy and head.blacklist == read_head(since or newest).blacklist:
                log.warning("%s; it is taken all the same (ACCEPT_LOSSY_STORE)", lost)
                self._forget()
            elif lost:
                raise HistoryLost(lost)
            elif newest and head.accepted > read_head(newest).accepted:
                log.warning("the blacklist is taken as an operator accepted it")
                self._forget()
            self._learn(head, marks)

    def _contradiction(self, head: Head, newest: Head, marks: Mapping[int, str]) -> str:
        """Return what is wrong by what others learned while the store was asked; "" for nothing."""
        if head.accepted > newest.accepted:
            return ""
        if head[:2] != newest[:2]:
            return _OTHER
        kept = ((number, self._mark(number)) for number in marks if newest.number - WINDOW < number <= newest.number)
        if any(mark not in ("", marks[number]) for number, mark in kept):
            return _lacking(newest, head)
        return ""

    def _learn(self, head: Head, marks: Mapping[int, str]) -> None:
        newest = self._newest()
        if newest and read_head(newest).number >= head.number:
            return
        first = max(head.number - WINDOW, read_head(newest).number if newest else 0, 0)
        for number in range(first + 1, head.number + 1):
            self._put(number, marks.get(number, ""))
        self._put(head.number, head.mark)
        self._write(str(head))

    def _mark(self, number: int) -> str:
        at = _MARKS + number % WINDOW * _MARK_BYTES
        mark = self._memory[at : at + _MARK_BYTES]
        return mark.hex() if any(mark) else ""

    def _put(self, number: int, mark: str) -> None:
        at = _MARKS + number % WINDOW * _MARK_BYTES
        self._memory[at : at + _MARK_BYTES] = bytes.fromhex(mark) or bytes(_MARK_BYTES)

    def _newest(self) -> str:
        length, text = _TEXT.unpack_from(self._memory, _VERSION.size)
        newest: str = text[:length].decode()
        self._read = self._memory[: _VERSION.size], newest
        return newest

    def _write(self, text: str) -> None:
        _TEXT.pack_into(self._memory, _VERSION.size, len(text), text.encode())
        (version,) = _VERSION.unpack_from(self._memory)
        _VERSION.pack_into(self._memory, 0, version + 1)

    def _forget(self) -> None:
        self._memory[_MARKS:] = bytes(WINDOW * _MARK_BYTES)
        self._write("")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # One lock for the threads of this process, one for all processes.
        with self._lock:
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)


_OTHER = "another blacklist is in its place"


def _lost(head: Head, since: Head, marks: Mapping[int, str]) -> str:
    """Return what is wrong with a store that has this head and these marks where `since` is known; "" for nothing."""
    if head.accepted > since.accepted:
        return ""
    if head.blacklist != since.blacklist:
        return _OTHER
    mark = marks.get(since.number, "")
    # Marks that lack the head's own come from another server. The known one may be older than all that are kept.
    is_strange = head[:2] != since[:2] or marks.get(head.number) != head.mark
    if is_strange or (mark != since.mark and (mark or head.number - since.number < WINDOW)):
        return _lacking(since, head)
    return ""


def _lacking(known: Head, head: Head) -> str:
    if head.number < known.number:
        return f"the blacklist is an older copy that lacks the last {known.number - head.number} changes"
    return (
        f"the blacklist is a copy that lacks changes up to number {known.number}, and has others in their place; "
        "or somebody has changed rows by hand"
    )
