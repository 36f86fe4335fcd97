"""How a body is delimited (RFC 9112 section 6): by its length, by chunks, or not at all after an upgrade.

Each framing takes bytes as they come, at a cost that is linear in them, and keeps none but of a line that is not whole.
"""

from __future__ import annotations

import re

from gateway.http.grammar import QUOTED, TOKEN_CHARS, has_control
from gateway.http.problems import Problem
from gateway.server.head import read_field

MAX_LINE = 16_384  # bytes of a chunk's size and extensions, or of a trailer
MAX_TRAILERS = 65_536  # bytes of all of them
CHUNKED_BYTES = 1024  # taken at a time beyond the data of a known chunk: 170 chunks, where each has one byte

# RFC 9112 sections 7.1 and 7.1.1. Possessive or atomic, so that no line takes more than one look at each byte.
_VALUE = rf"[ \t]*+=[ \t]*+(?:[{TOKEN_CHARS}]++|{QUOTED})"
_EXTENSION = rf"[ \t]*+;[ \t]*+[{TOKEN_CHARS}]++(?>(?:{_VALUE})?)"
_SIZE = re.compile(rf"([0-9A-Fa-f]{{1,15}})(?>(?:{_EXTENSION})*)".encode())

_SIZE_LINE, _DATA, _END_OF_DATA, _TRAILER = range(4)


class Framing:
    """What tells where a body ends. Here only the connection's end does; subclasses know more."""

    __slots__ = ("ended",)

    def __init__(self) -> None:
        self.ended = False

    def wanted(self, limit: int) -> int:
        """Return how many bytes to receive, so that none beyond the body is taken where that can be known."""
        return limit

    def feed(self, data: bytes, limit: int) -> tuple[bytes, int]:
        """Return at most `limit` bytes of the body, and how many of `data` they, and what is around them, took.

        Raises `Problem` for what frames no body.
        """
        part = data[:limit]
        return part, len(part)

    def is_short(self, limit: int) -> bool:
        """Return whether what is still to come is known to be at most `limit` bytes."""
        return self.ended


class Raw(Framing):
    """What a client sends after an upgrade: it ends where the client ends it."""


class Length(Framing):
    """A body of so many bytes."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length
        self.ended = not length

    def wanted(self, limit: int) -> int:
        """Return how many bytes to receive."""
        return min(self._left, limit)

    def feed(self, data: bytes, limit: int) -> tuple[bytes, int]:
        """Return the next bytes of the body, and how many they are."""
        part = data[: min(self._left, limit)]
        self._left -= len(part)
        self.ended = not self._left
        return part, len(part)

    def is_short(self, limit: int) -> bool:
        """Return whether at most `limit` bytes are left."""
        return self._left <= limit


class Chunks(Framing):
    """A body in chunks (RFC 9112 section 7.1). Extensions and trailers are read strictly, and dropped."""

    __slots__ = ("_left", "_line", "_next", "_trailers")

    def __init__(self) -> None:
        self.ended = False
        self._next = _SIZE_LINE
        self._left = 0  # bytes of the chunk that are still to come
        self._line = bytearray()  # a line that is not whole yet
        self._trailers = 0  # bytes of them

    def wanted(self, limit: int) -> int:
        """Return how many bytes to receive: what frames the data comes with it."""
        return min(limit, self._left + CHUNKED_BYTES)

    def feed(self, data: bytes, limit: int) -> tuple[bytes, int]:
        """Return the next bytes of the body, and how many of `data` were used. Raises `Problem` invalid-request."""
        parts, at = [], 0
        while at < len(data) and limit and not self.ended:
            if self._next == _DATA:
                part = data[at : at + min(self._left, limit)]
                parts.append(part)
                at += len(part)
                limit -= len(part)
                self._left -= len(part)
                if not self._left:
                    self._next = _END_OF_DATA
            else:
                end = data.find(b"\n", at) + 1
                piece = data[at : end or len(data)]
                at += len(piece)
                if self._line or not end:
                    self._line += piece
                if max(len(piece), len(self._line)) > MAX_LINE:
                    raise Problem("invalid-request")
                if end:
                    line = bytes(self._line) or piece
                    self._line.clear()
                    self._take_line(line)
        return b"".join(parts), at

    def _take_line(self, line: bytes) -> None:
        if self._next == _END_OF_DATA:
            if line != b"\r\n":
                raise Problem("invalid-request")
            self._next = _SIZE_LINE
            return
        content = line[:-2]
        if not line.endswith(b"\r\n") or has_control(content):
            raise Problem("invalid-request")
        if self._next == _SIZE_LINE:
            size = _SIZE.fullmatch(content)
            if not size:
                raise Problem("invalid-request")
            self._left = int(size[1], 16)
            self._next = _DATA if self._left else _TRAILER
        elif content:
            self._trailers += len(line)
            if self._trailers > MAX_TRAILERS:
                raise Problem("fields-too-large")
            read_field(content.decode("latin-1"))
        else:
            self.ended = True
