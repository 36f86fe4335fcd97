"""The transports under `Upstream`, each against a scripted upstream: libcurl's, and requests' own where it can."""

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from certificates import Certificates
from recorder import Recorder, Talk, chunked, ok, response, until

from gateway.proxy import transport
from gateway.proxy.adapter import ClientLeft, MalformedAnswer, PlainAdapter, UpstreamRequest, split_url
from gateway.proxy.transport import CurlAdapter, default_adapter

CUT_OFF = (requests.exceptions.ConnectionError, urllib3.exceptions.ProtocolError)
SILENT = (requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError)

# What requests' own transport does otherwise, by the test that shows what libcurl's does.
PLAIN_CANNOT = {
    "test_odd_targets_go_out_as_they_are": "urllib3 spells them anew",
    "test_field_lines_keep_their_order": "urllib3 puts repeats together",
    "test_interim_answers_are_skipped": "http.client takes 103 for the final answer",
    "test_many_fields_are_no_fault": "http.client takes 100 at most",
    "test_a_head_that_ends_early_is_malformed": "http.client takes what it has for the whole",
    "test_a_malformed_head_is_refused": "http.client repairs what it reads",
    "test_a_client_that_left_ends_the_wait": "urllib3 waits until its time-out",
    "test_a_stale_connection_costs_an_idempotent_request_nothing": "urllib3 gives up",
    "test_a_head_request_may_have_a_body": "urllib3 keeps the connection: the recorder's answer has no end",
    "test_a_body_that_ends_early_is_the_clients_fault": "http.client sends what there is, and waits",
    "test_fields_of_the_request_are_all_and_only_those_given": "http.client names a length for every POST",
}


@pytest.fixture(params=[CurlAdapter, PlainAdapter])
def adapter(request: pytest.FixtureRequest) -> Iterator[Any]:
    name = request.node.originalname
    if request.param is PlainAdapter and name in PLAIN_CANNOT:
        pytest.skip(PLAIN_CANNOT[name])
    with closing(request.param()) as made:
        yield made


@pytest.fixture
def curl() -> Iterator[CurlAdapter]:
    with closing(CurlAdapter()) as made:
        yield made


def send(
    adapter: Any,
    url: str,
    method: str = "GET",
    body: bytes | None = None,
    *,
    fields: dict[str, str] | None = None,
    timeout: tuple[float, float] = (5, 5),
    client_left: Callable[[], bool] | None = None,
    **options: Any,
) -> requests.Response:
    fields = {"Host": "api.test", **(fields or {})}
    if body is not None and "Transfer-Encoding" not in fields:
        fields["Content-Length"] = str(len(body))
    fields.pop("Transfer-Encoding", None)
    request = UpstreamRequest(method, url, fields, None if body is None else BytesIO(body), client_left)
    return adapter.send(request, stream=True, timeout=timeout, **options)


def read(answer: requests.Response) -> bytes:
    body = b""
    with closing(answer.raw):
        while piece := answer.raw.read1(65536, decode_content=False):
            body += piece
    return body


def get(adapter: Any, url: str, method: str = "GET", body: bytes | None = None, **options: Any) -> bytes:
    return read(send(adapter, url, method, body, **options))


def test_an_answer_has_status_reason_fields_and_bytes(adapter: Any) -> None:
    fields = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Name", "\xe9"), ("Content-Length", "2")]
    with Recorder(response(b"ok", *fields, status="299 Fine so far")) as upstream:
        answer = send(adapter, upstream.url + "/")
        assert (answer.status_code, answer.reason) == (299, "Fine so far")
        assert list(answer.raw.headers.items()) == fields
        assert answer.headers["set-cookie"]
        assert read(answer) == b"ok"
        assert answer.raw.read1(10, decode_content=False) == b""


@pytest.mark.parametrize(
    "target",
    ["/", "/a%2Fb", "/%2E%2E/x", "/a/../b/./c", "/a//b", "/;p=1;q", "/x?", "/x?a=/?&b=%20+"],
)
def test_the_request_target_goes_out_as_it_is(adapter: Any, target: str) -> None:
    with Recorder() as upstream:
        get(adapter, upstream.url + target, "OPTIONS")
        assert upstream.last.target == target


