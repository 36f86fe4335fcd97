"""`Upstream` end to end: a raw client, a real server, and an upstream that records every byte."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from recorder import Client, Recorder, Talk, chunked, exchange, ok, request, response, served, until
from werkzeug.middleware.lint import LintMiddleware
from werkzeug.test import Client as WsgiClient
from werkzeug.test import EnvironBuilder, run_wsgi_app

from gateway.http.body import body_length
from gateway.http.problems import Problem
from gateway.http.wsgi import Context
from gateway.proxy.exchange import Upstream

OWN = {"host", "via", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"}


def answering_problems(app: Any) -> Callable[..., Iterable[bytes]]:
    """Answer refusals, as the gate does."""

    def wrapped(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            return app(environ, start_response)
        except Problem as problem:
            status, fields, body = problem.response()
            start_response(status, [*fields, ("Content-Length", str(len(body)))])
            return [body]

    return wrapped


@contextmanager
def proxied(answer: Any = None, path: str = "", **options: Any) -> Iterator[tuple[Recorder, int]]:
    """Serve a gateway before a recorder."""
    with Recorder(answer) as upstream:
        app = Upstream(upstream.url + path, **options)
        with closing(app), served(answering_problems(app)) as port:
            yield upstream, port


def call(upstream: Upstream, **environ: Any) -> tuple[str, list[tuple[str, str]], bytes]:
    """Call the app itself: a server may change what it is given."""
    body, status, headers = run_wsgi_app(upstream, EnvironBuilder().get_environ() | environ, buffered=True)
    return status, headers.to_wsgi_list(), b"".join(body)


# --- targets and methods


@pytest.mark.parametrize(
    "target", ["/", "/a%2Fb", "/%2E%2E/x", "/a/../b/./c", "/a//b", "/;p=1;q", "/x?", "/x?a=http://evil.test/", "/@evil"]
)
def test_the_target_is_the_clients_byte_for_byte(target: str) -> None:
    with proxied() as (upstream, port):
        assert exchange(port, request(f"GET {target}")).endswith(b"\r\n\r\nok")
        assert upstream.last.target == target


@pytest.mark.parametrize("target", ["/a%2fb", "/%2e%2e/x", "/%zz%", "/x?a=[1]&b={2}|^`", "/\xc3\xa9\xff", '/"<>\\'])
def test_the_target_is_the_clients_however_odd(target: str) -> None:
    with Recorder() as upstream, closing(Upstream(upstream.url)) as app:
        assert call(app, RAW_URI=target)[2] == b"ok"
        assert upstream.last.target == target


def test_an_asterisk_goes_on_as_it_is() -> None:
    with Recorder() as upstream, closing(Upstream(upstream.url + "/base/")) as app:
        call(app, REQUEST_METHOD="OPTIONS", RAW_URI="*")
        assert upstream.last.line == "OPTIONS * HTTP/1.1"


def test_the_upstreams_path_is_a_prefix() -> None:
    with proxied(path="/base/") as (upstream, port):
        exchange(port, request("GET //../x?y"))
        assert upstream.requests == []
        exchange(port, request("GET /a.b/..c/...?../y"))
        assert upstream.last.target == "/base/a.b/..c/...?../y"


@pytest.mark.parametrize(
    "path",
    [
        "/../x", "/a/..", "/./x", "/%2e%2E/x", "/.%2e/x", "/%252e%252e/x", "/a%2f..%2fx", "/..%5cx", "/..\\x",
        "/..;a/x",
        "/%c0%ae%c0%ae/x", "/%u002e%u002e/x", "/%ef%bc%8e./x", "/..%09/x", "/..%00/x", "/%25252e%25252e%25252f",
        "/%2525252525252e",
        # Bytes as they are; longer than UTF-8 allows; what Unicode calls compatible; what Windows takes for a slash.
        "/\xc0\xae./x", "/%f0%80%80%ae%f0%80%80%ae/x", "/%fc%80%80%80%80%ae./x", "/..%c1%9cx", "/..%e0%81%9cx",
        "/\xef\xbc\x8e\xef\xbc\x8e/x", "/%e2%80%a5/x", "/%e2%80%a4./x", "/..%ef%bc%8fx", "/..%ef%bc%bcx",
        "/..%e2%88%95x", "/%uff0e%UFF0E/x", "/..%u2215x", "/..%u2044x",
        # A name that ends early, or that loses what nobody sees.
        "/..%00.jpg", "/..%3bx/y", "/..%23x", "/..%3fx", "/.%0a./x", "/..%0d/x", "/.%09./", "/%01../x", "/..%c2%a0/x",
    ],
)  # fmt: skip
def test_the_upstreams_path_is_a_boundary(path: str) -> None:
    with Recorder() as upstream, closing(Upstream(upstream.url + "/base")) as app:
        with pytest.raises(Problem, match="bad-request-target"):
            call(app, RAW_URI=path)
        assert upstream.connections == 0


def test_a_target_of_nothing_but_accents_holds_nobody_up() -> None:
    """Unicode puts a run of them in order; all at once these would take longer than the client waits."""
    path = "/" + ("\u0315" * 62_000 + "\u0316" * 62_000).encode().decode("latin-1")
    with proxied(path="/base") as (upstream, port):
        assert exchange(port, request(f"GET {path}")).endswith(b"\r\n\r\nok")
        assert upstream.last.target == "/base" + path


def test_answers_from_behind_the_prefix_lead_back_to_the_client() -> None:
    with Recorder() as upstream, closing(Upstream(upstream.url + "/base")) as app:
        cases = {
            "/base": "/", "/base/": "/", "/base/x?y": "/x?y", "/base?y": "/?y", "/base//evil.test/": "/evil.test/",
            "/other": "/other", "/basement": "/basement", "x": "x", "?y": "?y",
            upstream.url + "/base/x": "/x", upstream.url + "/x": upstream.url + "/x",
            "https://api.test/base/x": "https://api.test/x", "https://other.test/base/x": "https://other.test/base/x",
            "http://[": "http://[", "//api.test/base/x": "//api.test/x", "//other.test/base/x": "//other.test/base/x",
            "http://API.test:80/base/x": "http://API.test:80/x", "https://api.test:443/base": "https://api.test:443/",
            "https://api.test:8443/base": "https://api.test:8443/base", upstream.url.upper() + "/base/X": "/X",
            upstream.url.removeprefix("http:") + "/base/x": "/x", "http://me@api.test/base/": "http://me@api.test/base/",
            "/base/\\evil.test": "/evil.test", "/base/\\/evil.test": "/evil.test", "/BASE/x": "/BASE/x",
            "/base/\t/evil.test": "/evil.test",
            "mailto:/base/x": "mailto:/base/x", "#/base": "#/base", "": "", "/base#f": "/#f",
        }  # fmt: skip
        for location, expected in cases.items():
            upstream.answer = ok(b"", ("Location", location), status="302 Found")
            assert dict(call(app, HTTP_HOST="api.test")[1])["Location"] == expected
        upstream.answer = ok(b"", ("Set-Cookie", "a=/base; Path=/base; Secure"), ("Set-Cookie", "b=1; path=/base/x"))
        assert call(app)[1][1:] == [("Set-Cookie", "a=/base; Path=/; Secure"), ("Set-Cookie", "b=1; path=/x")]


def test_links_and_cookies_for_more_than_the_prefix_are_for_all_that_the_client_sees() -> None:
    cases = [
        ("Set-Cookie", "a=b; Path=/base; Secure", "a=b; Path=/; Secure"),
        ("Set-Cookie", "a=b; Path=/base/v2/", "a=b; Path=/"),
        ("Set-Cookie", "a=b; Path=/", "a=b; Path=/"),
        ("Set-Cookie", "a=b; Path=/bas", "a=b; Path=/bas"),
        ("Set-Cookie", "a=b; Path=/base/v20", "a=b; Path=/base/v20"),
        ("Set-Cookie", "a=b; Path=; Max-Age=1", "a=b; Path=; Max-Age=1"),
        ("Link", "</base/v2/p?2>; rel=next, <https://api.test/base/v2/p>", "</p?2>; rel=next, <https://api.test/p>"),
        ("Link", "<https://other.test/base/v2>; rel=next", "<https://other.test/base/v2>; rel=next"),
        ("Refresh", "5; URL='/base/v2/x'", "5; URL='/x'"),
        ("Refresh", "5, url=/base/v2/x", "5, url=/x"),
        ("Refresh", "0;/base/v2/x", "0;/x"),
        ("Content-Location", "/base/v2/x", "/x"),
        ("Content-Type", "/base/v2", "/base/v2"),
    ]
    with Recorder() as upstream, closing(Upstream(upstream.url + "/base/v2/")) as app:
        for name, value, expected in cases:
            upstream.answer = ok(b"", (name, value))
            assert (name, expected) in call(app, HTTP_HOST="api.test")[1], value


def test_the_name_that_a_trusted_proxy_gave_leads_back_too() -> None:
    with Recorder() as upstream, closing(Upstream(upstream.url + "/base", trusted_proxies=1)) as app:
        upstream.answer = ok(b"", ("Location", "https://shop.test/base/x"))
        answer = call(app, HTTP_HOST="gateway:35000", HTTP_X_FORWARDED_HOST="shop.test")
        assert dict(answer[1])["Location"] == "https://shop.test/x"


@pytest.mark.parametrize("is_upgrade", [False, True])
def test_an_interim_answer_has_nothing_of_the_hop_and_leads_back_too(is_upgrade: bool) -> None:
    hop = [("Connection", "x-hop"), ("X-Hop", "1"), ("Keep-Alive", "timeout=5"), ("Content-Length", "0")]
    resumable = response(
        b"", *hop, ("Location", "/base/up/1"), ("Link", "</a>"), status="104 Upload Resumption Supported"
    )
    final = ok(b"", ("Location", "/base/up/1"), ("Set-Cookie", "a=b; Path=/base"))
    upgrade = [("Connection", "close, Upgrade"), ("Upgrade", "websocket")] if is_upgrade else []
    with proxied(resumable + final, path="/base") as (_, port):
        told = exchange(port, request("GET /x", *upgrade))
    assert told.startswith(b"HTTP/1.1 104 Upload Resumption Supported\r\nLocation: /up/1\r\nLink: </a>\r\n\r\n")
    assert told.count(b"\r\nLocation: /up/1\r\n") == 2
    assert b"\r\nSet-Cookie: a=b; Path=/\r\n" in told


def test_no_field_leads_out_of_the_prefix() -> None:
    names = ("X_ORIGINAL_URL", "X_ORIGINAL_URI", "X_REWRITE_URL", "X_SCRIPT_NAME")
    named = {f"HTTP_{name}": "/x" for name in names}
    for path, kept in (("/base", set()), ("", {name.lower().replace("_", "-") for name in names})):
        with Recorder() as upstream, closing(Upstream(upstream.url + path)) as app:
            call(app, **named)
            assert {name for name in upstream.last.names if name.endswith(("-url", "-uri", "-script-name"))} == kept


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("http://api.test/b", "http://api.test/base/b"),
        ("/b?c", "/base/b?c"),
        ("http://api.test", "http://api.test/base/"),
        ("http://api.test/../b", None),
        ("/%2e%2e/b", None),
    ],
)
def test_a_destination_is_a_target_too(said: str, expected: str | None) -> None:
    with Recorder() as upstream, closing(Upstream(upstream.url + "/base")) as app:
        if expected is None:
            with pytest.raises(Problem, match="bad-request-target"):
                call(app, REQUEST_METHOD="MOVE", HTTP_DESTINATION=said)
        else:
            call(app, REQUEST_METHOD="MOVE", HTTP_DESTINATION=said)
            assert upstream.last.field("Destination") == expected


@pytest.mark.parametrize("target", ["http://evil.test/", "//evil.test/", "evil.test", "@evil.test/", "*", "/a#b"])
def test_a_target_never_chooses_the_host(target: str) -> None:
    with proxied() as (upstream, port):
        assert b" 400 " in exchange(port, request(f"GET {target}"))[:20]
        assert upstream.connections == 0


def test_an_absolute_target_of_the_own_host_goes_on_as_path() -> None:
    with proxied() as (upstream, port):
        exchange(port, request("GET http://api.test/x%2Fy?z"))
        assert upstream.last.target == "/x%2Fy?z"


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "M-SEARCH", "X.Y"]
)
def test_every_method_goes_on(method: str) -> None:
    with proxied() as (upstream, port):
        assert exchange(port, request(f"{method} /")).endswith(b"ok")
        assert upstream.last.method == method


@pytest.mark.parametrize(
    ("line", "fields"), [("GET /", [("Connection", "Upgrade"), ("Upgrade", "other")]), ("CONNECT /", [])]
)
def test_leaving_http_is_not_supported(line: str, fields: list[tuple[str, str]]) -> None:
    with proxied() as (upstream, port), Client(port, request(line, *fields)) as client:
        assert client.read_until(b"}").startswith(b"HTTP/1.1 501 ")
        assert upstream.connections == 0


def test_max_forwards_is_counted_down_for_those_who_ask_for_the_way() -> None:
    with proxied() as (upstream, port):
        cases = [("OPTIONS", "5", "4"), ("TRACE", "1", "0"), ("GET", "5", "5"), ("OPTIONS", "x", "x")]
        for method, value, expected in [*cases, ("OPTIONS", "9" * 5000, "9" * 5000)]:
            exchange(port, request(f"{method} /", ("Max-Forwards", value)))
            assert upstream.last.field("Max-Forwards") == expected


def test_max_forwards_zero_is_answered_here() -> None:
    with proxied() as (upstream, port):
        options = exchange(port, request("OPTIONS /", ("Max-Forwards", "0")))
        trace = exchange(port, request("TRACE /", ("Max-Forwards", "0")))
        assert options.startswith(b"HTTP/1.1 204 ")
        assert trace.startswith(b"HTTP/1.1 405 ")
        assert b"\r\nAllow: " in options
        assert b"\r\nAllow: " in trace
        assert upstream.connections == 0


# --- fields


def test_request_fields_are_the_clients_and_the_gateways() -> None:
    fields = [("X-Latin", "\xe9\xff"), ("X-Empty", ""), ("Cookie", "a=1; b=2"), ("Authorization", "Bearer x")]
    with proxied() as (upstream, port):
        exchange(port, request("GET /", *fields, ("X_Alias", "1"), ("Keep-Alive", "x"), ("TE", "trailers")))
        assert upstream.last.names == OWN | {name.lower() for name, _ in fields}
        assert {name: upstream.last.field(name) for name, _ in fields} == dict(fields)
        assert upstream.last.field("Host") == "api.test"
        assert upstream.last.field("X-Forwarded-For") == "127.0.0.1"


def test_a_connection_field_removes_only_what_is_the_clients() -> None:
    named = ("Connection", "close, authorization, x-token-claims, X-Forwarded-For, x-private, host")
    sent = [("Authorization", "Bearer x"), ("X-Token-Claims", "y"), ("X-Private", "z")]
    with proxied(own_fields=["X-Token-Claims"]) as (upstream, port):
        with Client(port, request("GET /", named, *sent)) as client:
            client.read_until(b"\r\n\r\nok")
        assert upstream.last.names == OWN | {"authorization", "x-token-claims"}


def test_host_may_be_the_upstreams() -> None:
    with proxied(preserve_host=False) as (upstream, port):
        exchange(port, request("GET /"))
        assert upstream.last.field("Host") == f"127.0.0.1:{upstream.port}"
        assert upstream.last.field("X-Forwarded-Host") == "api.test"


def overloaded() -> Context:
    about = Context()
    about.overloaded = True
    return about


def test_the_upstream_is_not_asked_for_who_has_become_overload() -> None:
    with Recorder() as upstream, closing(Upstream(upstream.url)) as app:
        status, _, _ = call(app, **{"gateway.context": overloaded()})
        assert (status[:3], upstream.requests) == ("503", [])


def test_a_loop_is_detected() -> None:
    """The upstream is the gateway itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with closing(Upstream(f"http://127.0.0.1:{port}")) as app:
            import waitress

            server = waitress.create_server(
                answering_problems(app), sockets=[listener], threads=2, asyncore_use_poll=True
            )
            thread = threading.Thread(target=server.run, daemon=True)
            thread.start()
            assert exchange(port, request("GET /")).startswith(b"HTTP/1.1 508 ")
            server.task_dispatcher.shutdown()
            server.trigger.pull_trigger(lambda: waitress.wasyncore.close_all(server._map))
            thread.join()


