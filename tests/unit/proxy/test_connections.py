"""Which connection to the upstream a request goes out on, and what it may be sent twice for."""

import os
import re
import resource
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

import pycurl
import pytest
from asking import Asked, ask
from certificates import Certificates
from recorder import Recorder, Talk, chunked, ok, request, response, until

from gateway.http.wsgi import Context
from gateway.proxy import curl, descriptors, files, link, options, pool, resolve
from gateway.proxy.exchange import Upstream
from gateway.proxy.failures import UpstreamFailed, failure
from gateway.proxy.outbound import Outbound, Peer

PEER = Peer("http://127.0.0.1:1", "127.0.0.1", 1, ("127.0.0.1",), None, None, ())
LONG = b"x" * 300_000  # longer than what is collected


@contextmanager
def asking(answer: Any = None, *, read_bodies: bool = True, **options: Any) -> Iterator[tuple[Recorder, Upstream]]:
    with Recorder(answer, read_bodies=read_bodies) as upstream, closing(Upstream(upstream.url, **options)) as app:
        yield upstream, app


class Token:
    claims: dict[str, Any] = {}  # noqa: RUF012 - as a token has it

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint


def of(user: str) -> dict[str, Any]:
    """Return what makes a request this user's."""
    about = Context()
    about.token = Token(user)
    return {"gateway.context": about}


def connections(upstream: Recorder) -> list[int]:
    return [request.connection for request in upstream.requests]


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PROPFIND"])
def test_connections_are_kept(method: str) -> None:
    with asking(lambda talk: talk.send(ok(b"" if talk.request.method == "HEAD" else b"ok"))) as (upstream, app):
        for _ in range(5):
            assert ask(app, method).status == 200
        assert upstream.connections == 1


def test_a_name_is_looked_up_as_soon_as_there_is_a_thread_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    resolver = resolve.Resolver("localhost", 80, 10.0)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(UpstreamFailed) as failed:
            list(resolver.wait())
        assert failed.value.cause == "no thread is left to look the name up"
    for seconds, _ in resolver.wait():
        time.sleep(seconds)
    assert resolver.current()


def test_without_descriptors_there_is_overload_until_there_are_some() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with asking() as (_, app):
        assert ask(app).status == 200
        app.close()
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            told, later = ask(app), failure(pycurl.E_COULDNT_CONNECT, "", 0)  # where only the socket gets none
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (told.status, told.code) == (503, "overloaded")
        assert re.search("no descriptor is left|Too many open files", told.cause)  # where libcurl wants its first one
        assert (later.code, later.cause) == ("overloaded", "connection failed: Too many open files")
        assert ask(app).status == 200


@pytest.mark.parametrize("body", [b"x", b"x" * 300_000])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "GET"])
def test_connections_are_kept_for_bodies_too(method: str, body: bytes) -> None:
    with asking() as (upstream, app):
        for _ in range(5):
            assert ask(app, method, body=body).body == b"ok"
            assert upstream.last.body == body
        assert upstream.connections == 1


def test_each_kind_of_request_goes_out_as_it_is_after_each_other_on_one_connection() -> None:
    kinds = [("GET", b""), ("HEAD", b""), ("POST", b""), ("GET", b"x"), ("POST", b"xy"), ("PUT", LONG)]
    with asking(lambda talk: talk.send(ok(b"" if talk.request.method == "HEAD" else b"ok"))) as (upstream, app):
        for pair in product(kinds, kinds):
            for (method, body), target in zip(pair, ("/", "/other"), strict=True):
                assert ask(app, method, target, body or None, **of("alice")).status == 200
                assert (upstream.last.method, upstream.last.target, upstream.last.body) == (method, target, body)
        assert upstream.connections == 1


def test_a_connection_that_has_carried_a_body_serves_its_user_alone() -> None:
    with asking() as (upstream, app):
        ask(app, **of("alice"))
        ask(app, "POST", body=b"x", **of("alice"))
        ask(app, **of("bob"))
        ask(app, "POST", body=b"x", **of("bob"))
        ask(app, **of("alice"))
        ask(app, "POST", body=b"x", **of("alice"))
        ask(app, **of("carol"))
        assert connections(upstream) == [1, 1, 2, 2, 1, 1, 3]


