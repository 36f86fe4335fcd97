"""/.well-known/oauth-protected-resource: OAuth 2.0 Protected Resource Metadata (RFC 9728)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import urlsplit

from gateway.auth.keyset import TENANT
from gateway.http.answers import page
from gateway.http.wsgi import App

WELL_KNOWN = "/.well-known/oauth-protected-resource"


def metadata_url(resource: str) -> str:
    """Return where the metadata of a resource is (RFC 9728 section 3.1): the well-known path before its own."""
    parts = urlsplit(resource)
    return parts._replace(path=WELL_KNOWN + ("" if parts.path == "/" else parts.path)).geturl()


def metadata_pages(resource: str, issuers: Sequence[str]) -> dict[str, App]:
    """Return the resource's metadata by path: its own, and, where clients look, without final slash or path.

    Of an issuer with tenants nobody knows which are meant: it is left out.
    """
    own = urlsplit(metadata_url(resource)).path
    members = {
        "resource": resource,
        "authorization_servers": [name for name in issuers if TENANT not in name],
        "bearer_methods_supported": ["header"],
    }
    # Section 3.2: what has no values is left out.
    members = {name: value for name, value in members.items() if value}
    answer = page(json.dumps(members).encode(), "application/json", ("Access-Control-Allow-Origin", "*"))
    return dict.fromkeys((WELL_KNOWN, own, own.rstrip("/")), answer)