def test_response_fields_keep_order_repeats_spelling_and_bytes() -> None:
    fields = [
        ("set-cookie", "a=1; Path=/"),
        ("X-Latin", "\xe9"),
        ("Set-Cookie", "b=2"),
        ("ETag", '"x"'),
        ("WWW-Authenticate", "X y"),
    ]
    hop = [("Connection", "X-Hop"), ("X-Hop", "1"), ("Keep-Alive", "5")]
    with Recorder(ok(b"ok", *fields, *hop)) as upstream, closing(Upstream(upstream.url)) as app:
        assert call(app) == ("200 OK", [("Content-Length", "2"), *fields], b"ok")


def test_a_strange_status_line_goes_on_as_it_is() -> None:
    with (
        Recorder(
            [response(b"", ("Content-Length", "0"), status=status) for status in ("299 So \xe9", "999 ", "404")]
        ) as upstream,
        closing(Upstream(upstream.url)) as app,
    ):
        assert [call(app)[0] for _ in range(3)] == ["299 So \xe9", "999 ", "404 "]


# --- framing


def test_a_request_without_a_body_has_no_framing() -> None:
    with proxied() as (upstream, port):
        for method in ("GET", "HEAD", "DELETE", "OPTIONS"):
            exchange(port, request(f"{method} /"))
            assert upstream.last.names == OWN


