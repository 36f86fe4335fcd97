"""/.well-known/oauth-protected-resource: OAuth 2.0 Protected Resource Metadata (RFC 9728)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from gateway.http.answers import refuse, respond
from gateway.http.problems import Problem
from gateway.http.wsgi import App, Environ, StartResponse

WELL_KNOWN = "/.well-known/oauth-protected-resource"


def metadata_url(resource: str) -> str:
    """Return where the metadata of a resource is (RFC 9728 section 3.1): the well-known path before its own."""
    parts = urlsplit(resource)
    return parts._replace(path=WELL_KNOWN + parts.path.rstrip("/")).geturl()


def metadata_pages(resource: str, issuers: Sequence[str]) -> dict[str, App]:
    """Return the resource's metadata by path: its own, and, for clients that look there, the one without a path."""
    members = {
        "resource": resource,
        "authorization_servers": list(issuers),
        "bearer_methods_supported": ["header"],
    }
    body = json.dumps(members).encode()

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return refuse(Problem("method-not-allowed", fields=[("Allow", "GET, HEAD")]), environ, start_response)
        fields = [("Content-Type", "application/json"), ("Access-Control-Allow-Origin", "*")]
        return respond(environ, start_response, "200 OK", fields, body)

    return {WELL_KNOWN: answer, urlsplit(metadata_url(resource)).path: answer}
