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

    def __init__(self, line: Mapping[str, str], fields: Mapping[str, str], *, problem: Problem | None = None) -> None:
        self.line = line
        self.fields = fields
        self.problem = problem
        self.framing: Framing | None = None  # None: no body
        self.is_head = self.is_http_1_0 = self.expects_continue = False
        self.closes = False  # whether the connection ends with it

    @classmethod
    def read(cls, head: bytes) -> Request:
        """Return the request whose head this is (RFC 9112 sections 2.2 to 6), or one with a problem."""
        try:
            request = cls(*read_head(head))
            request._read()
        except Problem as problem:
            return cls.bad(problem)
        return request

    @classmethod
    def bad(cls, problem: Problem) -> Request:
        """Return a request that cannot be understood: nobody knows where the next one begins."""
        request = cls(_NOTHING, _NOTHING, problem=problem)
        request.framing = Raw()
        request.closes = True
        return request

    def _read(self) -> None:
        line, fields = self.line, self.fields
        self.is_head = line["REQUEST_METHOD"] == "HEAD"
        connection = fields["HTTP_CONNECTION"].lower() if "HTTP_CONNECTION" in fields else ""
        if line["SERVER_PROTOCOL"] == "HTTP/1.0":
            self.is_http_1_0 = True
            self.closes = connection != "keep-alive"
        else:
            if "HTTP_HOST" not in fields:
                raise Problem("invalid-request")
            self.expects_continue = "HTTP_EXPECT" in fields and fields["HTTP_EXPECT"].lower() == "100-continue"
            self.closes = "close" in connection
        if "HTTP_TRANSFER_ENCODING" in fields or "CONTENT_LENGTH" in fields:
            self._frame(fields.get("HTTP_TRANSFER_ENCODING"), fields.get("CONTENT_LENGTH"))

    def _frame(self, coding: str | None, length: str | None) -> None:
        """Decide how the body is delimited; two answers are none (RFC 9112 section 6.3)."""
        if coding is not None:
            if length is not None or self.is_http_1_0:
                raise Problem("invalid-request")
            if coding.lower() != "chunked":
                raise Problem("not-implemented")
            self.framing = Chunks()
        elif length is not None:
            number = read_length(length)
            if number is None:
                raise Problem("invalid-request")
            self.framing = Length(number) if number else None

    def environ(self, connection: Environ) -> Environ:
        """Return the environ for the app: the connection's own part, and what this request says."""
        environ = connection.copy()
        environ.update(self.fields)
        environ.update(self.line)
        return environ


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