@pytest.mark.parametrize("body", [b"", b"hello", b"x" * 300_000])
def test_a_request_with_a_body_has_one_framing(body: bytes) -> None:
    with proxied() as (upstream, port):
        exchange(port, request("POST /", ("Content-Length", str(len(body))), body=body))
        exchange(port, request("POST /", ("Transfer-Encoding", "chunked"), body=chunked(body) if body else chunked()))
        for got in upstream.requests:
            assert got.body == body
            (framing,) = got.names - OWN
            assert got.field(framing) == (str(len(body)) if framing == "content-length" else "chunked")
        assert upstream.requests[0].names == OWN | {"content-length"}


@pytest.mark.parametrize(("size", "named"), [(5, "content-length"), (300_000, "transfer-encoding")])
def test_a_body_of_unknown_length_goes_on_whole_where_it_is_small(size: int, named: str) -> None:
    """Some servers hand a chunked body over as it comes."""
    with Recorder() as upstream, closing(Upstream(upstream.url)) as app:
        environ = EnvironBuilder(method="POST", data=b"x" * size).get_environ()
        del environ["CONTENT_LENGTH"]
        call(app, **environ, HTTP_TRANSFER_ENCODING="chunked", **{"wsgi.input_terminated": True})
        assert upstream.last.body == b"x" * size
        assert upstream.last.names & {"content-length", "transfer-encoding"} == {named}


