"""The body of the request: small ones are collected before the upstream is asked, larger ones pass through."""

from __future__ import annotations

from gateway.http.body import await_body, take_body
from gateway.http.problems import Problem
from gateway.http.wsgi import Environ, context
from gateway.proxy.outbound import Outbound

WHOLE_BYTES = 262_144  # bodies up to this size are collected: a slow client costs the upstream nothing


class Body:
    """A request's body of `length` bytes, None where its end alone shows it, of which at most `limit` may come."""

    __slots__ = ("_collected", "_environ", "_limit", "_taken", "length")

    def __init__(self, environ: Environ, length: int | None, limit: int) -> None:
        self.length = length
        self._environ = environ
        self._limit = limit
        self._taken = 0
        self._collected = bytearray()  # no list: its parts may be bytes
        if length is not None and length > limit:
            raise Problem("payload-too-large")

    def give_to(self, request: Outbound) -> bool:
        """Have a request send it, whole if it is small; return False after asking for a pause: then call it again.

        Raises what `take` raises.
        """
        whole, is_small = self._collected, self.length is None or self.length <= WHOLE_BYTES
        while is_small and (part := self._take(WHOLE_BYTES + 1)) != b"":
            if part is None:
                await_body(self._environ)
                return False
            if len(part) == self.length:  # as most come
                request.body = part
                return True
            whole += part
            is_small = len(whole) <= WHOLE_BYTES
        if not is_small:
            context(self._environ).is_duplex = True
            request.body, request.length, request.is_repeatable = self.take, self.length, False
        elif whole:
            request.body = bytes(whole)
            whole.clear()
        else:
            request.fields["Content-Length"] = "0"
        return True

    def take(self, size: int) -> bytes | None:
        """Return the next part, at most `size` bytes: b"" at the end, None for nothing yet.

        Raises `Problem` payload-too-large and for a body that is badly framed, ConnectionError for a client that left.
        """
        if self._collected:
            part = bytes(self._collected[:size])
            del self._collected[:size]
            return part
        return self._take(size)

    def _take(self, size: int) -> bytes | None:
        part = take_body(self._environ, size)
        if part:
            self._taken += len(part)
            if self._taken > self._limit:
                raise Problem("payload-too-large")
        return part
