"""One request: what its head says, how its body is delimited, and the environ that the app gets."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.http.grammar import read_length
from gateway.http.problems import Problem
from gateway.http.wsgi import Environ
from gateway.server.chunks import Chunks, Framing, Length, Raw
from gateway.server.head import read_head

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Request:
    """A request whose head is whole. What its line and fields say is by environ key; what is wrong, in `problem`."""

    __slots__ = ("closes", "expects_continue", "fields", "framing", "is_head", "is_http_1_0", "line", "problem")

    def __init__(
        self, line: Mapping[str, str] = _NOTHING, fields: Mapping[str, str] = _NOTHING, problem: Problem | None = None
    ) -> None:
        self.line = line
        self.fields = fields
        self.problem = problem
        # After what cannot be understood nobody knows where the next request begins.
        self.framing: Framing | None = Raw() if problem else None  # None: no body
        self.closes = problem is not None  # whether the connection ends with it
        self.is_head = self.is_http_1_0 = self.expects_continue = False


def read_request(head: bytes) -> Request:
    """Return the request whose head this is (RFC 9112 sections 2.2 to 6), or one with a problem."""
    try:
        line, fields = read_head(head)
        request = Request(line, fields)
        request.is_head = line["REQUEST_METHOD"] == "HEAD"
        connection = fields["HTTP_CONNECTION"].lower() if "HTTP_CONNECTION" in fields else ""
        if line["SERVER_PROTOCOL"] == "HTTP/1.0":
            request.is_http_1_0 = True
            request.closes = connection != "keep-alive"
        else:
            if "HTTP_HOST" not in fields:
                raise Problem("invalid-request")
            request.expects_continue = "HTTP_EXPECT" in fields and fields["HTTP_EXPECT"].lower() == "100-continue"
            request.closes = "close" in connection
        if "HTTP_TRANSFER_ENCODING" in fields or "CONTENT_LENGTH" in fields:
            request.framing = _framing(fields, request.is_http_1_0)
    except Problem as problem:
        return Request(problem=problem)
    return request


def _framing(fields: Mapping[str, str], is_http_1_0: bool) -> Framing | None:
    """Return how the body is delimited, None where there is none; two answers are none (RFC 9112 section 6.3)."""
    coding, length = fields.get("HTTP_TRANSFER_ENCODING"), fields.get("CONTENT_LENGTH")
    if coding is None:
        number = read_length(length or "")
        if number is None:
            raise Problem("invalid-request")
        return Length(number) if number else None
    if length is not None or is_http_1_0:
        raise Problem("invalid-request")
    if coding.lower() != "chunked":
        raise Problem("not-implemented")
    return Chunks()


def base_environ(server: Any, client: Any) -> Environ:
    """Return what is alike in the environ of every request of a connection between these addresses."""
    if not isinstance(server, tuple):  # a Unix socket's are paths, mostly empty
        server, client = ("localhost", 80), ("unix", "")
    return {
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "SCRIPT_NAME": "",
        "wsgi.url_scheme": "http",
        "wsgi.version": (1, 0),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
