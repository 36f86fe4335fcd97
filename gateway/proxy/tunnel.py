"""Upgraded connections: the handshake goes on, and after 101 bytes pass both ways. Nothing of it holds a thread."""

from __future__ import annotations

import select
from collections.abc import Generator
from time import monotonic

from gateway.http.body import body_length, take_body
from gateway.http.grammar import elements, read_length
from gateway.http.problems import Problem
from gateway.http.wsgi import Context, Environ, Fields, StartResponse, context
from gateway.proxy.answer import Head, parse, pass_interim
from gateway.proxy.chunks import Chunks, Length
from gateway.proxy.failures import UpstreamFailed, malformed
from gateway.proxy.fields import response_fields
from gateway.proxy.link import PIECE_BYTES, Link, seconds_until
from gateway.proxy.outbound import Outbound
from gateway.proxy.websocket import Frames, close_frame

MAX_HEAD = 65_536  # bytes of the answer to a handshake
LOOK_SECONDS = 60.0  # the longest pause while nothing passes
# Other versions of HTTP, or HTTP in TLS: who asks for one of these takes an answer in HTTP/1.1 (RFC 9110 section 7.8).
_IGNORED = ("h2c", "h2", "http/", "tls/")


def wanted_upgrade(environ: Environ, allowed: frozenset[str]) -> str:
    """Return the protocol that the request is to be upgraded to, "" where it is answered as it is.

    `allowed` are names in lower case. Raises `Problem` upgrade-unsupported for CONNECT, and for other protocols where
    none that is offered stays in HTTP; invalid-request for a request to be upgraded that has a body.
    """
    if environ["REQUEST_METHOD"] == "CONNECT":
        raise Problem("upgrade-unsupported")
    if "HTTP_UPGRADE" not in environ or environ["SERVER_PROTOCOL"] == "HTTP/1.0":
        return ""
    if "upgrade" not in elements(environ.get("HTTP_CONNECTION", "").lower()):
        return ""  # it is not said to this server (RFC 9110 sections 7.6.1 and 7.8)
    wanted = elements(environ["HTTP_UPGRADE"].lower())
    for name in wanted:
        # Only where the server gives the connection out of its hands.
        if name in allowed and context(environ).interim is not None:
            if body_length(environ):
                raise Problem("invalid-request", "A request to switch protocols has a body.")
            return name
    if wanted and not any(name.startswith(_IGNORED) for name in wanted):
        raise Problem("upgrade-unsupported")
    return ""


