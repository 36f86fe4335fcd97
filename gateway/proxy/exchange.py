"""One request out, one response back, streamed."""

from __future__ import annotations

import select
from collections.abc import Callable, Generator, Iterable
from functools import partial
from time import perf_counter
from typing import BinaryIO
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import BaseAdapter

from gateway.http.answers import refuse
from gateway.http.grammar import read_length
from gateway.http.problems import Problem
from gateway.http.target import refuse_upgrade, request_target
from gateway.http.wsgi import Environ, Pause, StartResponse, context, note_seconds, start_lazily
from gateway.proxy.adapter import MalformedAnswer, Sent, UpstreamRequest
from gateway.proxy.fields import RequestFields, check_method, response_fields
from gateway.proxy.transport import CurlAdapter, RawAnswer, default_adapter

# Of requests' adapters before the answer's head, and of the bodies of requests' own adapter.
_FAILURES = (requests.exceptions.RequestException, urllib3.exceptions.HTTPError)
_TIMEOUTS = (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


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
        begin = self._adapter.begin if isinstance(self._adapter, CurlAdapter) else partial(Sent, self._adapter)
        self._begin: Callable[[UpstreamRequest], RawAnswer | Sent] = partial(
            begin, timeout=timeout, verify=verify, cert=cert
        )
        self._fields = RequestFields(
            parts.netloc,
            preserve_host=preserve_host,
            trusted_proxies=trusted_proxies,
            forward_authorization=forward_authorization,
            own=own_fields,
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer with the upstream's answer, or with why there is none.

        Raises `Problem` for a request that cannot go on, before `start_response`, and `ClientLeft` at any time.
        """
        refuse_upgrade(environ)
        check_method(environ["REQUEST_METHOD"])
        forwards = _forwards_left(environ)
        if forwards == 0:
            return _answer_here(environ, start_response)
        return start_lazily(environ, self._exchange(self._request(environ, forwards), environ, start_response))

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
        client_left = context(environ).client_left
        return UpstreamRequest(environ["REQUEST_METHOD"], url, fields, body, client_left)

    def _exchange(
        self, request: UpstreamRequest, environ: Environ, start_response: StartResponse
    ) -> Generator[bytes, None, None]:
        """Send a request; start the response when the answer's head has come, and yield its bytes as they come.

        A failure before is a refusal. One after raises `Problem`: the server must cut the client off, too.
        """
        if context(environ).overloaded:  # it may have become so since the gate was passed
            yield from refuse(Problem("overloaded"), environ, start_response)
            return
        raw: RawAnswer | Sent | None = None
        has_begun = False
        pause = context(environ).pause
        began = perf_counter()
        try:
            raw = self._begin(request)
            while not raw.take_head():
                if _pauses(raw, pause):
                    yield b""
            note_seconds(environ, "upstream", began)
            context(environ).upstream_status = raw.status
            start_response(f"{raw.status} {raw.reason}", response_fields(raw.headers.items(), raw.status))
            has_begun = True
            while (piece := raw.take()) != b"":
                if piece or _pauses(raw, pause):
                    yield piece or b""
        except (*_FAILURES, Problem) as error:
            if raw:
                raw.discard()
            if has_begun:
                raise _problem(error) from error
            note_seconds(environ, "upstream", began)
            yield from refuse(_problem(error), environ, start_response)
        finally:
            if raw:
                raw.close()  # an answer that is not complete is given up


def _pauses(raw: RawAnswer | Sent, pause: Pause | None) -> bool:
    """Tell that more is to be waited for by the server, if that is possible; else wait."""
    descriptor = raw.awaited() if pause else None
    if not pause or descriptor is None:
        raw.wait()
        return False
    pause(raw.patience, {descriptor: select.POLLIN})
    return True


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
    number = read_length(length)
    if number is None:
        raise Problem("invalid-request", "Content-Length is not a number.")
    return number


def _forwards_left(environ: Environ) -> int | None:
    """Return Max-Forwards, None where it does not apply (RFC 9110 section 7.6.2)."""
    value = environ.get("HTTP_MAX_FORWARDS", "")
    return read_length(value) if environ["REQUEST_METHOD"] in ("OPTIONS", "TRACE") else None


def _answer_here(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    if environ["REQUEST_METHOD"] == "TRACE":  # reflecting fields would show the client what the gateway added
        raise Problem("method-not-allowed", fields=[("Allow", _METHODS)])
    start_response("204 No Content", [("Allow", _METHODS)])
    return []
