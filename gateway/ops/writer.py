"""Lines are written by a thread of their own: whoever reads them slowly, or not at all, holds up nothing else."""

from __future__ import annotations

import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from gateway.http.threads import at_fork, start_thread

LIMIT = 4 << 20  # characters of lines that wait; what comes when there are so many is dropped, and counted
# Requests are more urgent than the log: while they come, lines are collected, so that the thread does not take the
# interpreter's lock for each line.
GATHER_SECONDS = 0.02
IDLE_SECONDS = 5.0  # after which the thread ends, until there is another line
FLUSH_SECONDS = 1.0  # what the process waits for at its exit
FORK_SECONDS = 0.2  # … and before it forks


class LineWriter:
    """Writes lines to a descriptor, in order. `dropped` counts those that found no room.

    `describe_loss` returns the line that says how many were dropped, once they are read again.
    """

    def __init__(self, descriptor: int, describe_loss: Callable[[int], str]) -> None:
        self.describe_loss = describe_loss
        self.dropped = 0
        self._descriptor = descriptor
        self._begin_anew()
        at_fork(before=self._rest, after_in_child=self._begin_anew)

    def _begin_anew(self) -> None:
        """Start without a thread and without lines; in a forked child, those that wait are the parent's to write."""
        self._lines: deque[str] = deque()
        self._size = 0  # characters of lines that wait, or are being written
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._is_idle = True  # it waits for lines, or there is none
        self._hurries = self._ends = False
        self._told = self.dropped

    def write(self, line: str, *, at_once: bool = False) -> None:
        """Have a line written: `at_once`, or with those of the next few milliseconds. It waits for nothing."""
        with self._lock:  # the condition's: to enter that one takes three calls
            if self._size > LIMIT:
                self.dropped += 1
                return
            self._lines.append(line)
            self._size += len(line)
            if self._is_idle or at_once:
                self._wake(at_once)

    def _wake(self, at_once: bool) -> None:
        """Have the thread see that there are lines; where there can be none, write them here."""
        if self._thread is None:
            self._thread = start_thread(self._run, name="gateway-log")
        if self._thread is None:  # as when the interpreter ends
            self._write_out(_encode([self._lines.pop()]))
            self._size = 0
        self._hurries |= at_once
        self._changed.notify_all()

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Wait until all is written, but not longer than so many seconds."""
        with self._changed:
            self._hurries = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._size, seconds)

    def _rest(self) -> None:
        """End the thread before the process forks, if its reader lets it: a fork copies no other thread."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        with self._changed:
            self._hurries = self._ends = True
            self._changed.notify_all()
        thread.join(FORK_SECONDS)
        self._ends = False

    def _run(self) -> None:
        while lines := self._take():
            pieces = [_encode(lines)] if self._is_file() else _pieces(lines)
            are_written = [self._write_out(piece) for piece in pieces]
            with self._changed:
                self._size -= sum(map(len, lines))
                lost = self.dropped - self._told if all(are_written) else 0
                self._told += lost
                if not self._size:
                    self._hurries = False
                self._changed.notify_all()  # who flushes
            if lost:
                self.write(self.describe_loss(lost), at_once=True)

    def _take(self) -> list[str]:
        """Return the lines that wait, gathered for a moment; none when the thread is to end."""
        with self._changed:
            self._is_idle = True
            self._changed.wait_for(lambda: self._lines or self._ends, IDLE_SECONDS)
            if self._lines:
                self._is_idle = False
                self._changed.wait_for(lambda: self._hurries, GATHER_SECONDS)
            else:
                self._thread = None
            lines = list(self._lines)
            self._lines.clear()
            return lines

    def _is_file(self) -> bool:
        """Return whether it is a file, where writes of several processes stay apart, however long they are."""
        try:
            return stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        except OSError:  # it is closed, which to write will tell
            return False

    def _write_out(self, data: bytes) -> bool:
        """Return whether all is written; what is not counts as dropped."""
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # whoever started us made it so
                poller = select.poll()
                poller.register(self._descriptor, select.POLLOUT)
                poller.poll(1000)
                time.sleep(0.001)  # an error is ready, too
            except OSError:  # nobody reads it any more, or its disk is full
                with self._changed:
                    self.dropped += data.count(b"\n")
                return False
        return True


def _pieces(lines: list[str]) -> Iterator[bytes]:
    """Yield the lines joined, in pieces that are written whole, so that those of several processes do not mix.

    A pipe that is nearly full takes parts of what is longer; a line alone may be.
    """
    piece = b""
    for line in lines:
        data = _encode([line])
        if len(piece) + len(data) > select.PIPE_BUF and piece:
            yield piece
            piece = b""
        piece += data
    yield piece


def _encode(lines: list[str]) -> bytes:
    return "\n".join([*lines, ""]).encode("utf-8", "backslashreplace")
