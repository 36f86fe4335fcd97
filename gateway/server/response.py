"""Responses as the bundled server sends them: the fields in the application's order and spelling.

waitress's own sorts and re-capitalises them, adds Via, and closes the connection after every chunked response.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from waitress.utilities import build_http_date

from gateway.http.draining import is_draining
from gateway.http.problems import Problem
from gateway.http.wsgi import Environ, Fields
from gateway.server.request import Request

Application = Callable[..., Iterable[bytes]]

# PEP 3333 forbids these to an application: framing and connection are the server's own.
_SERVERS_OWN = frozenset(("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"))
_NOTED = _SERVERS_OWN | {"content-length", "date"}

_date = (0, "")


class Response:
    """The response to one request. `send` takes all it is given, and `flush` has it sent at once."""

    def __init__(self, request: Request, send: Callable[[bytes], None], flush: Callable[[], object]) -> None:
        self.closes = request.connection_close
        self.has_begun = False  # whether its head is given to send
        self.is_over = False
        self.is_framed = True  # whether its end shows otherwise than by the close
        self.request = request
        self._send, self._flush = send, flush
        self._head: tuple[str, Fields] | None = None
        self._chunked = False
        self._body: Iterable[bytes] = ()
        self._parts: Iterator[bytes] = iter(())
        self._is_whole = False  # whether the body is one part
        self._remaining: int | None = None  # bytes that Content-Length still promises

    def start(self, application: Application, environ: Environ) -> None:
        """Have the application answer; what it raises, here and later, goes to the caller."""
        self._body = application(environ, self._start)
        self._is_whole = isinstance(self._body, (list, tuple)) and len(self._body) == 1
        self._parts = iter(self._body)

    def advance(self) -> None:
        """Send the next part that the application has, or what ends the response."""
        part = next(self._parts, None)
        if part:
            self._write(part, len(part) if self._is_whole else None)
        elif part is None:
            self._finish()
        elif self._head and not self.has_begun:
            self._write(b"")  # it pauses, and the client may wait for the fields

    def close(self) -> None:
        """Let the application clean up."""
        body, self._body = self._body, ()
        if hasattr(body, "close"):
            body.close()

    def refuse(self, problem: Problem) -> None:
        """Answer with a refusal of the server's own, and close."""
        status, fields, body = problem.response()
        self.closes = True
        self._head = (status, [*fields, ("Content-Length", str(len(body))), ("Cache-Control", "no-store")])
        self._write(body)
        self.is_over = True

    def _start(self, status: str, fields: Fields, exc_info: Any = None) -> Callable[[bytes], None]:
        """PEP 3333's start_response."""
        if exc_info and self.has_begun:
            raise exc_info[1].with_traceback(exc_info[2])
        if self._head is not None and not exc_info:
            raise AssertionError("start_response called twice")
        self._head = (status, list(fields))
        return self._write_at_once

    def _write_at_once(self, data: bytes) -> None:
        """PEP 3333's write."""
        self._write(data)
        self._flush()

    def _write(self, data: bytes, length: int | None = None) -> None:
        """Send a part of the body, the first one together with the head; `length` is the whole's, if known."""
        head = b"" if self.has_begun else self._build_head(length)
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        elif self._remaining is not None:
            data = data[: self._remaining]
            self._remaining -= len(data)
        self.has_begun = True
        self._send(head + data)

    def _finish(self) -> None:
        if not self.has_begun:
            self._write(b"", 0)
        if self._chunked:
            self._send(b"0\r\n\r\n")
        elif self._remaining:
            self.closes = True  # fewer bytes than promised: closing is what tells the client
        self.is_over = True

    def _build_head(self, length: int | None) -> bytes:
        if self._head is None:
            raise AssertionError("start_response was not called")
        status, fields = self._head
        # The server's own version, whatever the request's (RFC 9110 section 6.2).
        lines = ["HTTP/1.1 " + status]
        noted: dict[str, str] = {}
        for name, value in fields:
            lines.append(name + ": " + value)
            if (key := name.lower()) in _NOTED:
                noted[key] = value
        if not _SERVERS_OWN.isdisjoint(noted):
            raise AssertionError("a field of the connection is not the application's to set")
        if "date" not in noted:
            lines.append("Date: " + _http_date())
        if status.startswith(("1", "204")):
            lines = [line for line in lines if not line.lower().startswith("content-length:")]
            self._remaining = 0
        elif status.startswith("304") or self.request.is_head:
            self._remaining = 0
        else:
            lines += self._frame(noted.get("content-length"), length)
        if self.closes or is_draining():
            self.closes = True
            lines.append("Connection: close")
        elif self.request.is_http_1_0:
            lines.append("Connection: keep-alive")
        return _joined(lines)

    def _frame(self, promised: str | None, length: int | None) -> list[str]:
        """Delimit the body: by what the application promised, by what is known, else in chunks; return what says so."""
        if promised is not None:
            self._remaining = int(promised)
        elif length is not None:
            self._remaining = length
            return [f"Content-Length: {length}"]
        elif not self.request.is_http_1_0:
            self._chunked = True
            return ["Transfer-Encoding: chunked"]
        else:
            self.closes = True
            self.is_framed = False
        return []


def _joined(lines: list[str]) -> bytes:
    head = "\r\n".join(lines)
    ends = len(lines) - 1
    if head.count("\r") != ends or head.count("\n") != ends or "\0" in head:
        raise ValueError("a control character in the response's head")  # it would split the response
    return (head + "\r\n\r\n").encode("latin-1")


def _http_date() -> str:
    global _date  # noqa: PLW0603 - made once a second, not once a response
    now = int(time.time())
    if _date[0] != now:
        _date = (now, build_http_date(now))
    return _date[1]