def test_an_upstream_that_leaves_a_body_unread_answers_it_to_nobody_else() -> None:
    smuggled = b"GET /admin HTTP/1.1\r\nHost: api.test\r\n\r\n"

    def script(talk: Talk) -> None:
        talk.send(ok(talk.request.target.encode()))

    with asking(script, read_bodies=False) as (_, app):
        for _ in range(10):
            ask(app, "GET", "/mine", body=smuggled, **of("mallory"))
            assert ask(app, "GET", "/yours", **of("bob")).body == b"/yours"


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", response(b"", ("Content-Length", "2"))),
        ("GET", response(status="204 No Content")),
        ("GET", response(b"", ("Content-Length", "2"), status="304 Not Modified")),
        ("GET", ok(b"ok")),
    ],
)
def test_what_an_upstream_sends_unasked_is_nobodys_answer(method: str, answer: bytes) -> None:
    sent: list[int] = []

    def script(talk: Talk) -> None:
        if talk.connection == 1 and not sent:
            talk.send(answer)
            time.sleep(0.02)
            talk.send(ok(b"alice's"))
            sent.append(1)
        else:
            talk.send(ok())

    with asking(script) as (upstream, app):
        ask(app, method, **of("alice"))
        assert until(lambda: sent)
        time.sleep(0.01)
        assert ask(app, **of("bob")).body == b"ok"
        assert connections(upstream) == [1, 2]


def test_a_connection_with_a_head_request_serves_its_user_alone() -> None:
    with asking(lambda talk: talk.send(ok(b"" if talk.request.method == "HEAD" else b"ok"))) as (upstream, app):
        ask(app, "HEAD", **of("alice"))
        ask(app, **of("bob"))
        ask(app, **of("alice"))
        assert connections(upstream) == [1, 2, 1]


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_a_connection_with_an_answer_that_has_no_body_serves_its_user_alone(status: str) -> None:
    with asking([response(status=status), ok()]) as (upstream, app):  # a careless upstream sends one behind it
        ask(app, **of("alice"))
        ask(app, **of("bob"))
        ask(app, **of("alice"))
        assert connections(upstream) == [1, 2, 1]


def test_without_a_token_a_body_binds_a_connection_to_the_clients_own() -> None:
    with asking() as (upstream, app):
        for port in ("1", "1", "2"):
            ask(app, "POST", body=b"x", REMOTE_PORT=port)
        assert connections(upstream) == [1, 1, 2]


def test_a_connection_that_credentials_may_have_signed_in_serves_its_client_alone() -> None:
    with asking() as (upstream, app):
        ask(app, REMOTE_PORT="1")
        ask(app, HTTP_AUTHORIZATION="NTLM TlRMTVNTUAAB", REMOTE_PORT="1")
        ask(app, REMOTE_PORT="2")
        ask(app, HTTP_AUTHORIZATION="Bearer x", **of("alice"))
        ask(app, HTTP_AUTHORIZATION="NTLM TlRMTVNTUAAD", REMOTE_PORT="1")
        ask(app, HTTP_AUTHORIZATION="basic Ym9iOng=", REMOTE_PORT="3")
        ask(app, **of("bob"))
        ask(app, HTTP_AUTHORIZATION="Basic Ym9iOng=, Negotiate YII=", REMOTE_PORT="3")
        ask(app, REMOTE_PORT="2")
        assert connections(upstream) == [1, 1, 2, 2, 1, 2, 2, 2, 3]


def test_a_connection_of_one_user_that_was_idle_for_long_serves_nobody_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with asking() as (upstream, app):
        ask(app, "POST", body=b"x", REMOTE_PORT="1")
        monkeypatch.setattr(pool, "OWN_SECONDS", -1.0)
        ask(app, "POST", body=b"x", REMOTE_PORT="1")
        assert connections(upstream) == [1, 2]


def test_a_proxys_connection_is_not_one_users() -> None:
    with asking(trusted_proxies=1) as (upstream, app):
        for _ in range(3):
            ask(app, "POST", body=b"x")
        assert connections(upstream) == [1, 2, 3]


def test_a_connection_that_is_not_kept_keeps_no_port() -> None:
    """Closed in order, each would hold its port for a minute: of some 28,000, so that 470 a second were the most."""
    ends: list[str] = []

    def script(talk: Talk) -> None:
        talk.send(ok())
        try:
            ends.append("in order" if talk.sock.recv(1) == b"" else "not at all")
        except ConnectionResetError:
            ends.append("reset")

    with asking(script, trusted_proxies=1) as (_, app):
        assert ask(app, "POST", body=b"x").body == b"ok"
        assert until(lambda: ends == ["reset"])


def test_of_many_connections_some_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "KEPT", 2)
    with asking(ok(b"x" * 2_000_000)) as (upstream, app):
        for opened in (5, 8):  # two of the first five are used again
            many = [Asked(app) for _ in range(5)]
            for asked in many:
                asked.next()
            for asked in many:
                asked.read()
            assert upstream.connections == opened


