"""Answers of the gateway's own."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.http.problems import Problem
from gateway.http.wsgi import App, Environ, Fields, StartResponse, context


def refuse(problem: Problem, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with a refusal, and leave in the context what the log is to say of it."""
    about = context(environ)
    about.refusal, about.refusal_detail, about.refusal_log = problem.code, problem.detail, problem.log
    status, fields, body = problem.response(about.resource_metadata)
    return respond(environ, start_response, status, fields, body)


def respond(
    environ: Environ, start_response: StartResponse, status: str, fields: Fields, body: bytes
) -> Iterable[bytes]:
    """Answer with a body of the gateway's own, which nothing may store; HEAD gets the fields alone."""
    start_response(status, [*fields, ("Content-Length", str(len(body))), ("Cache-Control", "no-store")])
    return [body] if body and environ["REQUEST_METHOD"] != "HEAD" else []


def page(body: bytes, media_type: str, *fields: tuple[str, str], status: str = "200 OK") -> App:
    """Return a resource that always answers the same, which may be read and not changed; nothing may store it."""

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return refuse(Problem("method-not-allowed", fields=[("Allow", "GET, HEAD")]), environ, start_response)
        head = [("Content-Type", media_type), ("X-Content-Type-Options", "nosniff"), *fields]
        return respond(environ, start_response, status, head, body)

    return answer