@pytest.mark.parametrize(
    "environ",
    [
        {"CONTENT_LENGTH": "-1"}, {"CONTENT_LENGTH": "+3"}, {"CONTENT_LENGTH": "1_0"}, {"CONTENT_LENGTH": "3, 3"},
        {"CONTENT_LENGTH": "\xb2"}, {"CONTENT_LENGTH": "9" * 5000}, {"HTTP_TRANSFER_ENCODING": "chunked"},
    ],
)  # fmt: skip
def test_a_body_without_an_end_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(Problem, match="invalid-request"):
        body_length(environ)


def test_a_server_answers_expect_itself_and_it_does_not_go_on() -> None:
    with proxied() as (upstream, port):
        head = request("POST /", ("Expect", "100-continue"), ("Content-Length", "2"))
        with Client(port, head) as client:
            client.read_until(b"100 Continue\r\n\r\n")
            client.sock.sendall(b"hi")
            assert client.read_all().endswith(b"ok")
        assert upstream.last.body == b"hi"
        assert "expect" not in upstream.last.names


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("GET", "304 Not Modified")])
def test_an_answer_without_a_body_keeps_its_length(method: str, status: str) -> None:
    with (
        Recorder(response(b"", ("Content-Length", "5"), status=status)) as upstream,
        closing(Upstream(upstream.url)) as app,
    ):
        for _ in range(2):
            assert call(app, REQUEST_METHOD=method, REMOTE_PORT="4711") == (status, [("Content-Length", "5")], b"")
        assert upstream.connections == 1


