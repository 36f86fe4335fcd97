"""Accepting connections: at an event one, and all that have waited; none beyond the limit, the rest at the end."""

from __future__ import annotations

import errno
import logging
import select
import socket
from collections.abc import Callable
from threading import Lock
from typing import Any

from gateway.server.poller import EVENTS, Poller
from gateway.server.sockets import BACKLOG
from gateway.server.wire import seconds_since_data

log = logging.getLogger("gateway.server")

LACKING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # the system has no room, and may have some later


class Acceptor:
    """A listening socket. As long as `has_room` says so, each connection is accepted.

    `take` is called with its socket and address, and the seconds that it has waited.
    """

    def __init__(
        self,
        sock: socket.socket,
        poller: Poller,
        take: Callable[[socket.socket, Any, float], None],
        has_room: Callable[[], bool],
    ) -> None:
        self.fd = sock.fileno()
        self._socket, self._poller, self._take, self._has_room = sock, poller, take, has_room
        self._lock = Lock()
        self._lacks = False  # whether the system has no room for the last one to connect, and the log says so
        self.listen()

    def listen(self) -> None:
        """Have the poller tell when somebody connects, where there is room; else it is to be called again later."""
        with self._lock:
            self._listen()

    def accept(self) -> None:
        """Accept one connection; if it has waited, no worker is idle: then the next, too.

        If it were one at a time, each would wait for the requests of all that came before it.
        """
        with self._lock:
            for _ in range(EVENTS):
                if self.fd < 0 or not self._accept_one() or not self._has_room():
                    break
            if not self._lacks:  # else until `listen` is called: at once would spin
                self._listen()

    def stop(self) -> None:
        """Accept nobody any more, and leave the socket open."""
        with self._lock:
            self.fd = -1  # the number is soon another's

    def close(self) -> None:
        """Accept who has already connected, and no one after."""
        with self._lock:
            self._poller.disarm(self.fd)
            self.fd = -1
            for _ in range(BACKLOG):  # under load, others connect meanwhile
                if self._accept_one() is None:
                    break
            self._socket.close()

    def _listen(self) -> None:
        if self.fd >= 0 and self._has_room():
            self._poller.arm(self.fd, select.POLLIN)

    def _accept_one(self) -> float | None:
        """Return how long the connection had waited, in seconds; None where none came about."""
        try:
            sock, address = self._socket.accept()
        except OSError as error:  # mostly, another process was faster, or the client has left
            if error.errno in LACKING and not self._lacks:
                log.warning("new connections wait: %s", error.strerror)
                self._lacks = True
            return None
        self._lacks = False
        try:
            waited = seconds_since_data(sock)
            self._take(sock, address, waited)
        except Exception:  # whatever it is, it must not keep the other events from being attended to
            log.exception("a connection could not be taken")
            sock.close()
            return None
        return waited