@pytest.mark.parametrize(
    "target", ["/a%2fb", "/%2e%2e/x", "/%zz%", "/x?a=[1]&b={2}|^`", "/\xc3\xa9\xff", "*", '/"<>\\']
)
def test_odd_targets_go_out_as_they_are(adapter: Any, target: str) -> None:
    with Recorder() as upstream:
        get(adapter, upstream.url + target, "OPTIONS")
        assert upstream.last.target == target


def test_field_lines_keep_their_order(adapter: Any) -> None:
    fields = [("b", "1"), ("A", "2"), ("B", "3"), ("Content-Length", "0")]
    with Recorder(response(b"", *fields)) as upstream:
        assert list(send(adapter, upstream.url + "/").raw.headers) == fields


def test_a_url_is_an_origin_and_a_target() -> None:
    assert split_url("http://a:1/b//c?d=/e") == ("http://a:1", "/b//c?d=/e")
    assert split_url("https://a*") == ("https://a", "*")
    assert split_url("http://a") == ("http://a", "/")


def test_fields_of_the_request_are_all_and_only_those_given(adapter: Any) -> None:
    fields = {"X-Latin": "\xe9\xff", "X-Empty": "", "Cookie": "a=1; b=2", "Accept-Encoding": "br"}
    with Recorder() as upstream:
        for method in ("GET", "POST", "PROPFIND"):
            get(adapter, upstream.url + "/", method, fields=fields)
            assert dict(upstream.last.fields) == {"Host": "api.test", **fields}
        get(adapter, upstream.url + "/", "PUT", b"x" * 2_000_000)
        assert upstream.last.names == {"host", "content-length"}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PROPFIND", "M-SEARCH", "get"])
def test_every_method_may_have_a_body_of_known_length(adapter: Any, method: str) -> None:
    with Recorder() as upstream:
        assert get(adapter, upstream.url + "/", method, b"12345") == b"ok"
        assert (upstream.last.method, upstream.last.body) == (method, b"12345")
        assert upstream.last.field("Content-Length") == "5"
        assert "transfer-encoding" not in upstream.last.names


def test_a_body_of_unknown_length_is_chunked(adapter: Any) -> None:
    with Recorder() as upstream:
        get(adapter, upstream.url + "/", "POST", b"x" * 200_000, fields={"Transfer-Encoding": "chunked"})
        assert upstream.last.body == b"x" * 200_000
        assert upstream.last.field("Transfer-Encoding") == "chunked"
        assert upstream.last.names == {"host", "transfer-encoding"}


def test_a_head_request_may_have_a_body(adapter: Any) -> None:
    with Recorder(response(b"", ("Content-Length", "7"))) as upstream:
        assert get(adapter, upstream.url + "/", "HEAD", b"abc") == b""
        assert upstream.last.body == b"abc"
        assert get(adapter, upstream.url + "/", "HEAD") == b""


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")]
)
def test_an_answer_without_a_body_leaves_the_connection_usable(adapter: Any, method: str, status: str) -> None:
    with Recorder([response(b"", ("Content-Length", "7"), status=status), ok()]) as upstream:
        answer = send(adapter, upstream.url + "/", method)
        assert ("Content-Length", "7") in answer.raw.headers.items()
        assert read(answer) == b""
        assert get(adapter, upstream.url + "/") == b"ok"
        assert upstream.connections == 1


