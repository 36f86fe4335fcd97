"""Requests as the bundled server takes them: heads read here, strictly and byte-faithfully, bodies by waitress.

waitress's receivers undo the chunks, and put long bodies into files. Its reading of a head would not do: it refuses
methods in lower case, joins Cookie fields with a comma, unfolds obsolete line folding, waits for ever for a head
of bare line feeds, and accepts a request line without a version.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from io import BytesIO, RawIOBase
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote_to_bytes

from waitress.buffers import OverflowableBuffer
from waitress.receiver import ChunkedReceiver, FixedStreamReceiver

from gateway.http.cache import remembered
from gateway.http.grammar import CONTROLS, TOKEN_CHARS, environ_key, read_length
from gateway.http.problems import Problem
from gateway.http.wsgi import Environ

MAX_HEAD = 262_144  # bytes; a token far too long is still refused as a token
MAX_FIELDS = 1000  # joining repeats is quadratic
MAX_CHUNK_LINE = 65_536  # bytes of a chunk's extensions, or of the trailers
CHUNKED_PIECE = 8192  # bytes given to waitress's reader of chunks at a time: its cost is quadratic in them
BODY_IN_MEMORY = 524_288  # bytes of a body in memory; beyond, it goes to a file

# Of what is white before a head, empty lines alone are ignored (RFC 9112 section 2.2); the last may be half there.
_BEGINNING = re.compile(rb"((?:\r\n)*)(?:\r?\Z|\S)")
_REQUEST_LINE = re.compile(rf"([{TOKEN_CHARS}]+) ([^ ]+) HTTP/1\.([01])")
_END_OF_HEAD = b"\r\n\r\n"
_FIELD_NAME = re.compile(rf"[{TOKEN_CHARS}]{{1,256}}")
_HOST = re.compile(r"[^\s/?#@\\,<>\"]*")
_ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")


class ClientDisconnected(Exception):
    """The client has left, or stopped reading: nothing can be sent to it, nor the rest of its body be had."""


class Request:
    """One request as it is received. What its line and fields say is by environ key; what is wrong, in `problem`."""

    line: Mapping[str, str] = MappingProxyType({})
    fields: Mapping[str, str] = MappingProxyType({})
    is_http_1_0 = False
    is_head = False
    problem: Problem | None = None
    body: Any = None  # waitress's receiver of the body
    chunked = False
    headers_finished = False
    completed = False
    expect_continue = False
    connection_close = False
    asked = False  # whether the application has been asked to refuse early
    unread = False  # whether the client may still be sending what nobody will read
    _begun = b""  # a head that is not whole yet

    def received(self, data: bytes) -> int:
        """Take what belongs to this request, and return how many bytes that was."""
        if self.headers_finished:
            return self._receive_body(data)
        known = len(self._begun)
        head = self._begun + data
        start = 0
        if head[:1].isspace():
            beginning = _BEGINNING.match(head)
            if not beginning:
                self.refuse(Problem("invalid-request"))
                return len(data)
            start = beginning.end(1)
        end = head.find(_END_OF_HEAD, start)
        if (len(head) if end < 0 else end) - start >= MAX_HEAD:
            self.refuse(Problem("fields-too-large"))
        elif end >= 0:
            self._finish_head(head[start:end])
            return end + len(_END_OF_HEAD) - known
        else:
            self._begun = head[start:]
            if _has_control(self._begun.removesuffix(b"\r")):
                self.refuse(Problem("invalid-request"))  # a head of bare LFs would otherwise never end
        return len(data)

    def _receive_body(self, data: bytes) -> int:
        consumed: int = self.body.received(data[:CHUNKED_PIECE] if self.chunked else data)
        if self.body.error or (self.chunked and len(self.body.control_line) + len(self.body.trailer) > MAX_CHUNK_LINE):
            self.refuse(Problem("invalid-request"))
        else:
            self.completed = self.body.completed
        return consumed

    def refuse(self, problem: Problem) -> None:
        """End the request with a refusal of the server's own."""
        self.problem = problem
        self.give_up_body()

    def give_up_body(self) -> None:
        """End the request without (the rest of) its body; the connection cannot be used after it."""
        self.close()
        self.body = None
        self.completed = self.unread = self.connection_close = True

    def close(self) -> None:
        """Let go of the body, and of the file that a long one is in."""
        if self.body is not None:
            self.body.getbuf().close()

    def _finish_head(self, head: bytes) -> None:
        """Read a head (RFC 9112 sections 2.2 to 6)."""
        self.headers_finished = True
        try:
            self._read_head(head)
        except Problem as problem:
            self.refuse(problem)
        self.completed = self.body is None

    def _read_head(self, head: bytes) -> None:
        line, _, fields = head.partition(b"\r\n")
        self.line, self.fields = _read_line(line), _read_fields(fields)
        self.is_head = self.line["REQUEST_METHOD"] == "HEAD"
        self.is_http_1_0 = self.line["SERVER_PROTOCOL"] == "HTTP/1.0"
        connection = self.fields.get("HTTP_CONNECTION", "").lower()
        if self.is_http_1_0:
            self.connection_close = connection != "keep-alive"
        else:
            if "HTTP_HOST" not in self.fields:
                raise Problem("invalid-request")
            self.expect_continue = self.fields.get("HTTP_EXPECT", "").lower() == "100-continue"
            self.connection_close = "close" in connection
        self._frame(self.fields.get("HTTP_TRANSFER_ENCODING"), self.fields.get("CONTENT_LENGTH"))

    def _frame(self, coding: str | None, length: str | None) -> None:
        """Decide how the body is delimited; two answers are none (RFC 9112 section 6.3)."""
        if coding is not None:
            if length is not None or self.is_http_1_0:
                raise Problem("invalid-request")
            if coding.lower() != "chunked":
                raise Problem("not-implemented")
            self.chunked = True
            self.body = ChunkedReceiver(OverflowableBuffer(BODY_IN_MEMORY))
        elif length is not None:
            number = read_length(length)
            if number is None:
                raise Problem("invalid-request")
            if number:
                self.body = FixedStreamReceiver(number, OverflowableBuffer(BODY_IN_MEMORY))

    def environ(self, connection: Environ) -> Environ:
        """Return the WSGI environ, given what the connection adds.

        REQUEST_URI is the target as sent.
        """
        environ = {**connection, **self.fields, **self.line, "wsgi.input": self._input()}
        if self.chunked:
            del environ["HTTP_TRANSFER_ENCODING"]
            if self.body is not None:
                environ["CONTENT_LENGTH"] = str(len(self.body))
        return environ

    def _input(self) -> Any:
        if self.unread:
            return _Unread()
        return BytesIO() if self.body is None else self.body.getfile()