def test_idle_connections_leave_descriptors_to_those_who_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda _: 60)  # as many as may be open: `ulimit -n`
    with asking() as (upstream, app):
        for user, opened in [*zip("abcdefgh", range(1, 9), strict=True), ("h", 8), ("a", 9)]:
            assert ask(app, "POST", body=b"x", **of(user)).status == 200
            assert upstream.connections == opened


def test_of_many_kept_connections_to_an_upstream_that_has_gone_one_costs_a_request() -> None:
    """One that may not be sent twice: as where a container has moved, whose address answers with resets."""
    gone: set[int] = set()

    def script(talk: Talk) -> None:
        talk.reset() if talk.connection in gone else talk.send(ok(b"x" * 2_000_000))

    with asking(script) as (upstream, app):
        many = [Asked(app) for _ in range(5)]
        for asked in many:
            asked.next()
        for asked in many:
            asked.read()
        gone.update(range(upstream.connections + 1))
        assert [ask(app, "POST", body=b"x", **of("alice")).status for _ in range(5)] == [502, 200, 200, 200, 200]


def test_a_client_that_leaves_within_its_upload_costs_others_no_kept_connection() -> None:
    with asking(ok(b"x" * 2_000_000)) as (upstream, app):
        many = [Asked(app) for _ in range(3)]
        for asked in many:
            asked.next()
        for asked in many:
            asked.read()
        body = Trickle(LONG, ConnectionResetError())
        with pytest.raises(ConnectionResetError):
            ask(app, "PUT", body=body, CONTENT_LENGTH="600000", **of("alice"))
        assert ask(app, "POST", body=b"x", **of("bob")).status == 200
        assert upstream.connections == 3


def test_connections_of_single_users_are_not_kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[bool] = []

    def script(talk: Talk) -> None:
        talk.send(ok())
        if talk.connection == 1:
            left.append(talk.peer_left())

    monkeypatch.setattr(pool, "OWN_SECONDS", -1.0)
    with asking(script) as (_, app):
        ask(app, "POST", body=b"x", **of("alice"))
        ask(app, "POST", body=b"x", **of("bob"))
        assert until(lambda: left)


def test_an_answer_given_up_closes_its_connection_at_once() -> None:
    left: list[bool] = []

    def script(talk: Talk) -> None:
        if talk.connection == 1:
            talk.send(response(b"1\r\nx\r\n", ("Transfer-Encoding", "chunked")))
            left.append(talk.peer_left())
        else:
            talk.send(ok())

    with asking(script) as (_, app):
        asked = Asked(app)
        assert asked.next() == b"x"
        asked.close()
        assert until(lambda: left)
        assert left == [True]
        assert ask(app).body == b"ok"


# --- bodies on their way


class Trickle:
    """A body that comes part by part, as the bundled server gives it; None for nothing yet."""

    def __init__(self, *parts: bytes | Exception | None) -> None:
        self.parts = list(parts)

    def take(self, limit: int) -> bytes | None:
        part = self.parts.pop(0) if self.parts else b""
        if isinstance(part, Exception):
            raise part
        if part and len(part) > limit:
            part, rest = part[:limit], part[limit:]
            self.parts.insert(0, rest)
        return part


def paused(seen: list[Any]) -> dict[str, Any]:
    """Return a context whose pauses are noted, and over at once."""
    about = Context()

    def pause(seconds: float, descriptors: Any = None, *, body: bool = False) -> None:
        seen.append((dict(descriptors or {}), body))
        time.sleep(0.001)

    about.pause = pause
    return {"gateway.context": about}


def test_a_small_body_is_collected_before_the_upstream_is_bothered() -> None:
    seen: list[Any] = []
    with asking() as (upstream, app):
        asked = Asked(app, "POST", body=Trickle(b"he", None, b"llo", None), CONTENT_LENGTH="5", **paused(seen))
        assert asked.next() == b""
        assert asked.next() == b""
        assert seen == [({}, True)] * 2
        assert upstream.connections == 0
        assert asked.read().body == b"ok"
        assert upstream.last.body == b"hello"
        assert upstream.last.field("Content-Length") == "5"