def test_204_has_no_length() -> None:
    with (
        Recorder(response(b"", ("Content-Length", "0"), status="204 None")) as upstream,
        closing(Upstream(upstream.url)) as app,
    ):
        assert call(app) == ("204 None", [], b"")


def test_chunked_answers_are_framed_anew_and_lose_their_trailers() -> None:
    whole = response(
        chunked(b"he", b"llo", trailers=b"X-T: 1\r\n"),
        ("Transfer-Encoding", "chunked"),
        ("Trailer", "X-T"),
        ("Content-Length", "3"),
    )
    with Recorder(whole) as upstream, closing(Upstream(upstream.url)) as app:
        assert call(app) == ("200 OK", [], b"hello")


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_upstreams_that_close_are_no_different(version: str) -> None:
    def script(talk: Talk) -> None:
        talk.send(response(b"hello", ("Connection", "close"), version=version))
        talk.close()

    with proxied(script) as (_, port):
        for _ in range(2):
            answer = exchange(port, request("GET /"))
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(chunked(b"hello"))


def test_both_checkers_of_wsgi_agree() -> None:
    from wsgiref.validate import validator

    with (
        Recorder(ok(b"hello", ("Content-Type", "text/plain"))) as upstream,
        closing(Upstream(upstream.url)) as app,
    ):
        client = WsgiClient(validator(LintMiddleware(app)))
        for method in ("GET", "POST"):
            answer = client.open("/", method=method, data=b"x" if method == "POST" else None)
            assert answer.data == b"hello"
            answer.close()


