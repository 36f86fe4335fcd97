"""The request that an outer proxy asks about at `/-/auth`, as that proxy tells it."""

from __future__ import annotations

import re

from gateway.http.target import DECISION
from gateway.http.wsgi import Environ

# Traefik and Caddy send the first of each; nginx configurations commonly the second.
_URIS = ("HTTP_X_FORWARDED_URI", "HTTP_X_ORIGINAL_URI")
_METHODS = ("HTTP_X_FORWARDED_METHOD", "HTTP_X_ORIGINAL_METHOD")
# Where a server may have joined two lines of one field. It may also be a comma in a path, which nobody can tell.
_JOINED = re.compile(r",\s*(?=/|https?://)", re.IGNORECASE)
_URL = re.compile(r"https?://[^/?#,\s]+(?=/)(.*)", re.IGNORECASE | re.DOTALL)  # ingress-nginx: scheme, host and target


def asked_about(environ: Environ, path: str) -> tuple[str, str]:
    """Return method and path of the request that is asked about, both empty where that is in doubt.

    A field that the outer proxy did not overwrite is the client's word (CVE-2026-40575). So all that is said must
    agree: then a client can at most contradict a proxy that says both, and that opens nothing.
    """
    appended = path.removeprefix(DECISION)
    uris = [*(environ.get(key, "") for key in _URIS), appended]
    if url := environ.get("HTTP_X_ORIGINAL_URL", ""):
        found = _URL.fullmatch(url)
        uris.append(found[1] if found else "?")
    if any(_JOINED.search(uri) for uri in uris):
        return "", ""
    paths = {uri.partition("?")[0] for uri in uris if uri}
    methods = {environ[key] for key in _METHODS if environ.get(key)}
    if appended or not methods:  # who appends the path asks by the method, as Envoy does
        methods.add(environ["REQUEST_METHOD"])
    return (methods.pop(), paths.pop()) if len(methods) == len(paths) == 1 else ("", "")
