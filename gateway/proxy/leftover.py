"""What came before it was asked for: an answer before the end of its upload, or before its request."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from fcntl import ioctl
from termios import FIONREAD
from typing import Final

from gateway.http.grammar import read_length
from gateway.proxy.chunks import Chunks, Length
from gateway.proxy.failures import UpstreamFailed, connection_failure

MOST = 65_536  # bytes of such an answer

Lines = list[bytes]
IS_TOLD: Final = sys.platform == "linux"  # elsewhere nobody knows what TLS has read ahead


class Unasked:
    """Tells whether what is read from a kept connection had come before the request: TLS reads whole records ahead.

    Until `has_come` is asked the end of the request is held back, so that there can be no answer to it yet. Raises
    `UpstreamFailed` where no descriptor is left.
    """

    def __init__(self, descriptor: int) -> None:
        try:  # libcurl may close its own
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, os.dup(descriptor))
        except OSError as error:
            raise connection_failure(error, was_connected=False) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        self._before = self._received()

    def has_come(self) -> bool:
        """Return whether nothing that came since was read: the answer was there before. Let go of the connection."""
        with self._socket as sock:
            unread = int.from_bytes(ioctl(sock, FIONREAD, bytes(4)), sys.byteorder)  # first: more may come between
            was_read = self._received() - self._before - unread
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
            return not was_read

    def _received(self) -> int:
        """Return how many bytes have ever come."""
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
        return int.from_bytes(info[128:], sys.byteorder)  # tcpi_bytes_received of Linux's tcp_info


class Spare:
    """A second descriptor of an upload's connection, which stays open when libcurl closes its own.

    By it an early answer can be read that libcurl does not, because the upstream reset the connection after it.
    """

    def __init__(self) -> None:
        self._descriptor = -1

    def open(self, descriptor: int) -> None:
        """Keep a connection open, unless one is; a descriptor below 0 is none."""
        if self._descriptor < 0 <= descriptor:
            with suppress(OSError):  # no descriptor is left
                self._descriptor = os.dup(descriptor)

    def close(self) -> None:
        """Let go of it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def answer(self) -> tuple[Lines, list[bytes]] | None:
        """Let go of it, and return the lines of the head and the parts of the body of what has come.

        None if that is no whole answer, as what TLS protects.
        """
        data = b""
        with suppress(OSError):  # nothing more has come, or nothing but the reset
            while len(data) < MOST and (part := os.read(self._descriptor, MOST)):
                data += part
        self.close()  # a poller would go on to watch the one that libcurl has closed
        return _whole_answer(data)


def _whole_answer(data: bytes) -> tuple[Lines, list[bytes]] | None:
    head, end, rest = data.partition(b"\r\n\r\n")
    while head[9:10] == b"1":  # an interim answer comes before
        head, end, rest = rest.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    fields = [(name.lower(), value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines)]
    framing = [(name, value) for name, value in fields if name in (b"content-length", b"transfer-encoding")]
    if not end or not status.startswith(b"HTTP/1.") or len(framing) != 1:
        return None
    [(name, value)] = framing
    if name == b"transfer-encoding" and value.lower() != b"chunked":
        return None
    body = Length(read_length(value.decode("latin-1"))) if name == b"content-length" else Chunks()
    with suppress(UpstreamFailed):
        content = body.feed(rest)
        if body.ended:
            return [line + b"\r\n" for line in (status, *lines, b"")], [content] if content else []
    return None