@pytest.mark.parametrize("length", [{"CONTENT_LENGTH": "600000"}, {"HTTP_TRANSFER_ENCODING": "chunked"}])
def test_a_large_body_passes_as_it_comes(length: dict[str, str]) -> None:
    part = b"x" * 100_000
    body = Trickle(part, None, part, None, part, None, part, None, part, None, part, None)
    seen: list[Any] = []
    with asking() as (upstream, app):
        told = ask(app, "POST", body=body, **length, **paused(seen), **{"wsgi.input_terminated": True})
        assert told.body == b"ok"
        assert upstream.last.body == part * 6
        assert any(descriptors and body for descriptors, body in seen)


def test_a_client_that_leaves_within_its_body_leaves_nothing_complete() -> None:
    part = b"x" * 300_000
    body = Trickle(part, None, ConnectionAbortedError("left"))
    with asking() as (upstream, app):
        with pytest.raises(ConnectionAbortedError):
            ask(app, "POST", body=body, CONTENT_LENGTH="600000", **paused([]))
        assert until(lambda: upstream.requests)
        assert not upstream.last.whole
        assert ask(app).body == b"ok"
        assert connections(upstream) == [1, 2]


def test_a_body_of_more_than_its_limit_is_refused_by_its_head() -> None:
    with asking(max_body=10) as (upstream, app):
        from gateway.http.problems import Problem

        with pytest.raises(Problem, match="payload-too-large"):
            ask(app, "POST", body=b"x" * 11)
        assert ask(app, "POST", body=b"x" * 10).body == b"ok"
        assert upstream.connections == 1


@pytest.mark.parametrize("limit", [10, 400_000])
def test_a_body_of_more_than_its_limit_is_refused_as_it_passes(limit: int) -> None:
    body = Trickle(*[b"x" * 100_000] * 6)
    with asking(max_body=limit) as (upstream, app):
        chunks = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
        told = ask(app, "POST", body=body, **chunks, **paused([]))
        assert told.code == "payload-too-large"
        assert not any(request.whole for request in upstream.requests)
        assert (told.context.upstream_seconds is None) == (limit == 10)  # the upstream was not asked


@pytest.mark.parametrize("status", ["413 Content Too Large", "200 OK"])
@pytest.mark.parametrize("is_closed", [True, False])
def test_an_early_answer_arrives_early_and_ends_the_upload(status: str, is_closed: bool) -> None:
    left: list[bool] = []

    def script(talk: Talk) -> None:
        talk.send(ok(b"no", *[("Connection", "close")][:is_closed], status=status))
        left.append(talk.peer_left())

    class Endless:
        taken = 0

        def take(self, limit: int) -> bytes | None:
            self.taken += 1
            return b"x" * limit if self.taken < 5 else None

    with asking(script, read_bodies=False) as (_, app):
        body = Endless()
        told = ask(app, "PUT", body=body, CONTENT_LENGTH="50000000", **paused([]))
        assert (told.status, told.body) == (int(status[:3]), b"no")
        assert until(lambda: left)
        assert body.taken < 100


@pytest.mark.parametrize("answer", [ok(b"no"), response(chunked(b"no"), ("Transfer-Encoding", "chunked"))])
def test_an_answer_that_comes_before_all_of_a_collected_body_is_sent_ends_where_its_framing_says(answer: bytes) -> None:
    over = threading.Event()

    def answer_and_leave_unread() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.recv(1)
            sock.sendall(answer)
            over.wait(10)

    with closing(socket.socket()) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # as on a network: little is sent ahead
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        serving = threading.Thread(target=answer_and_leave_unread)
        serving.start()
        with closing(Upstream(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=(3, 5))) as app:
            assert ask(app, "POST", body=b"x" * 250_000).body == b"no"
        over.set()
        serving.join()


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (ok(b"no", status="413 No"), 413),
        (ok(b"", status="413 No"), 413),
        (response(chunked(b"n", b"o"), ("Transfer-Encoding", "chunked"), status="413 No"), 413),
        (b"HTTP/1.1 103 Early\r\n\r\n" + ok(b"no", status="413 No"), 413),
        (ok(b"no", status="413 No")[:-1], 502),
        (ok(b"", status="413 No")[:-1], 502),
        (ok(b"", status="413 No")[:-4], 502),
        (response(b"no", status="413 No"), 502),
        (response(b"no", ("Content-Length", "2"), ("Content-Length", "3"), status="413 No"), 502),
        (b"nonsense", 502),
        (b"", 502),
    ],
)
def test_an_answer_before_a_reset_is_given_if_it_is_whole_although_the_upload_fails(answer: bytes, status: int) -> None:
    is_sending, was_reset = threading.Event(), threading.Event()

    def script(talk: Talk) -> None:
        is_sending.wait(10)
        talk.send(answer)
        talk.reset()
        was_reset.set()

    class Fast:
        taken = 0

        def take(self, limit: int) -> bytes:
            self.taken += 1
            if self.taken == 2:  # libcurl looks for an answer before this, and sends after it
                is_sending.set()
                assert was_reset.wait(10)
            return b"x" * limit

    before = len(os.listdir("/proc/self/fd"))
    # One that is not whole may have been seen before the reset: it has begun then, and is cut off.
    with asking(script, read_bodies=False) as (_, app), suppress(*[UpstreamFailed] * (status == 502)):
        told = ask(app, "PUT", body=Fast(), CONTENT_LENGTH="50000000", **paused([]))
        assert told.status == status
        assert status == 502 or told.body in (b"no", b"")
    assert until(lambda: len(os.listdir("/proc/self/fd")) <= before), "the second descriptor is let go"


