"""The path of UPSTREAM: a prefix of every target, and a boundary that no target gets out of."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from gateway.http.problems import Problem
from gateway.http.wsgi import Fields

_MAY_HAVE_DOTS = re.compile(r"[.%]")
# A dot or a slash in what UTF-8 forbids and some have decoded; IIS's own escapes; slashes of Windows.
_DOTS = re.compile(r"\xc0\xae|\xc0\x2e|\xe0\x80\xae|\xef\xbc\x8e|%u002e|%uff0e", re.IGNORECASE)
_SLASHES = re.compile(r"\\|\xc0\xaf|\xe0\x80\xaf|%u2215|%u2216|%u002f|%u005c", re.IGNORECASE)
_COOKIE_PATH = re.compile(r"(;[ \t]*path[ \t]*=[ \t]*)([^;]*)", re.IGNORECASE)
MOST_DECODINGS = 4


class Prefix:
    """Puts `path` before targets, and takes it away from where the upstream's answers lead."""

    def __init__(self, origin: str, path: str) -> None:
        self._origin, self._path = origin.lower(), path.rstrip("/")

    def extend(self, target: str) -> str:
        """Return the target behind the prefix. Raises `Problem` bad-request-target for one that may lead out of it."""
        if not self._path or target == "*":
            return target
        if has_dot_segments(target.partition("?")[0]):
            raise Problem("bad-request-target", "The path has a dot segment.")
        return self._path + target

    def strip(self, fields: Fields, host: str) -> Fields:
        """Return an answer's fields with Location and cookies' Path as the client, who knows no prefix, needs them."""
        if not self._path:
            return fields
        return [(name, self._stripped(name.lower(), value, host)) for name, value in fields]

    def _stripped(self, name: str, value: str, host: str) -> str:
        if name in ("location", "content-location"):
            return self._location(value, host)
        if name == "set-cookie":
            return _COOKIE_PATH.sub(lambda match: match[1] + self._without(match[2].strip()), value)
        return value

    def _location(self, value: str, host: str) -> str:
        try:
            parts = urlsplit(value)
        except ValueError:
            return value
        if not parts.netloc:
            return self._without(value) if not parts.scheme else value
        own = f"{parts.scheme}://{parts.netloc}"
        rest = value[len(own) :]
        if own.lower() == self._origin:
            return self._without(rest) if self._has(rest) else value  # relative: whatever the client calls us
        return own + self._without(rest) if parts.netloc.lower() == host.lower() else value

    def _has(self, path: str) -> bool:
        return path == self._path or path.startswith((self._path + "/", self._path + "?", self._path + "#"))

    def _without(self, path: str) -> str:
        if not self._has(path):
            return path
        rest = path[len(self._path) :]
        # Two slashes would name a host.
        return "/" + rest.lstrip("/") if rest[:1] in ("", "/") else "/" + rest


def has_dot_segments(path: str) -> bool:
    """Return whether any reader may find a segment `.` or `..` in a path, however often it decodes it."""
    if not _MAY_HAVE_DOTS.search(path):
        return False
    for _ in range(MOST_DECODINGS):
        flat = _SLASHES.sub("/", _DOTS.sub(".", path))
        # A segment's parameters (`..;x`) are no part of its name for Java's servers.
        if any(segment.partition(";")[0].strip(" \t\0") in (".", "..") for segment in flat.split("/")):
            return True
        decoded = unquote(path, "latin-1")
        if decoded == path:
            return False
        path = decoded
    return True  # who encodes this often hides something
