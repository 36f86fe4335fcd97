"""Which requests need no token: public paths and CORS preflights."""

from __future__ import annotations

import re

from gateway.gate.outer import asked_about
from gateway.http.target import is_decision, is_own
from gateway.http.wsgi import Environ

# A prefix is matched on the very bytes that are sent on. An upstream may still resolve dot
# segments, backslashes, encoded or doubled slashes, or path parameters to another path
# (CVE-2025-66490, CVE-2026-33494), so a path with any of them needs a token.
_PLAIN = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9_.~!$&'()*+,=:@-]+)*/?", re.ASCII)


class Public:
    """What needs no token: exact paths, prefixes written with `/*` at the end, and, if wanted, CORS preflights.

    The gateway's own routes are never public. `trusts_outer` lets an outer proxy say at
    `/-/auth` which request it asks about.
    """

    def __init__(self, paths: tuple[str, ...], *, pass_preflight: bool = False, trusts_outer: bool = False) -> None:
        self._exact = frozenset(path for path in paths if not path.endswith("/*"))
        self._prefixes = tuple(path[:-1] for path in paths if path.endswith("/*"))
        self._pass_preflight = pass_preflight
        self._trusts_outer = trusts_outer

    def admits(self, environ: Environ, path: str) -> bool:
        """Tell whether the request, which has no credentials, may pass without."""
        method = environ["REQUEST_METHOD"]
        if self._trusts_outer and is_decision(path):
            method, path = asked_about(environ, path)
        if is_own(path):
            return False
        return self._has(path) or (self._pass_preflight and _is_preflight(method, environ))

    def _has(self, path: str) -> bool:
        return path in self._exact or (path.startswith(self._prefixes) and _PLAIN.fullmatch(path) is not None)


def _is_preflight(method: str, environ: Environ) -> bool:
    """Tell whether the request is a CORS preflight, which browsers send without credentials (Fetch, 4.8)."""
    return method == "OPTIONS" and "HTTP_ORIGIN" in environ and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
