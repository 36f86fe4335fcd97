"""The body of an answer where libcurl does not undo its framing: a length, or chunks (RFC 9112 sections 6 and 7)."""

from __future__ import annotations

import re

from gateway.proxy.failures import malformed

MAX_LINE = 16_384  # bytes of a chunk's size and extensions
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")


class Length:
    """A body of `length` bytes; None: it ends with the connection."""

    def __init__(self, length: int | None) -> None:
        self._left = length
        self.has_end = length is not None
        self.ended = length == 0

    def feed(self, data: bytes) -> bytes:
        """Return what is the body's of the next bytes."""
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
            self.ended = not self._left
        return data


class Chunks:
    """A body in chunks. Trailers are not waited for: nothing comes after them on this connection."""

    has_end = True

    def __init__(self) -> None:
        self.ended = False
        self._line = b""  # a chunk's size, or the end of one, as far as it has come
        # Bytes of the chunk that are still to come; 0: its end; None: the next one's size.
        self._left: int | None = None

    def feed(self, data: bytes) -> bytes:
        """Return what is the body's of the next bytes. Raises `UpstreamFailed`."""
        parts, at = [], 0
        while at < len(data) and not self.ended:
            if self._left:
                parts.append(data[at : at + self._left])
                at += len(parts[-1])
                self._left -= len(parts[-1])
                continue
            end = data.find(b"\n", at) + 1 or len(data)
            self._line += data[at:end]
            at = end
            if len(self._line) > MAX_LINE:
                raise malformed("a chunk's size")
            if self._line.endswith(b"\n"):
                self._take_line(self._line)
                self._line = b""
        return b"".join(parts)

    def _take_line(self, line: bytes) -> None:
        if self._left == 0:
            if line != b"\r\n":
                raise malformed("a chunk's end")
            self._left = None
            return
        size = _SIZE.fullmatch(line[:-2]) if line.endswith(b"\r\n") else None
        if size is None:
            raise malformed("a chunk's size")
        self._left = int(size[1], 16)
        self.ended = not self._left
