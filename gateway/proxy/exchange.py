"""One request out, one response back, streamed."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Generator, Iterable
from time import perf_counter
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from gateway.http.answers import refuse
from gateway.http.blocking import blocking
from gateway.http.body import body_length
from gateway.http.grammar import is_token, read_length
from gateway.http.problems import Problem
from gateway.http.target import request_target
from gateway.http.wsgi import Context, Environ, StartResponse, context, start_lazily
from gateway.proxy.answer import Answer
from gateway.proxy.body import Body
from gateway.proxy.failures import UpstreamFailed
from gateway.proxy.fields import RequestFields, response_fields
from gateway.proxy.files import Files
from gateway.proxy.link import connect
from gateway.proxy.outbound import Outbound, Peer, Wait
from gateway.proxy.pool import Pool
from gateway.proxy.prefix import Prefix
from gateway.proxy.tunnel import Tunnel, wanted_upgrade

# After a request was sent: before that there is hardly ever an answer, and a look costs a system call.
SOON_SECONDS: Final = 0.0001
_COUNTING: Final = frozenset({"OPTIONS", "TRACE"})  # how often they are forwarded (RFC 9110 section 7.6.2)
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

_is_basic = re.compile("Basic [A-Za-z0-9+/=]*", re.IGNORECASE).fullmatch  # RFC 7617: it signs in a request alone

T = TypeVar("T")

_pid = os.getpid()  # to ask for it is a system call


def _note_fork() -> None:
    global _pid  # noqa: PLW0603 - there is one for the process
    _pid = os.getpid()


os.register_at_fork(after_in_child=_note_fork)


class Upstream:
    """A WSGI app that sends each request on to `base_url` and streams the answer back.

    `base_url`'s path is put before the request's. `timeout` is (connect, silence) in seconds;
    `ca_file` has CA certificates, where the usual ones are not those, `cert` the client's certificate and key;
    `trusted_proxies` how many hops of X-Forwarded-* are believed; `own_fields` names of fields that
    stages before set, which a client's `Connection` field must not remove; `max_body` in bytes;
    `upgrades` protocols that connections may be switched to.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of its own
        self,
        base_url: str,
        *,
        timeout: tuple[float, float] = (3, 60),
        ca_file: str | None = None,
        cert: str | None = None,
        preserve_host: bool = True,
        trusted_proxies: int = 0,
        own_fields: Iterable[str] = (),
        max_body: int = 1 << 30,
        upgrades: Iterable[str] = ("websocket",),
    ) -> None:
        parts = urlsplit(base_url)
        origin = f"{parts.scheme}://{parts.netloc}"
        self._prefix = Prefix(parts.netloc, parts.path)
        self._connect, self._silence = timeout  # seconds
        if not ca_file and origin.startswith("https:"):
            from requests.utils import DEFAULT_CA_BUNDLE_PATH  # a sixth of the start, which others save

            ca_file = DEFAULT_CA_BUNDLE_PATH
        self._peers = origin, timeout[0], Files(ca_file, cert)
        self._pools = {_pid: Pool(*self._peers)}
        self._max_body = max_body
        self._upgrades = frozenset(name.lower() for name in upgrades)
        self._knows_clients = trusted_proxies == 0
        self._fields = RequestFields(
            parts.netloc, preserve_host=preserve_host, trusted_proxies=trusted_proxies, own=own_fields
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer with the upstream's answer, or with why there is none.

        Raises `Problem` for a request that cannot go on, before `start_response`, and ConnectionError for a client that
        left, at any time.
        """
        protocol = wanted_upgrade(environ, self._upgrades)
        method = environ["REQUEST_METHOD"]
        if not is_token(method):
            raise Problem("invalid-request", "The method is not a token.")
        forwards = read_length(environ.get("HTTP_MAX_FORWARDS", "")) if method in _COUNTING else None
        if forwards == 0:
            return _answer_here(environ, start_response)
        about = context(environ)
        target = (about.target or request_target(environ)).raw
        fields = self._fields.make(environ)
        if forwards is not None:
            fields["Max-Forwards"] = str(forwards - 1)
        if self._prefix.path:
            target = self._prefix.extend(target)
            start_response = self._prefix.apply(fields, about, start_response)
        request = Outbound(method, target, fields)
        if protocol:
            return self._tunnel(Tunnel(request, protocol, environ, self._silence), environ, start_response)
        length = body_length(environ)
        body = Body(environ, None if length == -1 else length, self._max_body) if length else None
        if length == 0:
            fields["Content-Length"] = "0"
        return start_lazily(about, self._exchange(request, body, environ, about, start_response))

    def close(self) -> None:
        """Close idle connections to the upstream."""
        self._pool().close()

    def _pool(self) -> Pool:
        # A parent's connections are left alone, and kept: closing one would end its TLS session.
        pool = self._pools.get(_pid)
        return pool or self._pools.setdefault(_pid, Pool(*self._peers))

    def _tunnel(self, tunnel: Tunnel, environ: Environ, start_response: StartResponse) -> Generator[bytes, None, None]:
        about, has_begun = context(environ), False

        def start(*head: Any) -> Any:
            nonlocal has_begun
            has_begun = True
            return start_response(*head)

        try:
            pool = self._pool()
            peer = pool.peer() or (yield from _await(about, pool.wait()))
            try:
                link = yield from _await(about, connect(peer, self._connect))
            except UpstreamFailed as failed:
                peer = yield from _another_peer(failed, pool, peer, about)
                link = yield from _await(about, connect(peer, self._connect))
            yield from tunnel.run(link, start)
        except Problem as problem:
            about.cause = getattr(problem, "cause", "")
            if has_begun:
                raise
            yield from refuse(problem, environ, start_response)

    def _exchange(  # noqa: C901, PLR0912 - a generator for each part would cost 1 % of a request
        self, request: Outbound, body: Body | None, environ: Environ, about: Context, start_response: StartResponse
    ) -> Generator[bytes, None, None]:
        """Send a request; start the response when the answer's head has come, and yield its bytes as they come.

        A failure before is a refusal. One after raises `Problem`: the server must cut the client off, too.
        """
        if about.overloaded:  # it may have become so since the gate was passed
            yield from refuse(Problem("overloaded"), environ, start_response)
            return
        began = 0.0
        try:
            if body is not None:
                while not body.give_to(request):
                    yield b""
            began = perf_counter()
            pool = self._pool()
            peer = pool.peer() or (yield from _await(about, pool.wait()))
            answer = self._begin(pool, peer, request, environ, about)
        except Problem as problem:
            yield from _refuse(problem, began, environ, about, start_response)
            return
        try:
            try:
                if about.pause is not None and not about.is_alone:
                    yield b""  # others send theirs meanwhile, and then most answers are there
                    answer.is_awaited = perf_counter() - began > SOON_SECONDS
                try:
                    while not answer.take_head():
                        if answer.waits():
                            yield b""
                except UpstreamFailed as failed:
                    answer.close()
                    answer = yield from self._ask_again(failed, pool, peer, request, environ, about)
                about.upstream_seconds = perf_counter() - began
                about.upstream_status = answer.status
                start_response(answer.status_line, response_fields(answer.fields, answer.status))
            except Problem as problem:
                yield from _refuse(problem, began, environ, about, start_response)
                return
            while (piece := answer.take()) is None or piece:
                if piece or answer.waits():
                    yield piece or b""
        except UpstreamFailed as failed:
            about.cause = failed.cause
            raise
        finally:
            answer.close()  # one that is not complete is given up

    def _begin(self, pool: Pool, peer: Peer, request: Outbound, environ: Environ, about: Context) -> Answer:
        token = about.token
        user = token.fingerprint if token is not None else self._user(environ)
        handle = pool.take(peer, user, request)
        if token is None and not _is_basic(request.fields.get("Authorization", "Basic ")):
            handle.user = user  # NTLM and Negotiate sign in whoever uses the connection from then on
        try:
            handle.start(request)
        except BaseException:
            handle.close()
            raise
        return Answer(handle, pool, request, about, self._silence)

    def _ask_again(
        self, failed: UpstreamFailed, pool: Pool, tried: Peer, request: Outbound, environ: Environ, about: Context
    ) -> Generator[bytes, None, Answer]:
        """Ask another peer, and return the answer once its head is there. Raises as `_another_peer`."""
        peer = yield from _another_peer(failed, pool, tried, about)
        answer = self._begin(pool, peer, request, environ, about)
        try:
            while not answer.take_head():
                if answer.waits():
                    yield b""
        except BaseException:
            answer.close()
            raise
        return answer

    def _user(self, environ: Environ) -> str | None:
        """Return who may use a connection that has carried a body of this request without a token, None for nobody."""
        # A proxy's connection, and one over a Unix socket, is shared by its clients.
        port = environ.get("REMOTE_PORT") if self._knows_clients else None
        return f"{environ.get('REMOTE_ADDR')} {port}" if port else None


def _another_peer(failed: UpstreamFailed, pool: Pool, tried: Peer, about: Context) -> Generator[bytes, None, Peer]:
    """Return whom to ask now, if no connection came about, and the addresses or certificates have changed since.

    Raises `failed` where that is not so.
    """
    if failed.was_connected:
        raise failed
    peer = yield from _await(about, pool.wait())
    if peer == tried:
        raise failed
    return peer


def _await(about: Context, waits: Generator[Wait, None, T]) -> Generator[bytes, None, T]:
    """Wait for what `waits` yields, in the server if that is possible; return what it returns."""
    while True:
        try:
            seconds, descriptors = next(waits)
        except StopIteration as done:
            value: T = done.value
            return value
        if about.pause:
            about.pause(seconds, descriptors)
            yield b""
        else:
            with blocking():
                time.sleep(seconds)


def _refuse(
    problem: Problem, began: float, environ: Environ, about: Context, start_response: StartResponse
) -> Iterable[bytes]:
    about.cause = getattr(problem, "cause", "")
    if began:  # else the upstream was not asked
        about.upstream_seconds = perf_counter() - began
    return refuse(problem, environ, start_response)


def _answer_here(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    if environ["REQUEST_METHOD"] == "TRACE":  # reflecting fields would show the client what the gateway added
        raise Problem("method-not-allowed", fields=[("Allow", _METHODS)])
    start_response("204 No Content", [("Allow", _METHODS)])
    return []
