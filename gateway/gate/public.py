"""Which requests need no token: public paths and CORS preflights."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from io import BytesIO

from gateway.gate.outer import asked_about
from gateway.http.target import is_decision, is_own
from gateway.http.wsgi import Environ

# A prefix is matched on the very bytes that are sent on. An upstream may still resolve dot
# segments, backslashes, encoded or doubled slashes, or path parameters to another path
# (CVE-2025-66490, CVE-2026-33494), so a path with any of them needs a token.
_PLAIN = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9_.~!$&'()*+,=:@-]+)*/?", re.ASCII)

# Servers join two Authorization fields with a comma, and an upstream may look at either. Some look for `Bearer` in the
# middle (Laravel), end it at blanks that HTTP does not know (U+00A0: Flask, Express), or do without.
_BEARER = re.compile(r"bearer[^!-~]", re.IGNORECASE)
_ALONE = re.compile(r"(?:^|,)[^!-~]*(?:bearer|[\w-]+\.[\w-]+\.[\w-]+)[^!-~]*(?:,|$)", re.IGNORECASE | re.ASCII)

# Nobody is authorized for another path than this one: an upstream must not take one from a field (CVE-2018-14773), in
# whose name some fold any punctuation; nor do these methods of WebDAV, whose second path is in `Destination`.
_ANOTHER_PATH = re.compile(
    r"HTTP_(X[^A-Z0-9](ORIGINAL|REWRITE)[^A-Z0-9].*|(X[^A-Z0-9])?SCRIPT[^A-Z0-9]NAME|DESTINATION)"
).fullmatch
_is_of_two_paths = re.compile(r"\b(COPY|MOVE)\b", re.IGNORECASE).search
# Fields by which servers and middlewares around an app in this process let a client say where it is mounted: gunicorn
# by default takes the first from whoever connects from its own machine.
_MOUNTS = ("HTTP_SCRIPT_NAME", "HTTP_X_SCRIPT_NAME")
# werkzeug's ProxyFix puts it before the path. It counts only where the target is made of both, and not given raw.
_PREFIX = "HTTP_X_FORWARDED_PREFIX"
# And of a preflight, nothing that makes a request of another kind of it, or carries anything.
_NOT_OF_A_PREFLIGHT = re.compile(
    r"HTTP_(COOKIE2?|AUTHORIZATION|TRANSFER_ENCODING|EXPECT|UPGRADE|DESTINATION|CONTENT_.*"
    r"|(?!ACCESS_CONTROL_).*(METHOD|OVERRIDE|ORIGINAL|REWRITE).*)|CONTENT_(TYPE|LENGTH)"
).fullmatch


class Public:
    """What needs no token: exact paths, prefixes written with `/*` at the end, and, if wanted, CORS preflights.

    The gateway's own routes are never public. `trusts_outer` lets an outer proxy say at
    `/-/auth` which request it asks about.
    """

    def __init__(self, paths: Sequence[str], *, pass_preflight: bool, trusts_outer: bool) -> None:
        self._exact, self._prefixes = split_paths(paths)
        self._pass_preflight = pass_preflight
        self._is_any = bool(paths) or pass_preflight
        self._trusts_outer = trusts_outer

    def admits(self, environ: Environ, path: str) -> bool:
        """Return whether the request may pass without a token. A Bearer token is checked wherever one is sent.

        A preflight that passes is made one: without a body, cookies, and what would make another request of it.
        """
        if not self._is_any:
            return False
        credentials = environ.get("HTTP_AUTHORIZATION")
        if credentials is not None and (not credentials or _BEARER.search(credentials) or _ALONE.search(credentials)):
            return False
        method = environ["REQUEST_METHOD"]
        is_asked = is_decision(path)
        if self._trusts_outer and is_asked:
            method, path = asked_about(environ, path)
        if is_own(path):
            return False
        if self._has(path) and not _is_of_two_paths(method) and (is_asked or not _is_moved(environ)):
            if not is_asked:
                _drop(environ, _ANOTHER_PATH)
            return True
        if credentials or not self._pass_preflight or not is_preflight(method, environ):
            return False
        if not is_asked:
            _drop(environ, _NOT_OF_A_PREFLIGHT)
            environ["wsgi.input"] = BytesIO()
        return True

    def _has(self, path: str) -> bool:
        return path in self._exact or (path.startswith(self._prefixes) and _PLAIN.fullmatch(path) is not None)


def split_paths(paths: Sequence[str]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the exact paths, and the prefixes of those that end in `/*`."""
    exact = frozenset(path for path in paths if not path.endswith("/*"))
    return exact, tuple(path[:-1] for path in paths if path.endswith("/*"))


def is_preflight(method: str, environ: Environ) -> bool:
    """Return whether the request is a CORS preflight, which browsers send without credentials (Fetch, 4.8)."""
    said = environ.get("HTTP_ORIGIN") and environ.get("HTTP_ACCESS_CONTROL_REQUEST_METHOD")
    return method == "OPTIONS" and bool(said)


def _is_moved(environ: Environ) -> bool:
    """Return whether a client's field may have made the path's beginning, so that the app sees another path."""
    has_raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    fields = _MOUNTS if has_raw else (*_MOUNTS, _PREFIX)
    return bool(environ.get("SCRIPT_NAME")) and any(key in environ for key in fields)


def _drop(environ: Environ, is_dropped: Callable[[str], object]) -> None:
    for key in [key for key in environ if is_dropped(key)]:
        del environ[key]