@pytest.mark.parametrize("is_closed", [True, False])
def test_an_answer_is_whole_although_its_client_reads_the_last_of_it_late(is_closed: bool) -> None:
    fields = [("Transfer-Encoding", "chunked"), *[("Connection", "close")][:is_closed]]
    with asking(response(chunked(b"ok"), *fields)) as (_, app):
        about = paused([])
        asked = Asked(app, "PUT", body=LONG, **about)
        while not (piece := asked.next()):
            pass
        about["gateway.context"].is_unread = True
        assert asked.next() == b""
        about["gateway.context"].is_unread = False
        assert piece + asked.read().body == b"ok"


@pytest.mark.slow
def test_an_upload_holds_no_other_connection_where_a_slower_address_is_given_up() -> None:
    def let_all_in() -> None:  # the first address is then the faster one
        with suppress(OSError):  # until it is shut down
            while True:
                stack.enter_context(first.accept()[0])

    with ExitStack() as stack:
        first = stack.enter_context(socket.create_server(("127.0.0.2", 0), backlog=0))
        port = first.getsockname()[1]
        stack.enter_context(socket.create_server(("127.0.0.3", port), backlog=0))
        for address in ("127.0.0.2", "127.0.0.3") * 3:  # nobody else gets in
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((address, port))
        taken: list[socket.socket] = []

        def take(size: int) -> bytes | None:
            taken.extend(map(stack.enter_context, socket.socketpair()))  # as others connect meanwhile
            return b"x" * 100 if len(taken) < 6 else None

        peer = Peer(f"http://api.internal:{port}", "api.internal", port, ("127.0.0.2", "127.0.0.3"), None, None, ())
        request = Outbound("PUT", "/", {"Host": "api"})
        request.body, request.length, request.is_repeatable = take, 1000, False
        handle = stack.enter_context(closing(curl.Handle(peer, 5.0)))
        handle.start(request)
        thread = threading.Timer(0.4, let_all_in)
        thread.start()
        stack.callback(thread.join)
        stack.callback(first.shutdown, socket.SHUT_RDWR)
        assert until(lambda: handle.work(0.1) and handle.is_starved)
        sockets = [os.fstat(each.fileno()).st_ino for each in taken]
        assert [inodes().count(each) for each in sockets] == [1] * 6


