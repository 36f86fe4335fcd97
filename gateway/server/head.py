"""Heads of requests as the bundled server reads them: strictly, byte-faithfully, at a cost linear in their bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from threading import Lock
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.http.cache import bounded_cache
from gateway.http.grammar import TOKEN_CHARS, environ_key, has_control
from gateway.http.problems import Problem

MAX_HEAD: Final = 262_144  # bytes; a token far too long is still refused as a token
MAX_FIELDS: Final = 1000
# Bytes of an unfinished head that every connection may keep; and, beyond these, all connections of a process together:
# 10,000 connections of endless heads hold at most 157 + 64 MiB.
OWN_BYTES, COMMON_BYTES = 16_384, 67_108_864

_WHITE: Final = b" \t\n\r\v\f"
# Before a head, empty lines are ignored, and no other white space (RFC 9112 section 2.2); the last may be half there.
_BEGINNING = re.compile(rb"((?>(?:\r\n)*))(?:\r?\Z|\S)")
_REQUEST_LINE: Final = re.compile(rf"([{TOKEN_CHARS}]+) ([^\x00-\x08\x0a-\x20\x7f]+) HTTP/1\.([01])")
_END: Final = b"\r\n\r\n"
_QUESTION_MARK: Final = ord("?")
_FIELD_NAME: Final = re.compile(rf"[{TOKEN_CHARS}]{{1,256}}")
_HOST: Final = re.compile(r"[^\s/?#@\\,<>\"]*")
_ABSOLUTE_FORM = re.compile(r"\A[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_CHANGING: Final = frozenset(("HTTP_COOKIE", "HTTP_X_REQUEST_ID", "HTTP_TRACEPARENT"))
LONGEST_BLOCK: Final = 512  # bytes of fields that are kept as a whole
_ONCE = frozenset(("HTTP_HOST", "CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"))


class Room:
    """How many bytes the long, unfinished heads of all connections of a process may take together."""

    def __init__(self, size: int = COMMON_BYTES) -> None:
        self._left = size
        self._lock = Lock()

    def take(self, count: int) -> bool:
        """Take so many bytes (negative: give them back); return whether there are that many."""
        with self._lock:
            fits = count <= self._left
            self._left -= count if fits else 0
        return fits


class HeadReader:
    """Puts one head after another together from what comes."""

    __slots__ = ("_checked", "_common", "_room", "_text")

    def __init__(self, room: Room) -> None:
        self._text = bytearray()  # a head that is not whole yet
        self._checked = 0  # up to where no bare CR or LF and no control stands
        self._room = room
        self._common = 0  # bytes taken of the room

    def feed(self, data: bytes) -> tuple[bytes | None, int]:
        """Return a head without its last line's end, None where it is not whole, and how many of `data` were used.

        Raises `Problem` fields-too-large, invalid-request for what will never be a head, and overloaded where too many
        clients keep heads half sent.
        """
        if len(self._text) > 1:
            return self._go_on(data)
        if self._text:  # it may be the first half of an empty line before the head
            first = bytes(self._text)
            self._text.clear()
            head, used = self.feed(first + data)
            return head, used - 1
        start = 0
        if data[0] in _WHITE:
            beginning = _BEGINNING.match(data)
            if not beginning:
                raise Problem("invalid-request")
            start = beginning.end(1)
        end = data.find(_END, start)
        if end >= 0 and end - start < MAX_HEAD:
            return data[start:end], end + len(_END)
        return self._go_on(data[start:], start)

    def clear(self) -> None:
        """Forget a head that is not whole."""
        self._text = bytearray()
        self._checked = 0
        if self._common:
            self._room.take(-self._common)
            self._common = 0

    def _go_on(self, data: bytes, skipped: int = 0) -> tuple[bytes | None, int]:
        text, known = self._text, len(self._text)
        text += data
        end = text.find(_END, max(known - len(_END) + 1, 0))
        if (len(text) if end < 0 else end) >= MAX_HEAD:
            raise Problem("fields-too-large")
        if end >= 0:
            head = bytes(text[:end])
            self.clear()
            return head, skipped + end + len(_END) - known
        self._check()
        return None, skipped + len(data)

    def _check(self) -> None:
        # A CR may be the first half of a line's end.
        new = bytes(self._text[self._checked :]).removesuffix(b"\r")
        if has_control(new.replace(b"\r\n", b"")):
            raise Problem("invalid-request")  # a head of bare LFs would otherwise never end
        self._checked += len(new)
        more = len(self._text) - OWN_BYTES - self._common
        if more > 0:
            if not self._room.take(more):
                raise Problem("overloaded")
            self._common += more


def read_head(head: bytes) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return what the request line and the fields say, by environ key. Raises `Problem`."""
    line, _, fields = head.partition(b"\r\n")
    # `b"?" in line` would make and drop an exception each time: `in` tries whether it is a number first.
    # To look a long block up means to hash it, and it is seldom found.
    read_fields = _known_fields if len(fields) <= LONGEST_BLOCK else _read_fields
    return _read_line(line) if _QUESTION_MARK in line else _read_plain_line(line), read_fields(fields)


def _read_line(line: bytes) -> dict[str, str]:
    """Return what a request line says (RFC 9112 section 3)."""
    start = _REQUEST_LINE.fullmatch(line.decode("latin-1"))
    if not start:
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


# A line with a query seldom comes twice: to keep those as well made a browser's requests 5 % dearer.
_read_plain_line = bounded_cache(1024, longest=256)(_read_line)


def _read_fields(block: bytes) -> dict[str, str]:
    """Return the fields by environ key, repeats joined (RFC 9110 section 5.3)."""
    lines = block.decode("latin-1").split("\r\n") if block else []
    if len(lines) >= MAX_FIELDS:
        raise Problem("fields-too-large")
    fields = dict(map(read_field, lines))
    return fields if len(fields) == len(lines) and "" not in fields else _join_repeated(lines)


_known_fields = bounded_cache(1024, longest=LONGEST_BLOCK)(_read_fields)


def _join_repeated(lines: list[str]) -> dict[str, str]:
    values: dict[str, list[str]] = {}
    for key, value in map(read_field, lines):
        if key in values and key in _ONCE:
            raise Problem("invalid-request")
        if key:
            values.setdefault(key, []).append(value)
    # RFC 6265 section 5.4, RFC 9113 section 8.2.3: a cookie field's own delimiter is the semicolon.
    return {key: ("; " if key == "HTTP_COOKIE" else ", ").join(values[key]) for key in values}


# Lines that differ in nearly every request are not kept: they would use up the processor's caches.
@bounded_cache(1024, longest=128, keeps=lambda field: field[0] not in _CHANGING)
def read_field(line: str) -> tuple[str, str]:
    """Return a field's key in the environ, "" for one to be ignored, and its value. Raises `Problem`."""
    name, colon, value = line.partition(":")
    key = _key_of(name)
    value = value.strip(" \t")
    if not colon or (key == "HTTP_HOST" and not _HOST.fullmatch(value)) or has_control(line.encode("latin-1")):
        raise Problem("invalid-request")
    return key, value


@bounded_cache(1024)
def _key_of(name: str) -> str:
    """Return a field's key in the environ, "" for a name with `_`: there `X_Name` would replace `X-Name`."""
    if not _FIELD_NAME.fullmatch(name):
        raise Problem("invalid-request")
    return "" if "_" in name else environ_key(name)
