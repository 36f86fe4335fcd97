"""How long a request waits for a thread, measured by a probe that waits among the requests."""

from __future__ import annotations

import time


class QueueingDelay:
    """How long the latest probe has waited, or a connection that was accepted late; more than `limit` is overload.

    In seconds. A probe that nobody has taken counts with what it has waited, from the next look on.
    """

    def __init__(self, limit: float) -> None:
        self.is_too_long = False  # whether requests wait longer than they may
        self._limit = limit
        self._waited = 0.0
        self._sent = 0.0  # when the probe was sent that is under way; 0: none is

    def send(self) -> bool:
        """Note that a probe begins to wait, unless one does; return whether it does."""
        if self._sent:
            return False
        self._sent = time.monotonic()
        return True

    def take(self) -> None:
        """Note that a thread has come for the probe."""
        sent, self._sent = self._sent, 0.0
        if sent:
            self._waited = time.monotonic() - sent
        self.look()

    def note(self, seconds: float) -> None:
        """Note how long a connection has waited to be accepted, if that is too long."""
        if seconds > self._limit:
            self._waited = seconds
            self.is_too_long = True

    def look(self) -> bool:
        """Return whether requests wait longer than they may, and keep it: each visit of a connection reads that."""
        sent = self._sent  # once: a thread may come for it now
        self.is_too_long = self._waited > self._limit or (sent > 0 and time.monotonic() - sent > self._limit)
        return self.is_too_long
