"""Accepting connections: one at an event, none beyond the limit, the rest of the backlog at the end."""

from __future__ import annotations

import errno
import logging
import select
import socket
from collections.abc import Callable
from threading import Lock
from typing import Any

from gateway.server.poller import Poller
from gateway.server.sockets import BACKLOG

log = logging.getLogger("gateway.server")

LACKING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # the system has no room, and may have some later


class Acceptor:
    """A listening socket. `take` is called with each connection's socket and address, as long as `has_room` says so."""

    def __init__(
        self,
        sock: socket.socket,
        poller: Poller,
        take: Callable[[socket.socket, Any], None],
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
        """Accept who has connected."""
        with self._lock:
            if self.fd >= 0 and self._accept_one() is not None:
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
                if not self._accept_one():
                    break
            self._socket.close()

    def _listen(self) -> None:
        if self.fd >= 0 and self._has_room():
            self._poller.arm(self.fd, select.POLLIN)

    def _accept_one(self) -> bool | None:
        """Return False where no connection came about, None where there are no descriptors for one."""
        try:
            sock, address = self._socket.accept()
        except OSError as error:  # mostly, another process was faster, or the client has left
            if error.errno not in LACKING:
                return False
            # Until `listen` is called: at once would spin.
            if not self._lacks:
                log.warning("new connections wait: %s", error.strerror)
            self._lacks = True
            return None
        self._lacks = False
        try:
            self._take(sock, address)
        except Exception:  # whatever it is, it must not keep the other events from being attended to
            log.exception("a connection could not be taken")
            sock.close()
            return False
        return True