# --- nothing from outside


def test_one_users_cookies_never_reach_another() -> None:
    with proxied(ok(b"ok", ("Set-Cookie", "sid=alice"))) as (upstream, port):
        assert b"Set-Cookie: sid=alice\r\n" in exchange(port, request("GET /"))
        exchange(port, request("GET /"))
        assert "cookie" not in upstream.last.names


def test_redirects_are_the_clients_to_follow() -> None:
    with Recorder() as elsewhere:
        moved = ok(b"", ("Location", elsewhere.url + "/"), status="302 Found")
        with proxied(moved) as (upstream, port):
            assert exchange(port, request("POST /", body=b"x")).startswith(b"HTTP/1.1 302 Found\r\n")
            assert len(upstream.requests) == 1
        assert elsewhere.connections == 0


def test_content_codings_are_not_touched() -> None:
    with proxied(ok(b"\x1f\x8b not gzip", ("Content-Encoding", "gzip"))) as (upstream, port):
        answer = exchange(port, request("GET /", ("Accept-Encoding", "gzip")))
        assert answer.endswith(b"\r\n\r\n\x1f\x8b not gzip")
        assert b"Content-Encoding: gzip\r\n" in answer
        assert upstream.last.field("Accept-Encoding") == "gzip"


# --- streaming


def test_a_head_that_comes_quickly_in_parts_of_lines_is_no_silence() -> None:
    def script(talk: Talk) -> None:
        whole = ok(b"ok", ("X-Long", "a" * 100))
        for start in range(0, len(whole), 10):
            talk.send(whole[start : start + 10])
            time.sleep(0.0003)

    with proxied(script, timeout=(3, 9)) as (_, port):
        assert exchange(port, request("GET /")).startswith(b"HTTP/1.1 200")


