"""`wsgi.input`: a request's body, received when it is asked for. Nothing of it is read ahead, nor put on a disk."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from typing import Final

from gateway.http.blocking import blocking
from gateway.http.disconnected import ClientDisconnected
from gateway.http.problems import Problem
from gateway.server.chunks import Framing, Raw
from gateway.server.states import QUIET_SECONDS
from gateway.server.wire import RECEIVE_BYTES, RECEIVES, Wire

SKIPPED_BYTES: Final = 65_536  # of a body that nobody took: more costs the client its connection
LOOK_SECONDS = 1.0  # how often a thread that waits for a body looks whether the response was cut off


class Body:
    """A body as it comes. `invite` is called once, before the first wait for a body: a client may expect a 100."""

    __slots__ = ("_framing", "_invite", "_is_abandoned", "_kept", "_problem", "_wire", "end_was_taken", "is_cut")

    def __init__(self, wire: Wire, framing: Framing | None, invite: Callable[[], None] | None = None) -> None:
        self.is_cut = False  # whether nobody may wait for it any more
        self.end_was_taken = False
        self._is_abandoned = False  # whether it may never come
        self._kept = b""  # what `readline` received and did not return
        self._problem: Problem | None = None
        self._wire = wire
        self._framing = framing
        self._invite = invite

    def has_ended(self) -> bool:
        """Return whether nothing more of it comes from the client."""
        return self._framing is None or self._framing.ended

    def become_raw(self) -> None:
        """From now on, take what comes as it is (RFC 9110 section 15.2.2). Raises AssertionError amid a body."""
        if not self.has_ended():
            raise AssertionError("the body comes before what is switched to")
        self._framing = Raw()

    def can_be_skipped(self) -> bool:
        """Return whether the connection may go on after what is left. A client that expects 100 may send it or not."""
        framing = self._framing
        if framing is None or framing.ended:
            return True
        return framing.is_short(SKIPPED_BYTES) and self._invite is None and not self._is_abandoned

    def abandon(self) -> None:
        """Have the connection end after the answer, unless the whole body has been taken: it may never come."""
        self._is_abandoned = True

    def take(self, limit: int = RECEIVE_BYTES) -> bytes | None:
        """Return what has come, at most `limit` bytes: b"" at the end, None where nothing has come yet.

        Raises ClientDisconnected when the client has left, and `Problem` for bad chunks, now and at every later call.
        """
        if self._kept:
            part, self._kept = self._kept[:limit], self._kept[limit:]
            return part
        framing = self._framing
        while framing is not None and not framing.ended:
            if not self._wire.receives_left:  # others have their turn first
                return None
            self._wire.receives_left -= 1
            if self._wire.received or self._receive(framing, limit):
                if part := self._feed(framing, limit):
                    return part
            elif not self.has_ended():
                return None
        self.end_was_taken = True
        return b""

    def _feed(self, framing: Framing, limit: int) -> bytes:
        """Return what is the body's of what has come."""
        if self._problem:
            raise self._problem
        wire = self._wire
        try:
            part, used = framing.feed(wire.received[: framing.wanted(limit)], limit)
        except Problem as problem:
            self._problem = problem
            raise
        wire.received = wire.received[used:]
        return part

    def _receive(self, framing: Framing, limit: int) -> bool:
        """Receive more of it; return whether there was something."""
        try:
            if self._wire.receive(framing.wanted(min(limit, RECEIVE_BYTES))):
                self._invite = None
                return True
        except ClientDisconnected:
            if not isinstance(framing, Raw):
                raise
            framing.ended = True
            return False
        if self._invite is not None:
            invite, self._invite = self._invite, None
            invite()
        return False

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes, fewer at the end only; by default all. Waits; raises as `take` does."""
        parts, left = [], size
        while left and (part := self._wait_for(RECEIVE_BYTES if left < 0 else left)):
            parts.append(part)
            left -= len(part) if left > 0 else 0
        return b"".join(parts)

    def readline(self, size: int = -1) -> bytes:
        """Return a line with its end, of at most so many bytes. Waits; raises as `take` does."""
        parts, left = [], size
        while left and (part := self._wait_for(4096 if left < 0 else min(left, 4096))):
            end = part.find(b"\n") + 1
            if end:
                parts.append(part[:end])
                self._kept = part[end:] + self._kept
                break
            parts.append(part)
            left -= len(part) if left > 0 else 0
        return b"".join(parts)

    def readlines(self, hint: int = -1) -> list[bytes]:
        """Return the lines, until they are `hint` bytes or more. Waits; raises as `take` does."""
        lines, size = [], 0
        for line in self:
            lines.append(line)
            size += len(line)
            if 0 < hint <= size:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def _wait_for(self, limit: int) -> bytes:
        while (part := self.take(limit)) is None:
            with blocking():
                if self.is_cut or not self._comes():
                    raise ClientDisconnected
                self._wire.receives_left = RECEIVES
        return part

    def _comes(self) -> bool:
        """Wait a while, unless there is something; return whether it is worth looking again."""
        if self._wire.received:
            return True
        is_late = time.monotonic() > self._wire.deadlines.heard + QUIET_SECONDS
        return self._wire.poll(select.POLLIN, LOOK_SECONDS) or not is_late
