"""One request out, one response back, streamed."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable
from time import perf_counter
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from gateway.http.answers import refuse
from gateway.http.blocking import blocking
from gateway.http.body import body_length
from gateway.http.grammar import read_length
from gateway.http.problems import Problem
from gateway.http.target import read_target
from gateway.http.wsgi import Context, Environ, StartResponse, context, start_lazily
from gateway.proxy.answer import Answer
from gateway.proxy.body import Body
from gateway.proxy.failures import UpstreamFailed
from gateway.proxy.fields import RequestFields, check_method, response_fields
from gateway.proxy.outbound import Outbound, Peer
from gateway.proxy.pool import Pool
from gateway.proxy.prefix import Prefix
from gateway.proxy.tunnel import Tunnel, wanted_upgrade

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})  # RFC 9110 section 9.2.2


class Timeouts(NamedTuple):
    """Seconds to connect, and seconds that the upstream may stay silent."""

    connect: float = 3
    silence: float = 60


class Upstream:
    """A WSGI app that sends each request on to `base_url` and streams the answer back.

    `base_url`'s path is put before the request's. `timeout` is (connect, silence) in seconds;
    `verify` is True, False or a file of CA certificates, `cert` a file with the client's certificate and key;
    `trusted_proxies` how many hops of X-Forwarded-* are believed; `own_fields` names of fields that
    stages before set, which a client's `Connection` field must not remove; `max_body` in bytes;
    `upgrades` protocols that connections may be switched to.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of its own
        self,
        base_url: str,
        *,
        timeout: tuple[float, float] = (3, 60),
        verify: bool | str = True,
        cert: str | None = None,
        preserve_host: bool = True,
        trusted_proxies: int = 0,
        forward_authorization: bool = True,
        own_fields: Iterable[str] = (),
        max_body: int = 1 << 30,
        upgrades: Iterable[str] = ("websocket",),
    ) -> None:
        parts = urlsplit(base_url)
        origin = f"{parts.scheme}://{parts.netloc}"
        self._prefix = Prefix(parts.netloc, parts.path)
        self._timeout = Timeouts(*timeout)
        self._peers = origin, timeout[0], verify, cert
        self._pools = {os.getpid(): Pool(*self._peers)}
        self._max_body = max_body
        self._upgrades = frozenset(name.lower() for name in upgrades)
        self._knows_clients = trusted_proxies == 0
        self._fields = RequestFields(
            parts.netloc,
            preserve_host=preserve_host,
            trusted_proxies=trusted_proxies,
            forward_authorization=forward_authorization,
            own=own_fields,
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer with the upstream's answer, or with why there is none.

        Raises `Problem` for a request that cannot go on, before `start_response`, and ConnectionError for a client that
        left, at any time.
        """
        protocol = wanted_upgrade(environ, self._upgrades)
        check_method(environ["REQUEST_METHOD"])
        forwards = _forwards_left(environ)
        if forwards == 0:
            return _answer_here(environ, start_response)
        about = context(environ)
        target = self._prefix.extend(read_target(environ, about).raw)
        fields = self._fields(environ)
        if forwards is not None:
            fields["Max-Forwards"] = str(forwards - 1)
        if self._prefix.path:
            start_response = self._prefix.apply(fields, context(environ), start_response)
        method = environ["REQUEST_METHOD"]
        request = Outbound(method, target, fields, is_repeatable=method in _IDEMPOTENT)
        if protocol:
            return self._upgrade(request, protocol, environ, start_response)
        length = body_length(environ)
        body = Body(environ, None if length == -1 else length, self._max_body) if length else None
        if length == 0:
            fields["Content-Length"] = "0"
        return start_lazily(about, self._exchange(request, body, environ, start_response))

    def close(self) -> None:
        """Close idle connections to the upstream."""
        self._pool().close()

    def _pool(self) -> Pool:
        # A parent's connections are left alone, and kept: closing one would end its TLS session.
        pid = os.getpid()
        pool = self._pools.get(pid)
        return pool or self._pools.setdefault(pid, Pool(*self._peers))

    def _upgrade(
        self, request: Outbound, protocol: str, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        if body_length(environ):
            raise Problem("invalid-request", "A request to switch protocols has a body.")
        return self._tunnel(Tunnel(request, protocol, environ, self._timeout.silence), environ, start_response)

    def _tunnel(self, tunnel: Tunnel, environ: Environ, start_response: StartResponse) -> Generator[bytes, None, None]:
        about, has_begun = context(environ), False

        def start(*head: Any) -> Any:
            nonlocal has_begun
            has_begun = True
            return start_response(*head)

        try:
            pool = self._pool()
            peer = pool.peer() or (yield from _sleep(about, pool.wait()))
            yield from tunnel.run(peer, self._timeout.connect, start)
        except Problem as problem:
            about.cause = getattr(problem, "cause", "")
            if has_begun:
                raise
            yield from refuse(problem, environ, start_response)

    def _exchange(
        self, request: Outbound, body: Body | None, environ: Environ, start_response: StartResponse
    ) -> Generator[bytes, None, None]:
        """Send a request; start the response when the answer's head has come, and yield its bytes as they come.

        A failure before is a refusal. One after raises `Problem`: the server must cut the client off, too.
        """
        about = context(environ)
        if about.overloaded:  # it may have become so since the gate was passed
            yield from refuse(Problem("overloaded"), environ, start_response)
            return
        answer: Answer | None = None
        began = perf_counter()
        try:
            if body is not None:
                request = yield from _with_body(request, body, about)
                began = perf_counter()
            answer = yield from self._answer(request, about, self._user(environ, about))
            about.upstream_seconds = perf_counter() - began
            about.upstream_status = answer.status
            start_response(f"{answer.status} {answer.reason}", response_fields(answer.fields, answer.status))
        except Problem as problem:
            if answer:
                answer.close()
            about.cause = getattr(problem, "cause", "")
            about.upstream_seconds = perf_counter() - began
            yield from refuse(problem, environ, start_response)
            return
        try:
            while (piece := answer.take()) != b"":
                if piece or answer.waits():
                    yield piece or b""
        except UpstreamFailed as failed:
            about.cause = failed.cause
            raise
        finally:
            answer.close()  # one that is not complete is given up

    def _answer(self, request: Outbound, about: Context, user: str | None) -> Generator[bytes, None, Answer]:
        """Send a request and return its answer once the head is there.

        Where no connection came about it is sent once more, if the name's addresses or the certificates have changed.
        """
        pool = self._pool()
        tried: Peer | None = None
        peer = pool.peer()
        while True:
            if peer is None:
                peer = yield from _sleep(about, pool.wait())
            answer = self._begin(pool, peer, request, about, user)
            try:
                while not answer.take_head():
                    if answer.waits():
                        yield b""
                return answer
            except UpstreamFailed as failed:
                answer.close()
                if tried or failed.was_connected:
                    raise
                tried = peer
                peer = yield from _sleep(about, pool.wait())
                if peer == tried:
                    raise
            except BaseException:
                answer.close()
                raise

    def _begin(self, pool: Pool, peer: Peer, request: Outbound, about: Context, user: str | None) -> Answer:
        has_body = request.body is not None
        handle = pool.take(peer, user, has_body=has_body)
        try:
            handle.start(request)
        except BaseException:
            handle.close()
            raise
        # libcurl would wait for the body of an answer to a HEAD that had one itself.
        ends_with_head = has_body and request.method == "HEAD"
        return Answer(handle, pool.give_back, about, self._timeout.silence, ends_with_head=ends_with_head)

    def _user(self, environ: Environ, about: Context) -> str | None:
        """Return who may use a connection that has carried a body of this request, None for nobody."""
        if about.token is not None:
            return about.token.fingerprint
        # A proxy's connection, and one over a Unix socket, is shared by its clients.
        port = environ.get("REMOTE_PORT") if self._knows_clients else None
        return f"{environ.get('REMOTE_ADDR')} {port}" if port else None


def _with_body(request: Outbound, body: Body, about: Context) -> Generator[bytes, None, Outbound]:
    """Return the request with its body: whole where it is small."""
    whole = yield from body.collect()
    if whole == b"":
        return request._replace(fields={**request.fields, "Content-Length": "0"})
    if whole is not None:
        return request._replace(body=whole)
    about.is_duplex = True
    return request._replace(body=body.take, length=body.length, is_repeatable=False)


def _sleep(about: Context, waits: Generator[float, None, Peer]) -> Generator[bytes, None, Peer]:
    """Sleep for as long and as often as `waits` says, in the server if that is possible; return what it returns."""
    while True:
        try:
            seconds = next(waits)
        except StopIteration as done:
            peer: Peer = done.value
            return peer
        if about.pause:
            about.pause(seconds)
            yield b""
        else:
            with blocking():
                time.sleep(seconds)


def _forwards_left(environ: Environ) -> int | None:
    """Return Max-Forwards, None where it does not apply (RFC 9110 section 7.6.2)."""
    value = environ.get("HTTP_MAX_FORWARDS", "")
    return read_length(value) if environ["REQUEST_METHOD"] in ("OPTIONS", "TRACE") else None


def _answer_here(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    if environ["REQUEST_METHOD"] == "TRACE":  # reflecting fields would show the client what the gateway added
        raise Problem("method-not-allowed", fields=[("Allow", _METHODS)])
    start_response("204 No Content", [("Allow", _METHODS)])
    return []
