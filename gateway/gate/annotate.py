"""`GET /info` and its like: the request's parameters and the token's claims join the upstream's JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from gateway.gate.public import split_paths
from gateway.http.answers import refuse
from gateway.http.grammar import TOKEN_CHARS, elements
from gateway.http.problems import Problem
from gateway.http.target import request_target
from gateway.http.wsgi import App, Environ, Fields, StartResponse, call_of, close_body, context, start_lazily

LIMIT_BYTES = 1 << 20  # larger bodies pass untouched: an object has to be held as a whole

_JSON = re.compile(rf"application/([{TOKEN_CHARS}]+\+)?json\s*(;.*)?", re.IGNORECASE)
# Fields that describe the bytes before the change, or (the last ones) overrule Cache-Control for caches (RFC 9213).
_STALE = re.compile(
    "content-length|etag|last-modified|accept-ranges|content-md5|digest|repr-digest|content-digest"
    "|.+-cache-control|surrogate-control|edge-control|x-accel-expires",
    re.IGNORECASE,
).fullmatch
# With `must-understand`, a cache that understands the status ignores `no-store` (RFC 9111 section 5.2.2.3).
_SHARED = re.compile(r"(public|private|s-maxage|proxy-revalidate|immutable|must-understand)\b").match


class Annotate:
    """A WSGI middleware that adds the members `request` and `token` to JSON objects.

    `paths` are exact, or a prefix ending in `/*`. Members that the upstream has itself stay as they
    are; whatever is not a 200 with a whole, uncoded JSON object of at most 1 MiB passes untouched,
    and so does what says `no-transform`. An answer with somebody's claims is for no shared cache.
    """

    def __init__(self, app: App, paths: Sequence[str]) -> None:
        self._app = call_of(app)
        self._exact, self._prefixes = split_paths(paths)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Pass the request on, and annotate its answer where that is asked for and possible."""
        about = context(environ)
        path = (about.target or request_target(environ)).path
        if path not in self._exact and not path.startswith(self._prefixes):
            return self._app(environ, start_response)
        environ["HTTP_ACCEPT_ENCODING"] = "identity"  # what is coded cannot be read
        if environ["REQUEST_METHOD"] == "HEAD":
            return self._app(environ, _head_only(start_response))
        head: list[Any] = []  # the arguments of start_response
        pieces: list[bytes] = []

        def keep(*arguments: Any) -> Callable[[bytes], None]:
            head[:] = arguments
            return pieces.append

        claims = environ.get("gateway.claims")  # now: the app may change its own
        body = self._app(environ, keep)
        return start_lazily(about, _annotate(environ, claims, start_response, head, pieces, body))


def _head_only(start_response: StartResponse) -> StartResponse:
    """Return a start_response that names the fields GET would have, but for the length, which nobody knows."""

    def start(status: str, fields: Fields, *rest: Any) -> Any:
        return start_response(status, _fields_for(fields) if _is_json(status, fields) else fields, *rest)

    return start


def _annotate(
    environ: Environ,
    claims: dict[str, Any] | None,
    start_response: StartResponse,
    head: list[Any],
    pieces: list[bytes],
    body: Iterable[bytes],
) -> Generator[bytes, None, None]:
    rest = iter(body)
    try:
        try:
            whole = yield from _hold_back(rest, head, pieces)
        except Problem as problem:
            yield from refuse(problem, environ, start_response)
            return
        data = with_members(whole, members_of(environ, claims)) if whole is not None else None
        if data is None:
            start_response(*head)
            yield from pieces
            yield from rest
        else:
            fields = [*_fields_for(head[1]), ("Content-Length", str(len(data)))]
            start_response(head[0], fields, *head[2:])
            yield data
    finally:
        close_body(body)


def _hold_back(body: Iterator[bytes], head: list[Any], pieces: list[bytes]) -> Generator[bytes, None, bytes | None]:
    """Take pieces until the body has ended, and return it; None as soon as it is seen not to be a small JSON text."""
    size = sum(map(len, pieces))
    for piece in body:
        pieces.append(piece)
        size += len(piece)
        if size > LIMIT_BYTES or (head and not _is_json(*head[:2])):
            return None
        if not piece:
            yield piece  # the app pauses
    return b"".join(pieces) if _is_json(*head[:2]) else None


def members_of(environ: Environ, claims: dict[str, Any] | None) -> dict[str, Any]:
    """Return what is added: the request, and the claims of its token where it has one."""
    target = request_target(environ)
    request = {"method": environ["REQUEST_METHOD"], "path": target.path, "params": target.params()}
    return {"request": request} if claims is None else {"request": request, "token": claims}


def with_members(data: bytes, members: dict[str, Any]) -> bytes | None:
    """Return a JSON object's text with the members it lacks put before its last brace; None if it is no object.

    The rest stays byte for byte: reading and writing it again would change numbers and repeated names.
    """
    try:
        known = json.loads(data.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(known, dict):
        return None
    added = json.dumps({name: value for name, value in members.items() if name not in known})[1:-1]
    start, _, end = data.rpartition(b"}")
    return start + (b", " if known and added else b"") + added.encode() + b"}" + end


def _is_json(status: str, fields: Fields) -> bool:
    named = {name.lower(): value for name, value in fields}
    length = named.get("content-length", "0")
    return (
        status.startswith("200")
        and _JSON.fullmatch(named.get("content-type", "")) is not None
        and named.get("content-encoding", "identity").lower() == "identity"
        and "no-transform" not in _directives(fields)
        and length.isdigit()
        and int(length) <= LIMIT_BYTES
    )


def _fields_for(fields: Fields) -> Fields:
    kept = [(name, value) for name, value in fields if not _STALE(name) and name.lower() != "cache-control"]
    return [*kept, ("Cache-Control", _private(_directives(fields)))]


def _directives(fields: Fields) -> list[str]:
    """Return what Cache-Control says, in lower case (RFC 9111 section 5.2)."""
    return elements(", ".join(value for name, value in fields if name.lower() == "cache-control").lower())


def _private(directives: list[str]) -> str:
    """Return a Cache-Control that is at least `private`."""
    # `private="x"` would speak of the field x alone.
    kept = [directive for directive in directives if not _SHARED(directive)]
    return ", ".join(kept if "no-store" in kept else ["private", *kept])
