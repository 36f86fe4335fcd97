"""Answers that are always the same: what operators look at, and what needs no token as it tells nothing."""

from __future__ import annotations

from collections.abc import Iterable

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
        start_response(status, list(head))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return answer
