"""A client's socket, with what has come and is not used yet, and what is to be sent. Only `poll` may wait."""

from __future__ import annotations

import select
import socket
import struct
import sys
from time import monotonic
from typing import Final

from gateway.http.disconnected import ClientDisconnected
from gateway.server.states import Deadlines

# How much is received at a time: except for a head, no more is ever held for one connection.
RECEIVE_BYTES: Final = 65536
RECEIVES: Final = 4  # how often a connection may take of a body in one step, before others have their turn


class Wire:
    """A client's end of a connection."""

    __slots__ = ("_socket", "deadlines", "fd", "received", "receives_left", "unsent")

    def __init__(self, sock: socket.socket, keep_alive: float) -> None:
        sock.setblocking(False)
        self.fd = sock.fileno()
        self.received = b""  # what has come, and nobody has taken yet
        self.receives_left = RECEIVES  # in this step of the connection
        self.unsent: bytes | memoryview = b""
        self.deadlines = Deadlines(keep_alive, monotonic())
        self._socket = sock

    def receive(self, size: int = RECEIVE_BYTES) -> bool:
        """Take what has come, once nothing is left of what came before; return whether there was something.

        Raises ClientDisconnected where the client has ended its side, or left.
        """
        try:
            data = self._socket.recv(size)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ClientDisconnected from error
        if not data:
            raise ClientDisconnected
        self.received = data
        self.deadlines.heard = monotonic()
        return True

    def send(self, data: bytes) -> None:
        """Take what is to be sent."""
        self.unsent = bytes(self.unsent) + data if self.unsent else data

    def flush(self) -> bool:
        """Send what is unsent; return whether that is all. Raises ClientDisconnected."""
        try:
            sent = self._socket.send(self.unsent)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ClientDisconnected from error
        self.deadlines.heard = monotonic()
        self.unsent = memoryview(self.unsent)[sent:] if sent < len(self.unsent) else b""
        return not self.unsent

    def poll(self, event: int, seconds: float = 0.0) -> bool:
        """Return whether there is something to receive (`select.POLLIN`), or the client takes more (`select.POLLOUT`).

        The client's end is something to receive. With `seconds`, wait for it at most so long: for apps that block.
        """
        poller = select.poll()
        poller.register(self._socket, event)
        return bool(poller.poll(seconds * 1000))

    def has_left(self) -> bool:
        """Return whether the client has closed the connection, or its side of it."""
        if hasattr(select, "POLLRDHUP"):
            return self.poll(select.POLLRDHUP)
        try:  # elsewhere its end shows only once all before it has been received
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def end(self) -> None:
        """Tell the client that nothing more comes. Raises OSError where it has left."""
        self._socket.shutdown(socket.SHUT_WR)
        self.received = b""

    def keep_probing(self) -> None:
        """Have the system find out whether a client that is silent for hours is still there."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def reset_at_close(self) -> None:
        """Have the close show as a reset, not as an end; what is still on its way to the client is lost."""
        self.unsent = b""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def seconds_since_data(sock: socket.socket) -> float:
    """Return how long ago the client last sent something, or connected; 0 where the system does not tell.

    That is tcpi_last_data_recv of Linux's tcp_info: a connection may have waited long before it was accepted.
    """
    if not hasattr(socket, "TCP_INFO") or sys.platform == "darwin":
        return 0.0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 56)
    except OSError:  # a Unix socket has none
        return 0.0
    return int.from_bytes(info[52:56], sys.byteorder) / 1000