class _Unread(RawIOBase):
    """The body of a request that was given up: reading it is a fault, not an end of file."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        raise ClientDisconnected


def _has_control(head: bytes) -> bool:
    flat = head.replace(b"\r\n", b"")
    return len(flat.translate(None, CONTROLS)) != len(flat)


@remembered(1024, longest=256)
def _read_line(line: bytes) -> dict[str, str]:
    """Return what a request line says (RFC 9112 section 3)."""
    start = _REQUEST_LINE.fullmatch(line.decode("latin-1"))
    if not start or _has_control(line):
        raise Problem("invalid-request")
    method, target, minor = start.groups()
    local = target if target[0] == "/" else _ABSOLUTE_FORM.sub("", target, count=1) or "/"
    path, _, query = local.partition("?")
    return {
        "REQUEST_METHOD": method,
        "REQUEST_URI": target,
        "PATH_INFO": unquote_to_bytes(path.encode("latin-1")).decode("latin-1") if "%" in path else path,
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/1." + minor,
    }


@remembered(1024, longest=2048)
def _read_fields(block: bytes) -> dict[str, str]:
    """Return the fields by environ key, repeats joined (RFC 9110 section 5.3)."""
    if _has_control(block):
        raise Problem("invalid-request")
    lines = block.decode("latin-1").split("\r\n") if block else []
    if len(lines) >= MAX_FIELDS:
        raise Problem("fields-too-large")
    fields: dict[str, str] = {}
    for line in lines:
        key, value = _read_field(line)
        if key in fields:
            value = _joined(key, fields[key], value)
        if key:
            fields[key] = value
    return fields


@remembered(1024, longest=128)
def _read_field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    key = _environ_key(name)
    value = value.strip(" \t")
    if not colon or (key == "HTTP_HOST" and not _HOST.fullmatch(value)):
        raise Problem("invalid-request")
    return key, value


@remembered(1024)
def _environ_key(name: str) -> str:
    """Return a field's key in the environ, "" for a name with `_`: there `X_Name` would replace `X-Name`."""
    if not _FIELD_NAME.fullmatch(name):
        raise Problem("invalid-request")
    return "" if "_" in name else environ_key(name)


def _joined(key: str, known: str, value: str) -> str:
    if key in ("HTTP_HOST", "CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"):
        raise Problem("invalid-request")
    # RFC 6265 section 5.4, RFC 9113 section 8.2.3: a cookie field's own delimiter is the semicolon.
    return known + ("; " if key == "HTTP_COOKIE" else ", ") + value


def base_environ(server: Any, client: Any) -> Environ:
    """Return what is alike in the environ of every request of a connection between these addresses."""
    if not isinstance(server, tuple):  # a Unix socket's are paths, mostly empty
        server, client = ("localhost", 80), ("unix", "")
    return {
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "SCRIPT_NAME": "",
        "wsgi.url_scheme": "http",
        "wsgi.version": (1, 0),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
