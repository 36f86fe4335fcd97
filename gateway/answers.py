"""Answers of the gateway's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gateway.problems import Problem
from gateway.target import Environ

StartResponse = Callable[..., Any]


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