def inodes() -> list[int]:
    """Return those of all descriptors of this process."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the list's own
            found.append(os.fstat(int(number)).st_ino)
    return found


def test_a_head_request_may_have_a_body() -> None:
    with asking(response(b"", ("Content-Length", "7"))) as (upstream, app):
        assert ask(app, "HEAD", body=b"abc").body == b""
        assert upstream.last.body == b"abc"
        assert ask(app, "HEAD").body == b""


def test_what_follows_a_head_request_with_a_body_takes_no_foreign_descriptor_for_its_connection() -> None:
    with asking([response(b"", ("Content-Length", "7")), ok()]) as (_, app):
        ask(app, "HEAD", body=b"abc", **of("alice"))
        with ExitStack() as stack:
            for _ in range(8):  # one of them gets the number that libcurl has given back
                left, right = socket.socketpair()
                stack.enter_context(left)
                stack.enter_context(right)
            assert ask(app, "POST", body=b"abc", **of("alice")).status == 200


# --- kept connections that are dead


def hang_up_on_the_second(talk: Talk) -> None:
    """Answer the first request of each connection, and drop the second without an answer."""
    talk.send(ok())
    if talk.read_head():
        talk.reset()


@pytest.mark.parametrize(
    ("method", "body"),
    [*((method, None) for method in ("GET", "HEAD", "OPTIONS", "DELETE", "PUT", "TRACE")), ("PUT", b"x")],
)
def test_a_connection_that_breaks_costs_a_repeatable_request_nothing(method: str, body: bytes | None) -> None:
    with asking(hang_up_on_the_second) as (_, app):
        ask(app, **of("alice"))
        assert ask(app, method, body=body, **of("alice")).status == 200


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("POST", None),
        ("POST", b"x"),
        ("PATCH", b"x"),
        ("LOCK", None),
        ("PUT", b"x" * 300_000),
        ("POST", b"x" * 300_000),
    ],
)
def test_what_must_not_be_sent_twice_is_not(method: str, body: bytes | None) -> None:
    seen: list[str] = []

    def script(talk: Talk) -> None:
        seen.append(talk.request.method)
        if talk.request.method == method:
            talk.reset()
        else:
            talk.send(ok())

    with asking(script) as (_, app):
        ask(app)
        assert ask(app, method, body=body).status == 502
        time.sleep(0.1)
        assert seen == ["GET", method]


@pytest.mark.parametrize("leave", [Talk.close, Talk.reset])
@pytest.mark.parametrize("body", [None, b"x", b"x" * 300_000])
def test_a_kept_connection_that_is_closed_is_seen_before_it_is_used(
    body: bytes | None, leave: Callable[[Talk], None]
) -> None:
    closed: list[int] = []

    def script(talk: Talk) -> None:
        talk.send(ok())
        time.sleep(0.05)
        leave(talk)
        closed.append(talk.connection)

    with asking(script) as (upstream, app):
        for number in range(1, 4):
            assert ask(app, "POST", body=body).status == 200
            assert until(lambda: len(closed) == number)  # noqa: B023 - called at once
            time.sleep(0.05)
        assert upstream.connections == 3


@pytest.mark.interpreted
def test_what_must_not_be_sent_twice_takes_no_connection_that_libcurl_may_find_too_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # libcurl closes one that was idle for that long, and would open another: that is refused to it.
    assert options.options(PEER)[pycurl.MAXAGE_CONN] > options.IDLE_SECONDS
    with asking() as (upstream, app):
        for _ in range(2):
            assert ask(app, "POST", body=b"x").status == 200
        monkeypatch.setattr(curl, "IDLE_SECONDS", -1.0)
        assert ask(app, "POST", body=b"x").status == 200
        assert connections(upstream) == [1, 1, 2]


# --- names, addresses, certificates


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Have every name resolve to these addresses; return the names that are asked for."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(resolve.socket, "getaddrinfo", getaddrinfo)
    return asked


def test_a_name_is_resolved_once_and_again_when_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolving(monkeypatch, "127.0.0.1")
    with Recorder() as upstream, closing(Upstream(f"http://api.internal:{upstream.port}")) as app:
        for _ in range(3):
            assert ask(app).body == b"ok"
        assert asked == ["api.internal"]
        monkeypatch.setattr(resolve, "STALE_SECONDS", -1.0)
        assert ask(app).body == b"ok"
        assert until(lambda: len(asked) == 2)
        assert upstream.connections == 1


def test_all_addresses_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "127.0.0.9", "127.0.0.1")
    with Recorder() as upstream, closing(Upstream(f"http://api.internal:{upstream.port}")) as app:
        assert ask(app, "POST", body=b"x").body == b"ok"


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", b"x")])
def test_an_address_that_changes_costs_no_refusal(
    monkeypatch: pytest.MonkeyPatch, method: str, body: bytes | None
) -> None:
    resolving(monkeypatch, "127.0.0.2")
    with Recorder() as upstream, closing(Upstream(f"http://api.internal:{upstream.port}")) as app:
        with socket.create_server(("127.0.0.2", upstream.port)) as first:
            answers = threading.Thread(target=answer_once, args=(first,))
            answers.start()
            assert ask(app).body == b"old"
            answers.join()
        resolving(monkeypatch, "127.0.0.1")
        assert ask(app, method, body=body).body == b"ok"


def test_an_address_that_changes_costs_no_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "127.0.0.2")
    with Recorder(ok(b"no")) as upstream, closing(Upstream(f"http://api.internal:{upstream.port}")) as app:
        about = paused([])
        about["gateway.context"].interim = lambda *_: None  # as where connections can be switched
        upgrade = {"HTTP_CONNECTION": "upgrade", "HTTP_UPGRADE": "websocket", **about}
        assert ask(app, **upgrade).cause == "connection refused"
        resolving(monkeypatch, "127.0.0.1")
        assert ask(app, **upgrade).body == b"no"


def answer_once(listener: socket.socket) -> None:
    sock, _ = listener.accept()
    with sock:
        sock.recv(65536)
        sock.sendall(ok(b"old"))


def test_a_name_that_is_slow_to_resolve_holds_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = threading.Event()
    monkeypatch.setattr(resolve.socket, "getaddrinfo", lambda *_, **__: resolved.wait(10) and [])
    with closing(Upstream("http://api.internal", timeout=(0.1, 5))) as app:
        seen: list[Any] = []
        told = ask(app, **paused(seen))
        resolved.set()
        assert (told.code, told.cause) == ("upstream-unreachable", "name does not resolve in time")
        assert seen


def test_a_name_that_resolved_for_nobody_is_looked_up_at_the_next_request(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch)
    with Recorder() as upstream, closing(Upstream(f"http://api.internal:{upstream.port}")) as app:
        for _ in range(2):
            assert ask(app).cause.startswith("name does not resolve")
        resolving(monkeypatch, "127.0.0.1")
        assert ask(app).body == b"ok"


def test_an_old_address_serves_while_the_name_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "127.0.0.1")
    with Recorder() as upstream, closing(Upstream(f"http://api.internal:{upstream.port}")) as app:
        assert ask(app).body == b"ok"
        resolving(monkeypatch)
        monkeypatch.setattr(resolve, "MAX_AGE", -1.0)
        assert ask(app).body == b"ok"


def connect_to(*addresses: str, port: int) -> link.Link:
    """Return what an upgrade's connection goes over."""
    return connect(Peer(f"http://api.internal:{port}", "api.internal", port, addresses, None, None, ()))


