"""The path of UPSTREAM: a prefix of every target, and a boundary that no target gets out of."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Any
from unicodedata import normalize
from urllib.parse import unquote

from gateway.http.grammar import elements
from gateway.http.problems import Problem
from gateway.http.wsgi import Context, Fields, StartResponse

_MAY_HAVE_DOTS = re.compile(r"[.%\x80-\xff]")
# Dot, slash and backslash in encodings of two to six bytes, which UTF-8 forbids and some readers decode.
_LONG = r"(?:\x{0}|\xe0\x{1}|\xf0\x80\x{1}|\xf8\x80\x80\x{1}|\xfc\x80\x80\x80\x{1})"
_DOTS = re.compile(_LONG.format("c0", "80") + r"[\xae.]")
_SLASHES = re.compile(_LONG.format("c0", "80") + r"[\xaf/]|" + _LONG.format("c1", "81") + r"[\x9c\x1c]")
_WIDE = re.compile(r"%u([0-9a-fA-F]{4})", re.IGNORECASE)  # IIS's own escapes
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_LIKE_SLASHES = re.compile(r"[\\\u2044\u2215\u2216]")  # Windows' own, and what it takes for slashes
# Parameters are no part of a name for Java's servers, nor is what follows a NUL.
_DOT_SEGMENT = re.compile(r"(?:^|/){0}\.{0}(?:\.{0})?(?:[/;?#\x00]|\Z)".format(r"[\x01-\x20\x7f]*"))
MOST_DECODINGS = 4

# Some frameworks take the path to serve from these (CVE-2018-14773).
_OTHER_PATHS = ("X-Original-Url", "X-Original-Uri", "X-Rewrite-Url", "X-Script-Name")

_URI = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://([^/?#\\]*))?(.*)", re.DOTALL)  # RFC 3986 appendix B
_COOKIE_PATH = re.compile(r"(;[ \t]*path[ \t]*=[ \t]*)([^;]*)", re.IGNORECASE)
_LINK = re.compile(r"(<)([^<>]*)")
# As browsers read it: a comma will do, and `url=` may be left out (HTML, "shared declarative refresh steps").
_REFRESH = re.compile(r"([;,][ \t]*(?:url[ \t]*=)?[ \t]*[\"']?)([^\"']*)", re.IGNORECASE)
_DEFAULT_PORT = re.compile(r":(80|443)?\Z")


class Prefix:
    """Puts `path` before targets, and takes it away from where the upstream's answers lead."""

    def __init__(self, authority: str, path: str) -> None:
        self.path = path.rstrip("/")
        self._authority = _host(authority)

    def extend(self, target: str) -> str:
        """Return the target behind the prefix. Raises `Problem` bad-request-target for one that may lead out of it."""
        if target == "*":
            return target
        if has_dot_segments(target.partition("?")[0]):
            raise Problem("bad-request-target", "The path has a dot segment.")
        return self.path + target

    def apply(self, fields: dict[str, str], about: Context, start_response: StartResponse) -> StartResponse:
        """Put the prefix into the request's fields, and return a start_response that takes it out of the answer's.

        Interim answers are taken care of, too. Raises `Problem` as `extend`.
        """
        for name in _OTHER_PATHS:
            fields.pop(name, None)
        if "Destination" in fields:  # RFC 4918 section 10.3: another target
            scheme, authority, path = _parts(fields["Destination"])
            own = f"{scheme}://{authority}" if scheme else ""
            fields["Destination"] = own + self.extend(path if path[:1] == "/" else "/" + path)
        hosts = {_host(host) for name in ("Host", "X-Forwarded-Host") for host in elements(fields.get(name, ""))}
        if about.interim:
            about.interim = partial(self._start, about.interim, hosts)
        return partial(self._start, start_response, hosts)

    def _start(
        self, start: StartResponse, hosts: set[str], status: str, fields: Fields, *rest: Any
    ) -> Any:  # what start_response returns
        return start(status, self.strip(fields, hosts), *rest)

    def strip(self, fields: Iterable[tuple[str, str]], hosts: set[str]) -> Fields:
        """Return an answer's fields with addresses and cookies' Path as the client, who knows no prefix, needs them.

        `hosts` are the names by which the upstream was called.
        """
        return [(name, self._strip(name.lower(), value, hosts)) for name, value in fields]

    def _strip(self, name: str, value: str, hosts: set[str]) -> str:
        if name in ("location", "content-location"):
            return self._location(value, hosts)
        if name == "set-cookie":
            return _COOKIE_PATH.sub(lambda match: match[1] + self._cookie_path(match[2].strip()), value)
        found = {"link": _LINK, "refresh": _REFRESH}.get(name)
        return found.sub(lambda match: match[1] + self._location(match[2], hosts), value) if found else value

    def _location(self, value: str, hosts: set[str]) -> str:
        scheme, authority, path = _parts(value)
        if not self._has(path) or (scheme and not authority):
            return value
        if not authority or _host(authority) == self._authority:
            return self._without(path)  # relative: it holds under every name of ours
        return value.removesuffix(path) + self._without(path) if _host(authority) in hosts else value

    def _cookie_path(self, path: str) -> str:
        # A path above the prefix covers all that the client sees.
        is_above = path[:1] == "/" and (self.path + "/").startswith(path.rstrip("/") + "/")
        return "/" if is_above else self._without(path) if self._has(path) else path

    def _has(self, path: str) -> bool:
        return path == self.path or path.startswith((self.path + "/", self.path + "?", self.path + "#"))

    def _without(self, path: str) -> str:
        # Two slashes would name a host; browsers take backslashes for slashes, and leave out tabs.
        return "/" + path[len(self.path) :].lstrip("/\\\t")


def _parts(uri: str) -> tuple[str, str, str]:
    """Return scheme, authority and the rest, "" for what is not there."""
    found = _URI.fullmatch(uri)
    return (found[1] or "", found[2] or "", found[3]) if found else ("", "", uri)


def _host(authority: str) -> str:
    return _DEFAULT_PORT.sub("", authority.lower())


def has_dot_segments(path: str) -> bool:
    """Return whether any reader may find a segment `.` or `..` in a path, however often it decodes it."""
    if not _MAY_HAVE_DOTS.search(path):
        return False
    for _ in range(MOST_DECODINGS):
        if _DOT_SEGMENT.search(_flat(path)):
            return True
        decoded = unquote(path, "latin-1")
        if decoded == path:
            return False
        path = decoded
    return True  # whoever encodes a path so often hides something


def _flat(path: str) -> str:
    """Return a path, Latin-1 text of its bytes, with a dot and a slash for all that somebody takes for one."""
    flat = _SLASHES.sub("/", _DOTS.sub(".", path))
    text = flat.encode("latin-1").decode("utf-8", "replace")
    text = _WIDE.sub(lambda match: chr(int(match[1], 16)), text)
    # One by one: to put a long run of accents in order takes time by the square of its length.
    return _LIKE_SLASHES.sub("/", _NOT_ASCII.sub(lambda match: normalize("NFKC", match[0]), text))
