"""When to look after which connection, though nothing has happened to it. Its cost does not grow with their number."""

from __future__ import annotations

from threading import Lock

from gateway.server.connection import NEVER, Connection

TICK_SECONDS = 0.25


class Alarms:
    """One alarm for a connection: the earliest that was set. Times are of `time.monotonic`."""

    def __init__(self, now: float) -> None:
        self._lock = Lock()
        self._next = int(now / TICK_SECONDS)
        self._slots: dict[int, set[Connection]] = {}

    def set(self, connection: Connection, at: float) -> None:
        """Have the connection looked after at that time, unless it is before."""
        slot = int(at / TICK_SECONDS) + 1
        if slot * TICK_SECONDS >= connection.alarm:
            return
        with self._lock:
            self._remove(connection)
            slot = max(slot, self._next)
            self._slots.setdefault(slot, set()).add(connection)
            connection.alarm = slot * TICK_SECONDS

    def take(self, now: float) -> list[Connection]:
        """Return the connections whose time has come; they have no alarm then."""
        found: list[Connection] = []
        with self._lock:
            last = int(now / TICK_SECONDS)
            for slot in range(self._next, last + 1):
                found.extend(self._slots.pop(slot, ()))
            self._next = max(last + 1, self._next)
            for connection in found:
                connection.alarm = NEVER
        return found

    def clear(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        with self._lock:
            self._remove(connection)

    def _remove(self, connection: Connection) -> None:
        if connection.alarm != NEVER:
            self._slots[round(connection.alarm / TICK_SECONDS)].discard(connection)
            connection.alarm = NEVER