def connect(peer: Peer) -> link.Link:
    waits = link.connect(peer, 0.4)
    while True:
        try:
            seconds, descriptors = next(waits)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        poll = select.poll()
        for descriptor, events in descriptors.items():
            poll.register(descriptor, events)
        poll.poll(seconds * 1000)


def test_an_address_that_does_not_answer_leaves_an_upgrade_time_for_the_others() -> None:
    with socket.create_server(("127.0.0.2", 0), backlog=0) as full, ExitStack() as stack:
        port = full.getsockname()[1]
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.2", port))
        with pytest.raises(UpstreamFailed, match="upstream-timeout"):
            connect_to("127.0.0.2", port=port)
        with socket.create_server(("127.0.0.1", port)):
            connect_to("127.0.0.2", "127.0.0.1", port=port).close()


def test_an_upgrade_that_gets_no_descriptor_is_told_that_there_is_overload() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(UpstreamFailed) as failed:
            connect_to("127.0.0.1", port=1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (failed.value.code, failed.value.was_connected) == ("overloaded", False)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_connections_of_a_certificate_that_has_changed_are_not_used_again(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOOK_SECONDS", -1.0)
    with (
        Recorder(tls=certificates.server(ssl.CERT_REQUIRED)) as upstream,
        closing(Upstream(upstream.url, ca_file=certificates.ca, cert=certificates.client)) as app,
    ):
        for _ in range(2):
            assert ask(app).body == b"ok"
        assert upstream.connections == 1
        os.utime(certificates.client)
        assert until(lambda: ask(app).body == b"ok" and upstream.connections == 2)


def test_no_request_waits_for_the_disk_with_the_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOOK_SECONDS", -1.0)
    certificates = Certificates(tmp_path)
    authority = Path(certificates.ca)
    text = authority.read_text()
    with (
        Recorder(tls=certificates.server()) as upstream,
        closing(Upstream(upstream.url, ca_file=certificates.ca)) as app,
    ):
        authority.unlink()
        os.mkfifo(authority)  # whoever reads it waits
        for _ in range(3):
            assert ask(app).body == b"ok"
            app.close()  # a new connection for each
        assert upstream.connections == 3
        authority.write_text(text)


def test_a_certificate_for_another_name_does_not_verify(certificates: Certificates) -> None:
    with Recorder(tls=certificates.server()) as upstream:
        url = upstream.url.replace("127.0.0.1", "localhost")
        with closing(Upstream(url, ca_file=certificates.ca)) as app:
            assert ask(app).cause.startswith("TLS fault")


@pytest.mark.parametrize("host", ["api.internal", "api.internal."])
@pytest.mark.parametrize("believed", ["ca", "leaf"])
def test_an_upgrade_verifies_what_every_other_request_does(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, host: str, believed: str
) -> None:
    resolving(monkeypatch, "127.0.0.1")
    path = getattr(certificates, believed)
    with Recorder(tls=certificates.server()) as upstream:
        url = f"https://{host}:{upstream.port}"
        with closing(Upstream(url, ca_file=path)) as app:
            assert ask(app).body == b"ok"
        connect(Peer(url, host, upstream.port, ("127.0.0.1",), path, None, (host, believed))).close()


@pytest.mark.parametrize("is_protected", [False, True])
def test_what_came_before_a_reset_reaches_the_client_of_an_upgrade_although_it_sends_on(
    certificates: Certificates, is_protected: bool
) -> None:
    def script(talk: Talk) -> None:
        talk.send(b"why")
        talk.reset()

    with Recorder(script, tls=certificates.server() if is_protected else None) as upstream:
        peer = Peer(upstream.url, "127.0.0.1", upstream.port, ("127.0.0.1",), certificates.ca, None, ())
        with closing(connect(peer)) as opened:
            opened.send(request())
            reset = select.poll()
            reset.register(opened, select.POLLHUP)
            reset.poll(10_000)
            assert opened.send(b"more") == 4
            assert opened.receive() == b"why"
            with pytest.raises(UpstreamFailed, match="upstream-unreachable"):
                opened.receive()


@pytest.mark.skipif(not descriptors.CAN_HOLD_BACK, reason="the system cannot hold back what is sent")
@pytest.mark.parametrize("rest", [ok(b"other"), response(b"other", ("Connection", "close")), "\xe4".encode()])
def test_what_tls_has_read_beyond_an_answer_is_nobodys_answer(certificates: Certificates, rest: bytes) -> None:
    def script(talk: Talk) -> None:
        time.sleep(0.01)
        talk.send(response(b"", ("Content-Length", "4")))
        talk.send(b"good" + rest)  # one record

    with (
        Recorder(script, tls=certificates.server()) as upstream,
        closing(Upstream(upstream.url, ca_file=certificates.ca)) as app,
    ):
        assert [ask(app, **of(user)).body for user in ("alice", "bob", "carol")] == [b"good"] * 3
        assert ask(app, "POST", **of("dave")).code == "upstream-protocol"
        assert ask(app, "POST", **of("erin")).body == b"good"


def test_an_answer_that_comes_before_the_end_of_its_request_is_not_taken_for_what_tls_has_read_before(
    certificates: Certificates,
) -> None:
    def script(talk: Talk) -> None:
        talk.send(ok(status="200 OK" if talk.request.method == "GET" else "403 No"))
        talk.read_body(talk.request)

    with (
        Recorder(script, tls=certificates.server(), read_bodies=False) as upstream,
        closing(Upstream(upstream.url, ca_file=certificates.ca)) as app,
    ):
        for _ in range(100):  # it has to come while the request is sent
            assert ask(app, **of("alice")).status == 200
            assert ask(app, "POST", body=bytes(250_000), **of("alice")).status == 403


def test_a_client_certificate_is_shown(certificates: Certificates) -> None:
    with Recorder(tls=certificates.server(ssl.CERT_REQUIRED)) as upstream:
        with closing(Upstream(upstream.url, ca_file=certificates.ca, cert=certificates.client)) as app:
            assert ask(app).body == b"ok"
        with closing(Upstream(upstream.url, ca_file=certificates.ca)) as app:
            assert ask(app).code == "upstream-unreachable"


# --- nothing from outside


def test_neither_proxies_nor_netrc_of_the_environment_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password secret\n")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with asking() as (upstream, app):
        assert ask(app).body == b"ok"
        assert "authorization" not in upstream.last.names


# --- threads, forks, descriptors


def test_threads_share_connections() -> None:
    wrong: list[bytes] = []
    with asking(lambda talk: talk.send(ok(talk.request.target.encode()))) as (upstream, app):

        def work(number: int) -> None:
            for turn in range(20):
                target = f"/{number}/{turn}"
                body = ask(app, "GET", target).body
                if body != target.encode():
                    wrong.append(body)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert wrong == []
        assert len(upstream.requests) == 160
        assert upstream.connections <= 8


def test_a_forked_child_leaves_its_parents_connections_alone() -> None:
    with asking() as (upstream, app):
        ask(app)
        child = os.fork()
        if child == 0:
            os._exit(0 if ask(app).body == b"ok" else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert ask(app).body == b"ok"
        assert connections(upstream) == [1, 2, 1]


def test_descriptors_beyond_a_thousand_are_no_limit() -> None:
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        with asking() as (_, app):
            assert ask(app).body == b"ok"
    finally:
        for descriptor in opened:
            os.close(descriptor)
