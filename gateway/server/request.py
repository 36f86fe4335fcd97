"""Requests as the bundled server takes them: waitress's parser, with heads read strictly and byte-faithfully.

waitress receives heads and bodies, long bodies into files. Its own reading of a head refuses methods in
lower case, joins Cookie fields with a comma, unfolds obsolete line folding, waits for ever for a head
of bare line feeds, and accepts a request line without a version.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from io import RawIOBase
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote_to_bytes

from waitress.buffers import OverflowableBuffer
from waitress.parser import HTTPRequestParser
from waitress.receiver import ChunkedReceiver, FixedStreamReceiver

from gateway.memory import remembered
from gateway.problems import Problem

Environ = dict[str, Any]

LIMITS = SimpleNamespace(
    max_request_header_size=262_144,  # bytes; a token far too long is still refused as a token
    max_request_body_size=2**62,  # the upstream's to limit
    inbuf_overflow=524_288,  # bytes of a body in memory; beyond, it goes to a file
)
MAX_FIELDS = 1000  # joining repeats is quadratic
MAX_CHUNK_LINE = 65_536  # bytes of a chunk's extensions, or of the trailers
CHUNKED_PIECE = 8192  # bytes given to waitress's reader of chunks at a time: its cost is quadratic in them

# What one server takes for a line's end or a string's end and another does not (RFC 9110 section 5.5).
_CONTROLS = bytes(code for code in range(32) if code != 9) + b"\x7f"
# Of what is white before a head, empty lines alone are ignored (RFC 9112 section 2.2); the last may be half there.
_BEGINNING = re.compile(rb"(?:\r\n)*(?:\r?\Z|\S)")
_REQUEST_LINE = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([^ ]+) HTTP/1\.([01])")
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_HOST = re.compile(r"[^\s/?#@\\,<>\"]*")
_LENGTH = re.compile(r"[0-9]{1,18}")
_ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")

_CODES = {413: "payload-too-large", 431: "fields-too-large", 501: "not-implemented"}


class ClientDisconnected(Exception):
    """The client has left, or stopped reading: nothing can be sent to it, nor the rest of its body be had."""


class Request(HTTPRequestParser):  # type: ignore[misc]  # waitress ships no types
    """One request: its head checked strictly, its body received by waitress."""

    body_rcv: Any  # waitress's receiver of the body, None without a body
    chunked: bool
    command = ""
    problem: Problem | None = None
    asked = False  # whether the application has been asked to refuse early
    unread = False  # whether the client may still be sending what nobody will read

    def __init__(self) -> None:
        super().__init__(LIMITS)

    def received(self, data: bytes) -> int:
        """Take what belongs to this request, and return how many bytes that was."""
        is_blank = self.body_rcv is None and (self.header_plus or data)[:1].isspace()
        if is_blank and not _BEGINNING.match(self.header_plus + data):
            self.refuse(Problem("invalid-request"))  # waitress would strip it, if the whole head came at once
            return len(data)
        consumed: int = super().received(data[:CHUNKED_PIECE] if self.chunked else data)
        if self.chunked and _line_bytes(self.body_rcv) > MAX_CHUNK_LINE:
            self.refuse(Problem("invalid-request"))
        if self.error is not None:
            self.refuse(Problem(_CODES.get(self.error.code, "invalid-request")))
        elif not self.headers_finished and _has_control(self.header_plus.removesuffix(b"\r")):
            self.refuse(Problem("invalid-request"))  # a head of bare LFs would otherwise never end
        return consumed

    def refuse(self, problem: Problem) -> None:
        """End the request with a refusal of the server's own."""
        self.problem = problem
        self.give_up_body()

    def give_up_body(self) -> None:
        """End the request without (the rest of) its body; the connection cannot be used after it."""
        self.close()
        self.body_rcv = None
        self.completed = self.unread = self.connection_close = True

    def parse_header(self, header_plus: bytes) -> None:
        """Read a head (RFC 9112 sections 2.2 to 6); what is wrong with it is left in `problem`."""
        try:
            self._parse(header_plus.removesuffix(b"\r\n").removesuffix(b"\r\n"))  # no more: CR CR LF is no line end
        except Problem as problem:
            self.refuse(problem)

    def _parse(self, head: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        start = _REQUEST_LINE.fullmatch(lines[0])
        if not start or _has_control(head):
            raise Problem("invalid-request")
        if len(lines) > MAX_FIELDS:
            raise Problem("fields-too-large")
        self.command, self.request_uri, minor = start.groups()
        self.version = "1." + minor
        self.fields = fields = _read_fields(lines[1:])
        connection = fields.get("HTTP_CONNECTION", "").lower()
        if minor == "1":
            if "HTTP_HOST" not in fields:
                raise Problem("invalid-request")
            self.expect_continue = fields.get("HTTP_EXPECT", "").lower() == "100-continue"
            self.connection_close = "close" in connection
        else:
            self.connection_close = connection != "keep-alive"
        self._frame(fields)

    def _frame(self, fields: dict[str, str]) -> None:
        """Decide how the body is delimited; two answers are none (RFC 9112 section 6.3)."""
        coding = fields.pop("HTTP_TRANSFER_ENCODING", None)
        length = fields.get("CONTENT_LENGTH")
        if coding is not None:
            if length is not None or self.version == "1.0":
                raise Problem("invalid-request")
            if coding.lower() != "chunked":
                raise Problem("not-implemented")
            self.chunked = True
            self.body_rcv = ChunkedReceiver(OverflowableBuffer(LIMITS.inbuf_overflow))
        elif length is not None:
            if not _LENGTH.fullmatch(length):
                raise Problem("invalid-request")
            self.content_length = int(length)
            if self.content_length:
                buffer = OverflowableBuffer(LIMITS.inbuf_overflow)
                self.body_rcv = FixedStreamReceiver(self.content_length, buffer)

    def environ(self, connection: Environ) -> Environ:
        """Return the WSGI environ, given what the connection adds; REQUEST_URI is the target as sent."""
        target = self.request_uri
        if target[0] != "/":
            target = _ABSOLUTE_FORM.sub("", target, count=1) or "/"
        path, _, query = target.partition("?")
        environ = {
            **connection,
            **self.fields,
            "REQUEST_METHOD": self.command,
            "REQUEST_URI": self.request_uri,
            "PATH_INFO": unquote_to_bytes(path.encode("latin-1")).decode("latin-1") if "%" in path else path,
            "QUERY_STRING": query,
            "SERVER_PROTOCOL": "HTTP/" + self.version,
            "wsgi.input": _Unread() if self.unread else self.get_body_stream(),
        }
        if self.chunked and self.body_rcv is not None:
            environ["CONTENT_LENGTH"] = str(len(self.body_rcv))
        return environ


class _Unread(RawIOBase):
    """The body of a request that was given up: reading it is a fault, not an end of file."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        raise ClientDisconnected


def _line_bytes(chunks: ChunkedReceiver | None) -> int:
    return len(chunks.control_line) + len(chunks.trailer) if chunks is not None else 0


def _has_control(head: bytes) -> bool:
    flat = head.replace(b"\r\n", b"")
    return len(flat.translate(None, _CONTROLS)) != len(flat)


def _read_fields(lines: list[str]) -> dict[str, str]:
    """Return the fields by environ key, repeats joined (RFC 9110 section 5.3)."""
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
    if "_" in name:
        return ""
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key


def _joined(key: str, known: str, value: str) -> str:
    if key in ("HTTP_HOST", "CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"):
        raise Problem("invalid-request")
    # RFC 6265 section 5.4, RFC 9113 section 8.2.3: a cookie field's own delimiter is the semicolon.
    return known + ("; " if key == "HTTP_COOKIE" else ", ") + value


def base_environ(server: tuple[Any, ...], client: tuple[Any, ...], is_left: Callable[[], bool]) -> Environ:
    """Return what is alike in the environ of every request of a connection between these addresses."""
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
        "waitress.client_disconnected": is_left,
    }
