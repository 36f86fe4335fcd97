"""One request out, one response back, streamed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from time import perf_counter
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import BaseAdapter

from gateway.answers import refuse
from gateway.problems import Problem
from gateway.proxy.adapter import MalformedAnswer, UpstreamRequest
from gateway.proxy.fields import Environ, RequestFields, check_method, response_fields
from gateway.proxy.transport import CurlAdapter, RawAnswer, default_adapter
from gateway.target import refuse_upgrade, request_target
from gateway.timing import SECONDS

CHUNK_BYTES = 65536

# Of requests' adapters before the answer's head, and of the bodies of requests' own adapter.
_FAILURES = (requests.exceptions.RequestException, urllib3.exceptions.HTTPError)
_TIMEOUTS = (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

_NUMBER = re.compile(r"[0-9]{1,18}")

StartResponse = Callable[..., Any]


class Upstream:
    """A WSGI app that sends each request on to `base_url` and streams the answer back.

    `base_url`'s path is put before the request's. `timeout` is (connect, silence) in seconds;
    `verify` is True, False or a file of CA certificates, `cert` a file with the client's certificate and key;
    `trusted_proxies` how many hops of X-Forwarded-* are believed; `own_fields` names of fields that
    stages before set, which a client's `Connection` field must not remove.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of its own
        self,
        base_url: str,
        adapter: BaseAdapter | None = None,
        *,
        timeout: tuple[float, float] = (3, 60),
        verify: bool | str = True,
        cert: str | None = None,
        preserve_host: bool = True,
        trusted_proxies: int = 0,
        forward_authorization: bool = True,
        own_fields: Iterable[str] = (),
    ) -> None:
        parts = urlsplit(base_url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._prefix = self._origin + parts.path.rstrip("/")
        self._adapter = adapter or default_adapter()
        options = {"timeout": timeout, "verify": verify, "cert": cert}
        if isinstance(self._adapter, CurlAdapter):
            self._begin: Callable[..., RawAnswer | Sent] = partial(self._adapter.begin, **options)
        else:
            send = partial(self._adapter.send, stream=True, **options)
            self._begin = lambda request: Sent(send(request))
        self._fields = RequestFields(
            parts.netloc,
            preserve_host=preserve_host,
            trusted_proxies=trusted_proxies,
            forward_authorization=forward_authorization,
            own=own_fields,
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer with the upstream's answer. Raises `Problem` before `start_response`, and `ClientLeft` at any time."""
        refuse_upgrade(environ)
        check_method(environ["REQUEST_METHOD"])
        forwards = _forwards_left(environ)
        if forwards == 0:
            return _answer_here(environ, start_response)
        request = self._request(environ, forwards)
        began = perf_counter()
        try:
            raw = self._begin(request)
        except _FAILURES as error:
            raise _problem(error) from error
        return Answer(raw, environ, start_response, began)

    def close(self) -> None:
        """Close idle connections to the upstream."""
        self._adapter.close()

    def _request(self, environ: Environ, forwards: int | None) -> UpstreamRequest:
        target = request_target(environ).raw
        fields = self._fields(environ)
        if forwards is not None:
            fields["Max-Forwards"] = str(forwards - 1)
        length = body_length(environ)
        if length is not None and length >= 0:
            fields["Content-Length"] = str(length)
        body: BinaryIO | None = environ["wsgi.input"] if length else None
        url = (self._origin if target == "*" else self._prefix) + target
        client_left = environ.get("waitress.client_disconnected")
        return UpstreamRequest(environ["REQUEST_METHOD"], url, fields, body, client_left)


class Answer:
    """The upstream's answer, begun when it is iterated over: undecoded, in pieces as they arrive.

    While there is nothing, it pauses where the server lets it (`x-wsgiorg.fdevent.readable`), else it waits.
    A failure is a refusal, but where the answer has begun: then it raises `Problem`, and the server
    must cut the client off, too. It raises `ClientLeft` at any time.
    """

    def __init__(self, raw: RawAnswer | Sent, environ: Environ, start_response: StartResponse, began: float) -> None:
        self._raw = raw
        self._environ = environ
        self._start_response = start_response
        self._began = began  # by time.perf_counter
        self._readable = environ.get("x-wsgiorg.fdevent.readable")

    def __iter__(self) -> Iterator[bytes]:
        raw = self._raw
        has_begun = False
        try:
            while not raw.take_head():
                if self._pauses():
                    yield b""
            has_begun = True
            self._start()
            while (piece := raw.take()) != b"":
                if piece or self._pauses():
                    yield piece or b""
        except (*_FAILURES, Problem) as error:
            raw.discard()
            problem = _problem(error)
            if has_begun:
                raise problem from error
        else:
            return
        yield from refuse(problem, self._environ, self._start_response)

    def _pauses(self) -> bool:
        """Have the server wait, and return true; or wait."""
        descriptor = self._raw.awaited() if self._readable else None
        if descriptor is None:
            self._raw.wait()
            return False
        self._readable(descriptor, self._raw.patience)
        return True

    def _start(self) -> None:
        raw, environ = self._raw, self._environ
        if SECONDS in environ:
            environ[SECONDS]["upstream"] = perf_counter() - self._began
        environ["gateway.upstream_status"] = raw.status
        fields = response_fields(raw.headers.items(), raw.status)
        self._start_response(f"{raw.status} {raw.reason}", fields)

    def close(self) -> None:
        """Let the upstream's connection go; an answer that is not complete is given up."""
        self._raw.close()


class Sent:
    """The answer to a request that was sent by any other adapter, in the terms of `RawAnswer`."""

    def __init__(self, response: requests.Response) -> None:
        self.status, self.reason = response.status_code, response.reason
        self.headers = response.raw.headers
        self.close = self.discard = response.raw.close
        self._raw = response.raw

    def take_head(self) -> bool:
        """It has come."""
        return True

    def take(self) -> bytes:
        """Return what has come of the body, waiting for something; b"" for the end."""
        data: bytes = self._raw.read1(CHUNK_BYTES, decode_content=False)
        return data


def _problem(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, _TIMEOUTS):
        return Problem("upstream-timeout")
    return Problem("upstream-protocol" if isinstance(error, MalformedAnswer) else "upstream-unreachable")


def body_length(environ: Environ) -> int | None:
    """Return the length of the request's body in bytes, None where there is no body, -1 where only its end will tell.

    Raises `Problem` invalid-request for a length that is no number, and for a body whose end the server does not mark.
    """
    if environ.get("HTTP_TRANSFER_ENCODING"):
        if not environ.get("wsgi.input_terminated"):
            raise Problem("invalid-request", "The body has no length.")
        return -1
    length = environ.get("CONTENT_LENGTH") or None
    if length is None:
        return None
    if not _NUMBER.fullmatch(length):
        raise Problem("invalid-request", "Content-Length is not a number.")
    return int(length)


def _forwards_left(environ: Environ) -> int | None:
    """Return Max-Forwards, None where it does not apply (RFC 9110 section 7.6.2)."""
    value = environ.get("HTTP_MAX_FORWARDS", "")
    applies = environ["REQUEST_METHOD"] in ("OPTIONS", "TRACE") and _NUMBER.fullmatch(value)
    return int(value) if applies else None


def _answer_here(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    if environ["REQUEST_METHOD"] == "TRACE":  # reflecting fields would show the client what the gateway added
        raise Problem("method-not-allowed", fields=[("Allow", _METHODS)])
    start_response("204 No Content", [("Allow", _METHODS)])
    return []
