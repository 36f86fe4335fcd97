"""Responses as the bundled server sends them: the fields in the application's order and spelling."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate
from typing import Any, Final

from gateway.http.cache import bounded_cache
from gateway.http.draining import is_draining
from gateway.http.grammar import read_length
from gateway.http.problems import Problem
from gateway.http.wsgi import App, Context, Environ, Fields, close_body
from gateway.server.body import Body
from gateway.server.pause import NOTHING, Awaited, PauseNote
from gateway.server.request import Request
from gateway.server.wire import Wire

# PEP 3333 forbids these to an application: framing and connection are the server's own.
_SERVERS_OWN: Final = frozenset(("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"))
_NOTED: Final = _SERVERS_OWN | {"content-length", "date"}
_NO_LENGTH: Final = frozenset(("101", "204"))  # RFC 9110 section 8.6
_NO_BODY: Final = frozenset(("204", "304"))
_SWITCHING = frozenset(("connection", "upgrade"))  # an app that switches protocols says to which

_NO_PARTS: Final[Iterator[bytes]] = iter(())
_date = (0, "")


class Response:
    """The response to one request, whose body is `body`. `notify` is called when it is to be cut off."""

    __slots__ = (
        "_chunked", "_content", "_head", "_is_whole", "_notify", "_parts", "_pause", "_remaining", "_wire", "body",
        "closes", "cut_code", "has_begun", "is_framed", "is_over", "request",
    )  # fmt: skip

    def __init__(self, request: Request, body: Body, wire: Wire, pause: PauseNote, notify: Callable[[], None]) -> None:
        self.cut_code = ""  # why it must not go on, if so
        self.has_begun = False  # whether its head is given to send
        self.is_over = False
        self.is_framed = True  # whether its end shows without the connection's
        self.closes = request.closes
        self.request = request
        self.body = body
        self._wire = wire
        self._pause = pause
        self._notify = notify
        self._head: tuple[str, Fields] | None = None
        self._chunked = False
        self._content: Iterable[bytes] = ()
        self._parts: Iterator[bytes] = _NO_PARTS
        self._is_whole = False  # whether the content is one part
        self._remaining: int | None = None  # bytes that Content-Length still promises

    def start(self, application: App, environ: Environ) -> bool:
        """Have the application answer; return whether all of it is there. What it raises goes to the caller."""
        content = self._content = application(environ, self._start)
        self._parts = iter(content)
        if isinstance(content, (list, tuple)):
            self._is_whole = len(content) == 1
            return True
        return False

    def go_on(self) -> None:
        """Ask for something to send, up to a pause or the response's end."""
        if self._pause.awaited is not None:
            self._pause.clear()
        # Once all promised bytes are given to send, only the end is left to ask for, and that is done at once: one step
        # less for most responses.
        while self._advance() and not self.is_over and not (self._wire.unsent and self._remaining != 0):
            pass
        if self.is_over:
            self.close()

    def awaited(self, fd: int) -> Awaited:
        """Return what has to happen before it is asked again; `fd` is the client's descriptor."""
        pause, body = self._pause, self.body
        if pause.awaited is None:
            return NOTHING
        if not pause.body or body.end_was_taken:
            return pause.awaited
        if self._wire.received or body.has_ended():
            return NOTHING
        return {**pause.awaited, fd: select.POLLIN}

    def _advance(self) -> bool:
        """Send the next part that the application has, or what ends the response; return False if it has none yet."""
        part = next(self._parts, None)
        if part:
            self._write(part, len(part) if self._is_whole else None)
        elif part is None:
            self._finish()
        else:
            if self._head and not self.has_begun:
                self._write(b"")  # it pauses, and the client may wait for the fields
            return False
        self._pause.awaited = None  # it may have asked for a pause, and had something to send after all
        return True

    def close(self) -> None:
        """Let the application clean up."""
        content, self._content = self._content, ()
        close_body(content, has_ended=self.is_over)

    def refuse(self, problem: Problem, about: Context) -> None:
        """Answer with a refusal in the application's place, and close."""
        status, fields, body = problem.response(about.resource_metadata)
        self.closes = True
        fields += [("Content-Length", str(len(body))), ("Cache-Control", "no-store"), *about.refusal_fields]
        if about.request_id:
            fields.append(("X-Request-Id", about.request_id))
        self._head = (status, fields)
        self._write(body)
        self.is_over = True

    def cut(self, code: str) -> None:
        """Have the response end visibly, for a refusal's code. Any thread may call it, at any time."""
        self.cut_code = code
        self.body.is_cut = True
        self._notify()

    def say_farewell(self, farewell: Callable[[str], bytes] | None, code: str) -> bool:
        """End another protocol as it ends itself; return whether it can, and the client takes it at once."""
        data = farewell(code) if farewell and not self._wire.unsent else b""
        if data:
            self.close()
            self._wire.send(data)
            self.closes = self.is_over = True
        return data != b""

    def interim(self, status: str, fields: Fields) -> None:
        """Send an interim answer at once, to clients that understand one (RFC 9110 section 15.2)."""
        if not (self.request.is_http_1_0 or self.has_begun):
            self._wire.send(_joined([f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields)]))
            self._wire.flush()

    def _start(self, status: str, fields: Fields, exc_info: Any = None) -> Callable[[bytes], None]:
        """PEP 3333's start_response."""
        if exc_info and self.has_begun:
            raise exc_info[1].with_traceback(exc_info[2])
        if self._head is not None and not exc_info:
            raise AssertionError("start_response called twice")
        self._head = (status, list(fields))
        if status.startswith("1"):
            self._switch(status)
        return self._write_at_once

    def _write_at_once(self, data: bytes) -> None:
        """PEP 3333's write."""
        self._write(data)
        self._wire.flush()

    def _write(self, data: bytes, length: int | None = None) -> None:
        """Send a part of the body, the first one together with the head; `length` is that of the whole, if known."""
        head = b"" if self.has_begun else self._build_head(length)
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        elif self._remaining is not None:
            data = data[: self._remaining]
            self._remaining -= len(data)
        self.has_begun = True
        self._wire.send(head + data)

    def _finish(self) -> None:
        if not self.has_begun:
            self._write(b"", 0)
        if self._chunked:
            self._wire.send(b"0\r\n\r\n")
        elif self._remaining:
            self.closes = True  # fewer bytes than promised: closing is what tells the client
        self.is_over = True

    def _build_head(self, length: int | None) -> bytes:
        if self._head is None:
            raise AssertionError("start_response was not called")
        status, fields = self._head
        # The server's own version, whatever the request's (RFC 9110 section 6.2).
        lines, noted = ["HTTP/1.1 " + status], {}
        for name, value in fields:
            lines.append(name + ": " + value)
            if known := _noted(name):
                noted[known] = value
                if known in _SERVERS_OWN and not (status.startswith("101") and known in _SWITCHING):
                    raise AssertionError("a field of the connection is not the application's to set")
        if "date" not in noted:
            lines.append("Date: " + _http_date())
        code = status[:3]
        if code in _NO_LENGTH:
            lines = [line for line in lines if not line.lower().startswith("content-length:")]
        if code == "101":  # another protocol follows
            return _joined(lines)
        lines += self._frame(code, noted.get("content-length"), length)
        if self.closes or is_draining() or not self.body.can_be_skipped():
            self.closes = True
            lines.append("Connection: close")
        elif self.request.is_http_1_0:
            lines.append("Connection: keep-alive")
        return _joined(lines)

    def _switch(self, status: str) -> None:
        """Give the connection to another protocol: nothing is framed any more, and its end is the connection's."""
        if not status.startswith("101") or self.request.is_http_1_0:
            raise AssertionError("an interim status is no answer")
        self.body.become_raw()
        self.closes, self.is_framed = True, False
        self._wire.deadlines.is_quiet_allowed = True
        self._wire.keep_probing()

    def _frame(self, code: str, promised: str | None, length: int | None) -> list[str]:
        """Delimit the body: by what the application promised, by what is known, else in chunks; return what says so."""
        if code in _NO_BODY or self.request.is_head:
            self._remaining = 0
        elif promised is not None:
            self._remaining = read_length(promised)
            if self._remaining is None:
                raise AssertionError("Content-Length is not a number")
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


@bounded_cache(1024, longest=64)
def _noted(name: str) -> str:
    """Return a name in lower case if the server has to know the field, "" for all others."""
    lower = name.lower()
    return lower if lower in _NOTED else ""


def _joined(lines: list[str]) -> bytes:
    text = "".join(lines)
    if "\r" in text or "\n" in text or "\0" in text:
        raise ValueError("a control character in the response's head")  # it would split the response
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _http_date() -> str:
    global _date  # noqa: PLW0603 - made once a second, not once a response
    now = int(time.time())
    if _date[0] != now:
        _date = (now, formatdate(now, usegmt=True))
    return _date[1]