@pytest.mark.parametrize(
    "whole",
    [
        response(chunked(b"he", b"llo"), ("Transfer-Encoding", "chunked")),
        response(
            chunked(b"hello", trailers=b"X-Trailer: 1\r\n"), ("Transfer-Encoding", "chunked"), ("Trailer", "X-Trailer")
        ),
        response(b"hello", ("Connection", "close")),
        response(b"hello", version="HTTP/1.0"),
        response(b"hello", ("Content-Length", "5"), ("Connection", "close")),
        response(b"hello", ("Content-Length", "5"), ("Connection", "keep-alive"), version="HTTP/1.0"),
    ],
    ids=["chunked", "trailers", "until close", "HTTP/1.0", "closing", "HTTP/1.0 kept"],
)
def test_an_answer_ends_where_its_framing_says(adapter: Any, whole: bytes) -> None:
    def script(talk: Talk) -> None:
        talk.send(whole)
        if b"Content-Length" not in whole and b"chunked" not in whole:
            talk.close()

    with Recorder(script) as upstream:
        for _ in range(2):
            answer = send(adapter, upstream.url + "/")
            assert read(answer) == b"hello"
            assert "X-Trailer" not in dict(answer.raw.headers.items())


def test_content_codings_are_not_touched(adapter: Any) -> None:
    with Recorder(ok(b"\x1f\x8bnot really gzip", ("Content-Encoding", "gzip"))) as upstream:
        assert get(adapter, upstream.url + "/") == b"\x1f\x8bnot really gzip"


def test_interim_answers_are_skipped(adapter: Any) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"

    def script(talk: Talk) -> None:
        talk.send(interim)
        talk.send(ok())

    with Recorder(script) as upstream:
        for _ in range(3):
            answer = send(adapter, upstream.url + "/")
            assert list(answer.raw.headers) == [("Content-Length", "2")]
            assert read(answer) == b"ok"


def test_many_fields_are_no_fault(adapter: Any) -> None:
    fields = [(f"X-{number}", "x") for number in range(500)]
    with Recorder(ok(b"ok", *fields)) as upstream:
        assert list(send(adapter, upstream.url + "/").raw.headers)[1:] == fields


def test_connections_are_kept(adapter: Any) -> None:
    with Recorder() as upstream:
        assert [get(adapter, upstream.url + "/") for _ in range(5)] == [b"ok"] * 5
        assert upstream.connections == 1


def test_of_many_connections_some_are_kept(curl: CurlAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "KEPT", 2)
    with Recorder() as upstream:
        for opened in (5, 8):  # two of the first five are used again
            answers = [send(curl, upstream.url + "/") for _ in range(5)]
            assert [answer.raw.read() + answer.raw.read() for answer in answers] == [b"ok"] * 5
            assert upstream.connections == opened


def test_an_answer_given_up_closes_its_connection_at_once(adapter: Any) -> None:
    left: list[bool] = []

    def script(talk: Talk) -> None:
        if talk.connection == 1:
            talk.send(response(b"1\r\nx\r\n", ("Transfer-Encoding", "chunked")))
            left.append(talk.peer_left())
        else:
            talk.send(ok())

    with Recorder(script) as upstream:
        answer = send(adapter, upstream.url + "/")
        assert answer.raw.read1(10, decode_content=False) == b"x"
        answer.raw.close()
        answer.raw.close()
        assert until(lambda: left)
        assert left == [True]
        assert get(adapter, upstream.url + "/") == b"ok"


def test_bytes_are_there_as_soon_as_they_are_sent(adapter: Any) -> None:
    """Server-sent events: the next one is only sent once the one before has been read."""
    was_read = threading.Semaphore(0)

    def script(talk: Talk) -> None:
        talk.send(response(b"", ("Content-Type", "text/event-stream")))
        for number in range(3):
            assert was_read.acquire(timeout=5)
            talk.send(b"data: %d\n\n" % number)
        talk.close()

    with Recorder(script) as upstream:
        answer = send(adapter, upstream.url + "/")
        for number in range(3):
            was_read.release()
            assert answer.raw.read1(65536, decode_content=False) == b"data: %d\n\n" % number
        assert read(answer) == b""


# --- what goes wrong before the head is there