class Tunnel:
    """One request to upgrade, and the connection that comes of it. `silence_seconds` is for the answer's head."""

    def __init__(self, request: Outbound, protocol: str, environ: Environ, silence_seconds: float) -> None:
        fields = {**request.fields, "Connection": "Upgrade", "Upgrade": protocol}
        lines = [f"{request.method} {request.target} HTTP/1.1", *(f"{name}: {fields[name]}" for name in fields)]
        self._head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        self._protocol = protocol
        self._environ = environ
        self._about: Context = context(environ)
        self._silence = silence_seconds
        self._received = bytearray()  # from the upstream, and not passed on yet
        self._searched = 0  # bytes of it in which no head ends

    def run(self, link: Link, start_response: StartResponse) -> Generator[bytes, None, None]:
        """Answer with what the upstream answers; after 101, pass bytes on until either side ends. Closes the link.

        Raises `UpstreamFailed`, before `start_response` or after, and ConnectionError for a client that left.
        """
        try:
            status, line, fields = yield from self._handshake(link)
            self._about.upstream_status = status
            kept = response_fields(fields, status)
            if status != 101:
                start_response(line, kept)
                yield from self._rest(link, fields, status)
                return
            named = _values(fields, "upgrade")
            if [value.lower() for value in named] != [self._protocol]:
                raise malformed("another protocol than was asked for")
            start_response("101 Switching Protocols", [*kept, ("Connection", "Upgrade"), ("Upgrade", named[0])])
            yield b""  # from here on the client's bytes are taken as they are
            yield from self._relay(link)
        finally:
            link.close()

    def _pause(
        self, seconds: float, descriptors: dict[int, int], *, body: bool = False
    ) -> Generator[bytes, None, None]:
        assert self._about.pause  # noqa: S101 - `wanted_upgrade` has looked
        self._about.pause(seconds, descriptors, body=body)
        yield b""

    def _handshake(self, link: Link) -> Generator[bytes, None, Head]:
        """Send the request, and return the head of the answer."""
        unsent, deadline = self._head, monotonic() + self._silence
        while True:
            unsent = unsent[link.send(unsent) :] if unsent else b""
            if self._receive(link) == b"":
                raise UpstreamFailed("upstream-unreachable", "closed before the head")
            head = self._read_head()
            if head:
                return head
            events = link.events | (select.POLLOUT if unsent else 0)
            yield from self._pause(seconds_until(deadline), {link.fileno(): events})

    def _read_head(self) -> Head | None:
        """Return the final head that has come, if it is whole; pass interim ones on."""
        while (end := self._received.find(b"\r\n\r\n", self._searched)) >= 0:
            lines = [line + b"\r\n" for line in bytes(self._received[:end]).split(b"\r\n")]
            del self._received[: end + 4]
            self._searched = 0
            head = parse(lines)
            if head[0] >= 200 or head[0] == 101:
                return head
            pass_interim(head, self._about)
        self._searched = max(len(self._received) - 3, 0)
        if self._searched > MAX_HEAD:
            raise malformed("a head without an end")
        return None

    def _relay(self, link: Link) -> Generator[bytes, None, None]:
        """Pass bytes both ways, each at the pace of who reads them."""
        frames, about = Frames(), self._about
        if self._protocol == "websocket":
            about.farewell = lambda code: close_frame(code) if frames.at_boundary else b""
        about.is_duplex = True
        unsent = b""
        while True:
            taken = b"" if unsent else take_body(self._environ, PIECE_BYTES)
            if taken == b"" and not unsent:
                return
            unsent = unsent or taken or b""
            sent = link.send(unsent) if unsent else 0
            unsent = unsent[sent:]
            end = not about.is_unread and self._receive(link) == b""
            if self._received:
                data = self._take_received()
                frames.feed(data)
                yield data
            elif end:
                return
            elif not sent:
                events = (0 if about.is_unread else link.events) | (select.POLLOUT if unsent else 0)
                yield from self._pause(LOOK_SECONDS, {link.fileno(): events} if events else {}, body=not unsent)
            elif about.is_unread:
                yield b""  # so that the server sees whether it is read again

    def _rest(self, link: Link, fields: Fields, status: int) -> Generator[bytes, None, None]:
        """Yield the body of an answer that upgrades nothing, framed as its fields say (RFC 9112 section 6.3)."""
        if status in (204, 304) or self._environ["REQUEST_METHOD"] == "HEAD":
            return
        codings = _values(fields, "transfer-encoding")
        if any(coding.lower() != "chunked" for coding in codings):
            raise malformed("an unknown transfer coding")
        # Any of the lengths: `response_fields` saw that all are alike.
        length = ",".join(_values(fields, "content-length")).partition(",")[0]
        framing: Chunks | Length = Chunks() if codings else Length(read_length(length.strip(" \t")))
        deadline = 0.0  # 0: the upstream is not waited for
        while True:
            if piece := framing.feed(self._take_received()):
                yield piece
            if framing.ended:
                return
            if data := self._receive(link):
                deadline = 0.0
            elif data == b"":
                if framing.has_end or link.was_cut:
                    raise UpstreamFailed("upstream-unreachable", "closed within the body")
                return
            else:
                deadline = deadline or monotonic() + self._silence
                yield from self._pause(seconds_until(deadline), {link.fileno(): link.events})

    def _take_received(self) -> bytes:
        data = bytes(self._received)
        self._received.clear()
        return data

    def _receive(self, link: Link) -> bytes | None:
        data = link.receive()
        self._received += data or b""
        return data


def _values(fields: Fields, name: str) -> list[str]:
    return [value for each, value in fields if each.lower() == name]