def test_server_sent_events_arrive_as_they_are_sent() -> None:
    seen = threading.Semaphore(0)

    def script(talk: Talk) -> None:
        talk.send(response(b"", ("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")))
        for number in range(3):
            talk.send(b"9\r\ndata: %d\n\n\r\n" % number)
            assert seen.acquire(timeout=5)
        talk.send(b"0\r\n\r\n")

    with proxied(script) as (_, port), Client(port, request("GET /events")) as client:
        for number in range(3):
            client.read_until(b"data: %d\n\n" % number)
            seen.release()
        assert client.read_all().endswith(b"0\r\n\r\n")


def test_a_slow_reader_slows_the_upstream() -> None:
    sent = 0

    def script(talk: Talk) -> None:
        nonlocal sent
        talk.send(response(b"", ("Content-Length", str(100 << 20))))
        for _ in range(100):
            talk.send(b"x" * (1 << 20))
            sent += 1

    with proxied(script) as (_, port), Client(port, request("GET /")) as client:
        client.read_until(b"xxx")
        assert not until(lambda: sent > 50, 1)
        received = len(client.received)
        while data := client.sock.recv(1 << 20):
            received += len(data)
        assert received > 100 << 20


MEASURED = """
import resource, sys
from contextlib import closing
import waitress
from gateway.proxy.exchange import Upstream

app = Upstream(sys.argv[1])

def measured(environ, start_response):
    if environ["PATH_INFO"] == "/rss":
        body = str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]
    return app(environ, start_response)

server = waitress.create_server(measured, listen="127.0.0.1:0", threads=4, max_request_body_size=1 << 31)
print(server.effective_port, flush=True)
server.run()
"""


