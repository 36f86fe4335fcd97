"""The body of the request: small ones are collected before the upstream is asked, larger ones pass through."""

from __future__ import annotations

from collections.abc import Generator

from gateway.http.body import await_body, take_body
from gateway.http.problems import Problem
from gateway.http.wsgi import Environ

WHOLE_BYTES = 262_144  # bodies up to this size are collected: a slow client costs the upstream nothing


class Body:
    """A request's body of `length` bytes, None where its end alone shows it, of which at most `limit` may come."""

    def __init__(self, environ: Environ, length: int | None, limit: int) -> None:
        self.length = length
        self._environ = environ
        self._limit = limit
        self._taken = 0
        self._collected = b""  # what was collected of one that turned out to be long
        if length is not None and length > limit:
            raise Problem("payload-too-large")

    def collect(self) -> Generator[bytes, None, bytes | None]:
        """Return the body if it is small, None as soon as it is seen not to be; yield b"" after asking for a pause.

        Raises what `take` raises.
        """
        if self.length is not None and self.length > WHOLE_BYTES:
            return None
        whole = bytearray()  # no list: its parts may be bytes
        while (part := self._take(WHOLE_BYTES + 1)) != b"":
            if part:
                whole += part
                if len(whole) > WHOLE_BYTES:
                    self._collected = bytes(whole)
                    return None
            else:
                await_body(self._environ)
                yield b""
        return bytes(whole)

    def take(self, size: int) -> bytes | None:
        """Return the next part, at most `size` bytes: b"" at the end, None for nothing yet.

        Raises `Problem` payload-too-large and for a body that is badly framed, ConnectionError for a client that left.
        """
        if self._collected:
            part, self._collected = self._collected[:size], self._collected[size:]
            return part
        return self._take(size)

    def _take(self, size: int) -> bytes | None:
        part = take_body(self._environ, size)
        if part:
            self._taken += len(part)
            if self._taken > self._limit:
                raise Problem("payload-too-large")
        return part
