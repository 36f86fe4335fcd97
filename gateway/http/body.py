"""A request's body, taken as it comes: without holding a thread on the bundled server; any other is waited for."""

from __future__ import annotations

from collections.abc import Generator

from gateway.http.grammar import read_length
from gateway.http.problems import Problem
from gateway.http.wsgi import Environ, context

JSON, FORM = "application/json", "application/x-www-form-urlencoded"
WAIT_SECONDS = 60.0  # the longest pause; the server ends it as soon as more of the body has come


def body_length(environ: Environ) -> int | None:
    """Return the length of the request's body in bytes, None where there is no body, -1 where its end alone shows it.

    Raises `Problem` invalid-request for a length that is no number, and for a body whose end the server does not mark.
    """
    if environ.get("HTTP_TRANSFER_ENCODING"):
        if not environ.get("wsgi.input_terminated"):
            # Taken for no body, it would mean something else.
            raise Problem("invalid-request", "The body's end is not known.")
        return -1
    length = environ.get("CONTENT_LENGTH") or None
    if length is None:
        return None
    number = read_length(length)
    if number is None:
        raise Problem("invalid-request", "Content-Length is not a number.")
    return number


def media_type(environ: Environ) -> str:
    """Return the body's media type without parameters, in lower case."""
    return str(environ.get("CONTENT_TYPE", "")).partition(";")[0].strip().lower()


def take_body(environ: Environ, limit: int) -> bytes | None:
    """Return what has come of the body, at most `limit` bytes: b"" at its end, None where nothing has come yet.

    After None, call the context's `pause` with `body=True`. Only the bundled server says None; any other is waited for.
    Raises ClientDisconnected, and `Problem` invalid-request for bad chunks, a body that ends early and a bad length.
    """
    stream = environ["wsgi.input"]
    if hasattr(stream, "take"):
        data: bytes | None = stream.take(limit)
        return data
    about = context(environ)
    left = about.body_left
    if left is None:
        length = body_length(environ)
        # A server that undid the chunks need not say that there were any.
        left = length if length is not None else -1 if environ.get("wsgi.input_terminated") else 0
    data = stream.read(limit if left < 0 else min(left, limit)) if left else b""
    if left > 0 and not data:
        raise Problem("invalid-request", "The body ended early.")  # what is left of `sub=1001` may be `sub=10`
    about.body_left = left - len(data) if left > 0 else left
    return data


def read_whole(environ: Environ, limit: int) -> Generator[bytes, None, bytes]:
    """Return the whole body, to be called with `yield from`: it yields b"" as often as it has to pause.

    Raises `Problem` payload-too-large for more than `limit` bytes, at once if announced; and as `take_body`.
    """
    parts: list[bytes] = []
    size = body_length(environ) or 0
    if size <= limit:
        size = 0
        while size <= limit and (part := take_body(environ, limit + 1 - size)) != b"":
            if part is None:
                await_body(environ)
                yield b""
            else:
                parts.append(part)
                size += len(part)
    if size > limit:
        raise Problem("payload-too-large", f"The body may have at most {limit} bytes.")
    return b"".join(parts)


def abandon_body(environ: Environ) -> None:
    """Say that the request's body may never come: the bundled server takes nothing after it for another request."""
    if abandon := getattr(environ["wsgi.input"], "abandon", None):
        abandon()


def await_body(environ: Environ) -> None:
    """Have the server ask again when more of the body has come: for a stage that then yields b""."""
    pause = context(environ).pause
    if pause is None:
        raise RuntimeError("a server that says that a body is still to come can wait for it")
    pause(WAIT_SECONDS, body=True)
