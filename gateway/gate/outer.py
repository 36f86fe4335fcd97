"""The request that an outer proxy asks about at `/-/auth`, as that proxy tells it."""

from __future__ import annotations

import re

from gateway.http.target import DECISION
from gateway.http.wsgi import Environ

# Traefik and Caddy send the first of each; nginx configurations commonly the second.
_URIS = ("HTTP_X_FORWARDED_URI", "HTTP_X_ORIGINAL_URI")
_METHODS = ("HTTP_X_FORWARDED_METHOD", "HTTP_X_ORIGINAL_METHOD")
# Where a server joined two lines of one field.
_JOINED = re.compile(r",\s*(?=/)")
_JOINED_URLS = re.compile(r",\s*(?=https?://)", re.IGNORECASE)
_URL = re.compile(r"https?://[^/?#,\s]+(?=/)(.*)", re.IGNORECASE | re.DOTALL)  # ingress-nginx: scheme, host and target


def asked_about(environ: Environ, path: str) -> tuple[str, str]:
    """Return method and path of the request that is asked about, both empty where that is in doubt.

    A field that the outer proxy did not overwrite is the client's word (CVE-2026-40575). So all
    that is said must agree; then a client can at most contradict the proxy, and opens nothing.
    """
    uris = [environ.get(key, "") for key in _URIS] + [path.removeprefix(DECISION)]
    paths = {part.partition("?")[0] for uri in uris if uri for part in _JOINED.split(uri)}
    for url in filter(None, _JOINED_URLS.split(environ.get("HTTP_X_ORIGINAL_URL", ""))):
        found = _URL.fullmatch(url)
        paths.add(found[1].partition("?")[0] if found else "")
    methods = {environ[key] for key in _METHODS if environ.get(key)} or {environ["REQUEST_METHOD"]}
    return (methods.pop(), paths.pop()) if len(methods) == len(paths) == 1 else ("", "")