def test_nobody_listening_is_a_connection_error(adapter: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(requests.exceptions.ConnectionError):
        send(adapter, f"http://127.0.0.1:{port}/")


def test_a_name_that_does_not_resolve_is_a_connection_error(adapter: Any) -> None:
    with pytest.raises(requests.exceptions.ConnectionError):
        send(adapter, "http://no-such-host.invalid/")


@pytest.mark.parametrize("leave", [Talk.close, Talk.reset])
def test_an_upstream_that_hangs_up_is_a_connection_error(adapter: Any, leave: Callable[[Talk], None]) -> None:
    with Recorder(leave) as upstream:
        for method in ("GET", "POST"):
            with pytest.raises(requests.exceptions.ConnectionError) as caught:
                send(adapter, upstream.url + "/", method)
            assert not isinstance(caught.value, MalformedAnswer | requests.exceptions.Timeout)


def test_connecting_has_a_time_limit(adapter: Any) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:  # nobody accepts: the queue is full, and the kernel answers no more
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        with pytest.raises(requests.exceptions.ConnectTimeout):
            send(adapter, f"http://127.0.0.1:{port}/", timeout=(0.2, 5))
        for sock in waiting:
            sock.close()


def test_silence_before_the_head_has_a_time_limit(adapter: Any) -> None:
    with Recorder(lambda talk: talk.peer_left() and None) as upstream, pytest.raises(requests.exceptions.ReadTimeout):
        send(adapter, upstream.url + "/", timeout=(5, 0.2))


def test_silence_within_the_body_has_a_time_limit(adapter: Any) -> None:
    def script(talk: Talk) -> None:
        talk.send(response(b"x", ("Content-Length", "9")))
        talk.peer_left()

    with Recorder(script) as upstream:
        answer = send(adapter, upstream.url + "/", timeout=(5, 0.2))
        with pytest.raises(SILENT):
            read(answer)


def test_time_in_which_nobody_reads_is_no_silence(adapter: Any) -> None:
    with Recorder(ok(b"x" * 8_000_000)) as upstream:
        answer = send(adapter, upstream.url + "/", timeout=(5, 0.4))
        answer.raw.read1(10, decode_content=False)
        time.sleep(0.6)
        assert len(read(answer)) > 7_000_000


def test_a_slow_trickle_is_no_silence(adapter: Any) -> None:
    def script(talk: Talk) -> None:
        for byte in ok(b"ok"):
            talk.send(bytes([byte]))
            time.sleep(0.01)

    with Recorder(script) as upstream:
        assert get(adapter, upstream.url + "/", timeout=(5, 0.2)) == b"ok"


@pytest.mark.parametrize(
    "answer",
    [
        b"hello\n",
        b"\x16\x03\x01\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        response(b"", ("A", "x\x01y"), ("Content-Length", "0")),
        response(b"ok", ("Content-Length", "2"), ("Content-Length", "3")),
        response(chunked(b"ok"), ("Transfer-Encoding", "gzip, chunked")),
        response(chunked(b"ok"), ("Transfer-Encoding", "chunked, gzip")),
        response(b"", *((f"A{number}", "x" * 1000) for number in range(1000))),
        response(b"", ("A", "x" * 1_000_000)),
    ],
    ids=lambda answer: repr(answer[:60]),
)
def test_what_is_not_http_is_malformed(adapter: Any, answer: bytes) -> None:
    def script(talk: Talk) -> None:
        talk.send(answer)
        talk.close()

    with Recorder(script) as upstream, pytest.raises(MalformedAnswer):
        send(adapter, upstream.url + "/")


@pytest.mark.parametrize(
    "line",
    [
        b"A: x\0y",
        b"A: x\ry",
        b"A: x\ry\nB: z",  # as many CRs and LFs as lines
        b"A b: x",
        b"A : x",
        b": x",
        b"A",
        b"\xe9: x",
        b"Content-Length: -2",
        b"Content-Length: 0x2",
    ],
)
def test_a_malformed_head_is_refused(adapter: Any, line: bytes) -> None:
    with Recorder(b"HTTP/1.1 200 OK\r\n" + line + b"\r\n\r\n") as upstream, pytest.raises(MalformedAnswer):
        send(adapter, upstream.url + "/")


def test_a_head_that_ends_early_is_malformed(adapter: Any) -> None:
    def script(talk: Talk) -> None:
        talk.send(b"HTTP/1.1 200 OK\r\nA: b\r\n")
        talk.close()

    with Recorder(script) as upstream, pytest.raises(MalformedAnswer):
        send(adapter, upstream.url + "/")


# --- what goes wrong later


@pytest.mark.parametrize("leave", [Talk.close, Talk.reset])
@pytest.mark.parametrize(
    "part",
    [
        response(b"hello", ("Content-Length", "9")),
        response(b"5\r\nhello\r\n", ("Transfer-Encoding", "chunked")),
        response(b"9\r\nhello", ("Transfer-Encoding", "chunked")),
        response(b"5\r\nhello\r\nzz\r\n", ("Transfer-Encoding", "chunked")),
    ],
    ids=["length", "no last chunk", "within a chunk", "bad chunk"],
)
def test_an_answer_that_is_cut_off_raises(adapter: Any, part: bytes, leave: Callable[[Talk], None]) -> None:
    def script(talk: Talk) -> None:
        talk.send(part)
        time.sleep(0.05)  # a reset would overtake the bytes
        leave(talk)

    with Recorder(script) as upstream:
        answer = send(adapter, upstream.url + "/")
        assert answer.raw.read1(65536, decode_content=False) == b"hello"
        with pytest.raises(CUT_OFF):
            read(answer)


def test_a_client_that_left_ends_the_wait(adapter: Any) -> None:
    left: list[bool] = []

    def script(talk: Talk) -> None:
        left.append(talk.peer_left())

    with Recorder(script) as upstream:
        with pytest.raises(ClientLeft):
            send(adapter, upstream.url + "/", timeout=(5, 60), client_left=lambda: True)
        assert until(lambda: left)
        assert left == [True]


def test_what_reading_the_clients_body_raises_is_raised(adapter: Any) -> None:
    class Broken:
        def read(self, size: int = -1) -> bytes:
            raise KeyError("the client's fault")

    with Recorder() as upstream, pytest.raises(KeyError):
        adapter.send(UpstreamRequest("POST", upstream.url + "/", {"Content-Length": "5"}, Broken()), timeout=(5, 5))


def test_a_body_that_ends_early_is_the_clients_fault(adapter: Any) -> None:
    request_fields = {"Content-Length": "9"}
    with Recorder() as upstream:
        with pytest.raises(ClientLeft):
            adapter.send(UpstreamRequest("POST", upstream.url + "/", request_fields, BytesIO(b"abc")), timeout=(5, 5))
        assert not any(request.whole for request in upstream.requests)


def test_an_early_answer_ends_the_upload(adapter: Any) -> None:
    """The upstream may refuse a body before it has read it."""

    def script(talk: Talk) -> None:
        talk.send(ok(b"no", ("Connection", "close"), status="413 Content Too Large"))
        talk.peer_left()

    with Recorder(script, read_bodies=False) as upstream:
        answer = send(adapter, upstream.url + "/", "PUT", b"x" * 50_000_000)
        assert answer.status_code == 413
        assert read(answer) == b"no"


# --- kept connections that are dead


def hang_up_on_the_second(talk: Talk) -> None:
    """Answer the first request of each connection, and drop the second without an answer."""
    talk.send(ok())
    if talk.read_head():
        talk.reset()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "PUT", "TRACE"])
