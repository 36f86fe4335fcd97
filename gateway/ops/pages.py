"""Answers that are always the same and tell nothing, so that they need no token; they are read, never changed."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.http.answers import refuse
from gateway.http.problems import Problem
from gateway.http.wsgi import App, Environ, StartResponse


def page(body: bytes, media_type: str, *fields: tuple[str, str], status: str = "200 OK") -> App:
    """Return a resource that answers with the body; nothing may store it."""
    head = [
        ("Content-Type", media_type),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        *fields,
    ]

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return refuse(Problem("method-not-allowed", fields=[("Allow", "GET, HEAD")]), environ, start_response)
        start_response(status, list(head))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return answer
