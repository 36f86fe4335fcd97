"""Answers of the gateway's own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from itertools import chain
from typing import Any

from werkzeug.wsgi import ClosingIterator

from gateway.http.problems import Problem
from gateway.http.target import Environ

StartResponse = Callable[..., Any]

# A server that has it in the environ is called with a descriptor and seconds, then given b"", and asks for more
# when there is something to read or the time is over (C. Stawarz, Web-SIG, 2008-05-12).
READABLE = "x-wsgiorg.fdevent.readable"


def begun(environ: Environ, body: Generator[bytes, None, None]) -> Iterable[bytes]:
    """Return a body that starts its response when it is asked for its first part.

    Where the server cannot be told to wait, it is asked here: granian takes the status as soon as the app returns.
    """
    if READABLE in environ:
        return body
    first = next(body, None)
    return ClosingIterator(body if first is None else chain([first], body), body.close)


def refuse(problem: Problem, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with a refusal, and leave its code in the environ for the access log."""
    environ["gateway.refusal"] = problem.code
    status, fields, body = problem.response()
    return respond(environ, start_response, status, fields, body)


def respond(
    environ: Environ, start_response: StartResponse, status: str, fields: list[tuple[str, str]], body: bytes
) -> Iterable[bytes]:
    """Answer with a body of the gateway's own, which nothing may store; HEAD gets the fields alone."""
    start_response(status, [*fields, ("Content-Length", str(len(body))), ("Cache-Control", "no-store")])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
