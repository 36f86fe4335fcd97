"""An answer that comes before the end of its upload."""

from __future__ import annotations

import os
from contextlib import suppress

from gateway.http.grammar import read_length
from gateway.proxy.chunks import Chunks, Length
from gateway.proxy.failures import UpstreamFailed

MOST = 65_536  # bytes of such an answer

Lines = list[bytes]


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