def test_a_stale_connection_costs_an_idempotent_request_nothing(adapter: Any, method: str) -> None:
    with Recorder(hang_up_on_the_second) as upstream:
        get(adapter, upstream.url + "/")
        assert send(adapter, upstream.url + "/", method).status_code == 200


@pytest.mark.parametrize(
    ("method", "body"), [("POST", None), ("POST", b"x"), ("PATCH", b"x"), ("PUT", b"x"), ("LOCK", None)]
)
def test_what_must_not_be_sent_twice_gets_a_connection_of_its_own(
    curl: CurlAdapter, method: str, body: bytes | None
) -> None:
    seen: list[str] = []

    def script(talk: Talk) -> None:
        seen.append(talk.request.method)
        if talk.request.method == method:
            talk.reset()
        else:
            talk.send(ok())

    with Recorder(script) as upstream:
        get(curl, upstream.url + "/")
        with pytest.raises(requests.exceptions.ConnectionError):
            send(curl, upstream.url + "/", method, body)
        time.sleep(0.1)
        assert seen == ["GET", method]
        assert upstream.connections == 2


def test_a_connection_left_over_is_used_by_the_next(curl: CurlAdapter) -> None:
    with Recorder() as upstream:
        for _ in range(5):
            get(curl, upstream.url + "/", "POST", b"x")
        get(curl, upstream.url + "/")
        assert [request.connection for request in upstream.requests] == [1, 2, 3, 4, 5, 5]