@pytest.mark.slow
def test_long_bodies_up_and_down_take_no_memory(tmp_path: Path) -> None:
    size, piece = 1 << 27, b"x" * (1 << 20)

    def script(talk: Talk) -> None:
        if talk.request.method == "PUT":
            talk.send(ok(str(talk.request.size).encode()))
            return
        talk.send(response(b"", ("Content-Length", str(size))))
        for _ in range(size // len(piece)):
            talk.send(piece)

    with Recorder(script) as upstream:
        command = [sys.executable, "-c", MEASURED, upstream.url]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "TMPDIR": str(tmp_path)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as server:
            assert server.stdout
            connection = http.client.HTTPConnection("127.0.0.1", int(server.stdout.readline()))
            try:
                before = peak_kibibytes(connection)
                connection.request("GET", "/down")
                answer, received = connection.getresponse(), 0
                while data := answer.read(1 << 20):
                    received += len(data)
                assert received == size
                connection.request(
                    "PUT", "/up", (piece for _ in range(size // len(piece))), {"Content-Length": str(size)}
                )
                assert connection.getresponse().read() == str(size).encode()
                assert peak_kibibytes(connection) - before < 16 << 10
            finally:
                connection.close()
                server.terminate()


def peak_kibibytes(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/rss")
    return int(connection.getresponse().read())


# --- failures


def code_of(answer: bytes) -> str:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    return body.decode().split('"urn:jwt-gateway:')[1].split('"')[0]


def refusal_of(upstream: Upstream) -> tuple[str, str]:
    status, _, body = call(upstream)
    return status, json.loads(body)["type"].removeprefix("urn:jwt-gateway:")


def test_an_upstream_that_is_not_there_is_502() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", "http://no-such-host.invalid", f"https://127.0.0.1:{port}"):
        with closing(Upstream(url)) as app:
            assert refusal_of(app) == ("502 Bad Gateway", "upstream-unreachable")


@pytest.mark.parametrize("leave", [Talk.close, Talk.reset])
def test_an_upstream_that_hangs_up_is_502(leave: Any) -> None:
    with proxied(leave) as (upstream, port):
        for method in ("GET", "POST"):
            assert code_of(exchange(port, request(f"{method} /"))) == "upstream-unreachable"
        assert [each.method for each in upstream.requests].count("POST") == 1


def test_an_upstream_that_does_not_answer_is_504() -> None:
    with proxied(lambda talk: talk.peer_left() and None, timeout=(3, 0.2)) as (_, port):
        answer = exchange(port, request("GET /"))
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert code_of(answer) == "upstream-timeout"


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        response(b"", ("X", "a\x01b"), ("Content-Length", "0")),
        response(b"", *[(f"X{number}", "x" * 1000) for number in range(1000)]),
        response(b"ok", ("Content-Length", "2"), ("Content-Length", "3")),
        response(b"", ("Content-Length", "0x2")),
        response(b"-2\r\nno\r\n0\r\n\r\n", ("Transfer-Encoding", "chunked")),
    ],
    ids=["nonsense", "control", "oversized", "two lengths", "no length", "no chunk"],
)
def test_a_malformed_answer_is_502_and_its_connection_is_not_used_again(answer: bytes) -> None:
    with proxied([answer, ok()]) as (upstream, port):
        assert code_of(exchange(port, request("GET /"))) == "upstream-protocol"
        assert exchange(port, request("GET /")).endswith(b"ok")
        assert upstream.connections == 2


@pytest.mark.parametrize("leave", [Talk.close, Talk.reset])
@pytest.mark.parametrize(
    "part",
    [response(b"hello", ("Content-Length", "9")), response(b"5\r\nhello\r\n", ("Transfer-Encoding", "chunked"))],
    ids=["length", "chunked"],
)
def test_an_answer_that_is_cut_off_is_cut_off_for_the_client(
    part: bytes, leave: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def script(talk: Talk) -> None:
        talk.send(part)
        time.sleep(0.05)  # a reset would overtake the bytes
        leave(talk)

    with proxied(script) as (_, port), closing(http.client.HTTPConnection("127.0.0.1", port)) as client:
        client.request("GET", "/")
        with pytest.raises(http.client.IncompleteRead):
            client.getresponse().read()


def test_a_silence_within_the_body_cuts_the_client_off(caplog: pytest.LogCaptureFixture) -> None:
    def script(talk: Talk) -> None:
        talk.send(response(b"hello", ("Content-Length", "9")))
        talk.peer_left()

    with (
        proxied(script, timeout=(3, 0.2)) as (_, port),
        closing(http.client.HTTPConnection("127.0.0.1", port)) as client,
    ):
        client.request("GET", "/")
        with pytest.raises(http.client.IncompleteRead):
            client.getresponse().read()


def test_a_client_that_leaves_during_silence_frees_the_upstreams_connection(caplog: pytest.LogCaptureFixture) -> None:
    left: list[bool] = []

    def script(talk: Talk) -> None:
        if talk.request.target == "/events":
            talk.send(response(b"5\r\nhello\r\n", ("Transfer-Encoding", "chunked")))
        left.append(talk.peer_left())

    with proxied(script) as (upstream, port):
        for target in ("/events", "/silent"):
            with Client(port, request(f"GET {target}")) as client:
                if target == "/events":
                    client.read_until(b"hello")
                assert until(lambda: upstream.requests)
            assert until(lambda: left), target
            assert left.pop()
            upstream.requests.clear()


def test_a_client_that_leaves_while_it_is_sent_to_frees_the_upstreams_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    left: list[str] = []

    def script(talk: Talk) -> None:
        try:
            talk.send(response(b"", ("Content-Length", str(1 << 30))))
            while True:
                talk.send(b"x" * (1 << 20))
        except OSError as error:
            left.append(type(error).__name__)

    with proxied(script) as (_, port):
        with Client(port, request("GET /")) as client:
            client.read_until(b"xxx")
        assert until(lambda: left)


def test_an_https_upstream_is_verified(tmp_path: Path) -> None:
    from certificates import Certificates

    certificates = Certificates(tmp_path)
    import ssl

    with Recorder(tls=certificates.server(ssl.CERT_REQUIRED)) as upstream:
        with closing(Upstream(upstream.url, ca_file=certificates.ca, cert=certificates.client)) as app:
            assert call(app)[2] == b"ok"
        with closing(Upstream(upstream.url, cert=certificates.client)) as app:
            assert refusal_of(app) == ("502 Bad Gateway", "upstream-unreachable")