# --- nothing from outside


def test_neither_proxies_nor_netrc_of_the_environment_are_used(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password secret\n")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with Recorder() as upstream:
        assert get(adapter, upstream.url + "/") == b"ok"
        assert "authorization" not in upstream.last.names


def test_neither_cookies_nor_redirects_are_followed(adapter: Any) -> None:
    with Recorder(ok(b"", ("Set-Cookie", "sid=alice"), ("Location", "/b"), status="302 Found")) as upstream:
        for _ in range(2):
            assert send(adapter, upstream.url + "/").status_code == 302
        assert len(upstream.requests) == 2
        assert "cookie" not in upstream.last.names


# --- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_an_https_upstream_is_verified_against_an_own_ca(adapter: Any, certificates: Certificates) -> None:
    with Recorder(tls=certificates.server()) as upstream:
        assert get(adapter, upstream.url + "/", verify=certificates.ca) == b"ok"


@pytest.mark.parametrize("verify", [True, "other"])
def test_an_https_upstream_that_does_not_verify_is_not_asked(
    adapter: Any, certificates: Certificates, verify: bool | str, tmp_path: Path
) -> None:
    if verify == "other":
        verify = Certificates(tmp_path).ca
    with Recorder(tls=certificates.server()) as upstream:
        with pytest.raises(requests.exceptions.ConnectionError):
            send(adapter, upstream.url + "/", verify=verify)
        assert upstream.requests == []


def test_a_certificate_for_another_name_does_not_verify(adapter: Any, certificates: Certificates) -> None:
    with Recorder(tls=certificates.server()) as upstream, pytest.raises(requests.exceptions.ConnectionError):
        send(adapter, upstream.url.replace("127.0.0.1", "localhost") + "/", verify=certificates.ca)


def test_a_client_certificate_is_shown(adapter: Any, certificates: Certificates) -> None:
    with Recorder(tls=certificates.server(ssl.CERT_REQUIRED)) as upstream:
        assert get(adapter, upstream.url + "/", verify=certificates.ca, cert=certificates.client) == b"ok"
        with pytest.raises(requests.exceptions.ConnectionError):
            send(adapter, upstream.url + "/", verify=certificates.ca)


# --- threads, forks, descriptors


def test_threads_share_an_adapter(adapter: Any) -> None:
    with Recorder(lambda talk: talk.send(ok(talk.request.target.encode()))) as upstream:
        wrong: list[bytes] = []

        def work(number: int) -> None:
            for turn in range(20):
                target = f"/{number}/{turn}"
                body = get(adapter, upstream.url + target)
                if body != target.encode():
                    wrong.append(body)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert len(upstream.requests) == 160
        assert upstream.connections <= 80  # urllib3 keeps ten at most


def test_a_forked_child_leaves_its_parents_connections_alone(curl: CurlAdapter) -> None:
    with Recorder() as upstream:
        get(curl, upstream.url + "/")
        child = os.fork()
        if child == 0:
            os._exit(0 if get(curl, upstream.url + "/") == b"ok" else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert get(curl, upstream.url + "/") == b"ok"
        assert [request.connection for request in upstream.requests] == [1, 2, 1]


def test_descriptors_beyond_a_thousand_are_no_limit(adapter: Any) -> None:
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        with Recorder() as upstream:
            assert get(adapter, upstream.url + "/") == b"ok"
    finally:
        for descriptor in opened:
            os.close(descriptor)


def test_without_pycurl_requests_own_transport_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(default_adapter(), CurlAdapter)
    monkeypatch.setattr(transport, "HAS_CURL", False)
    assert isinstance(default_adapter(), PlainAdapter)
